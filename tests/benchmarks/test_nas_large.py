"""Found networks on a larger log, in seconds: what is compared, what the test rows say, and that it goes on."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="pip install 'trimtab[nas]'")

from benchmarks import nas_large
from benchmarks._nas_data import bench
from benchmarks._nas_large import Found, at_rates_found, found_in
from benchmarks._nas_quality import Level, Quality
from benchmarks._nas_runs import Candidate, Training, run_of, seeds_of
from benchmarks._nas_scale import SHORT
from benchmarks._nas_test_rows import Line, by_request
from nas.baselines import Baseline, Name
from nas.batches import probabilities
from nas.compare import Gap
from nas.metrics import row_kl
from nas.space import SMALL, drawn

NONE = Gap(0.0, 0.0, 0.0)
TINY = msgspec.structs.replace(SHORT, rates=(0.004, 0.008), recipe=msgspec.structs.replace(SHORT.recipe, batch_size=64))


def baseline(name: Name, width: int, loss: float) -> Candidate:
    return Candidate(f"{name}-{width}", Baseline(name=name, width=width, embedding=4), 0.004, 1.0, (loss,))


PICK = Candidate("pick", drawn(SMALL, np.random.default_rng(0)), 0.008, 1.0, (0.1, 0.2))
LEVEL = Level(1.0, 1.0, 0, "pick", 1.0, "dnn-16", 1.0, NONE, NONE)
CANDIDATES = [
    baseline("dnn", 16, 0.3), baseline("dnn", 8, 0.4), baseline("dcnv2", 16, 0.35), baseline("ple", 16, 0.1), PICK,
]  # fmt: skip
FOUND = Found(TINY, Quality(CANDIDATES, [LEVEL, LEVEL], [], "ple-16", [], [], [], None))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `nas` might have finished."""
    folder = tmp_path_factory.mktemp("found")
    (folder / "results.json").write_bytes(msgspec.json.encode(FOUND))
    return folder


def test_what_is_compared_are_picks_and_each_kind_of_baseline_at_its_best_width(found: Path) -> None:
    tasks = at_rates_found(found_in(found)).values()
    assert [(one.name, one.rate) for one in tasks] == [
        (name, rate) for name in ("pick", "dnn-16", "dcnv2-16") for rate in (0.004, 0.008)
    ]
    assert (seeds_of(3_350_000, 3), seeds_of(456_000, 3)) == (1, 3)


def test_a_mean_over_requests_is_the_mean_over_rows() -> None:
    rows = np.array([[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]])
    told = by_request(rows, np.array([7, 3, 7], np.uint64))
    assert told.tolist() == pytest.approx(np.array([[4 / 3, 40 / 3], [14 / 3, 140 / 3]]))
    assert told.mean(0) == pytest.approx(rows.mean(0))


def test_a_second_call_says_the_same_and_kl_is_over_all_candidates(
    found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = msgspec.structs.replace(TINY, hours=2, requests_per_hour=600.0)
    for name, value in (("LONG", log), ("ROWS", 640)):
        monkeypatch.setattr(nas_large, name, value)
    arguments = ["--found", str(found), "--out", str(tmp_path), "--json"]
    assert nas_large.main([*arguments, "--minutes", "0"]) == 3
    assert nas_large.main(arguments) == 0
    first = msgspec.json.decode(capsys.readouterr().out, type=nas_large.Results)
    assert nas_large.main([*arguments, "--minutes", "0"]) == 0
    again = msgspec.json.decode(capsys.readouterr().out, type=nas_large.Results)
    assert (again.large, again.rows, again.data) == (first.large, first.rows, first.data)
    lines = {line.name: line for line in first.large.lines}
    assert {name: len(line.losses) for name, line in lines.items() if name in ("pick", first.large.best)} == {
        "pick": 2, first.large.best: 2,
    }  # fmt: skip
    assert all(head.auc is None for line in lines.values() for head in line.heads if head.positives < 1000)
    _agrees(lines["pick"], tmp_path, first)
    assert nas_large.main(arguments[:-1]) == 0
    assert f"best baseline by validation: {first.large.best}" in capsys.readouterr().out


def _agrees(line: Line, folder: Path, results: nas_large.Results) -> None:
    context = bench(results.scale, folder)
    test, divergences = context.parts.test, []
    for seed in range(2):
        run = run_of(context, Training("pick", PICK.architecture, line.rate, seed))
        divergences.append(row_kl(np.asarray(test.truth, np.float64), probabilities(run.model, test.features).numpy()))
    assert len(test) == results.candidates > results.rows[2]
    assert line.kl == pytest.approx(np.mean(divergences))
    gap = next(one for one in results.large.gaps if (one.name, one.baseline) == ("pick", results.large.best))
    other = next(one for one in results.large.lines if one.name == results.large.best)
    assert gap.kl.mean == pytest.approx(line.kl - other.kl)
    assert gap.captured["power"].mean == pytest.approx(line.captured["power"] - other.captured["power"])


def test_a_folder_without_a_finished_measurement_is_refused(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nas_large.main(["--found", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "a folder that `python -m benchmarks nas` finished" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("{}")
    assert nas_large.main(["--found", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "not of this version" in capsys.readouterr().err
    assert nas_large.main(["--found", str(found), "--out", str(found)]) == 2
    assert "holds files but no scale.json" in capsys.readouterr().err
