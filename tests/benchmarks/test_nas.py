"""The measurement of `nas` in seconds: its parts measure what they say, and it goes on where it stopped."""

from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from pyarrow import parquet
from rich.console import Console
from scipy.stats import kendalltau

pytest.importorskip("torch", reason="pip install 'trimtab[nas]'")

from benchmarks import _nas_trees, nas
from benchmarks._nas_data import LOG, Bench, bench, person_of, prepared
from benchmarks._nas_quality import _picks, baselines
from benchmarks._nas_ranking import kendall, ranking, rankings
from benchmarks._nas_runs import Candidate
from benchmarks._nas_scale import MIDDLE, SHORT, AnotherScale, claim
from benchmarks._nas_stage import OutOfTime, Stage, workers
from benchmarks.nas import Results, main
from nas.baselines import NAMES, Baseline
from nas.batches import training
from nas.rows import Rows
from nas.space import SMALL, drawn
from nas.splits import hashed

TINY = msgspec.structs.replace(
    SHORT, hours=2, requests_per_hour=900.0, rows=1000, supernet_rows=2000, nets=4, strategies=("single-any",),
    adapt_rows=20, valid_rows=200,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the simulated log, prepared."""
    found = tmp_path_factory.mktemp("nas")
    prepared(found, TINY.hours, TINY.requests_per_hour, TINY.valid)
    return found


def stage(folder: Path, minutes: float = 5.0) -> Stage[Bench]:
    return Stage(bench(TINY, folder), folder, minutes, Console(quiet=True), None)


def test_the_log_is_split_by_time_and_what_chooses_a_network_was_shown(folder: Path) -> None:
    parts = bench(TINY, folder).parts
    assert [head.name for head in parts.encoding.schema.heads][:2] == ["click", "long_view"]
    assert np.asarray(parts.train.time).max() <= np.asarray(parts.valid.time).min()
    assert not np.isnan(parts.valid.labels).any()
    assert np.isnan(parts.test.labels).any()
    assert not np.isnan(parts.test.truth).any()


def test_trees_learn_from_the_rows_that_networks_see(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Rows] = []

    def learned(train: Rows, valid: Rows, test: Rows, head: int) -> tuple[_nas_trees.Floats, int, int]:
        seen.append(train)
        return np.full(len(test), 0.5), 15, 1

    monkeypatch.setattr(_nas_trees, "predicted", learned)
    context = bench(TINY, folder)
    train, size = context.parts.train, TINY.recipe.batch_size
    _nas_trees.trees(context, 0)
    batches = list(training(train, size, 0, 0, TINY.rows))
    theirs = np.concatenate([batch.features[0].numpy() for batch in batches])
    ours = np.asarray(seen[0].features.dense)
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    assert len(train) > 2 * len(ours)
    assert np.median(seen[0].time) == pytest.approx(np.median(train.time), abs=0.1 * np.ptp(train.time))


def test_the_person_of_a_request_is_known(folder: Path) -> None:
    context = bench(TINY, folder)
    log = parquet.read_table(folder / LOG, columns=["request", "unit"])
    units = dict(zip(hashed(log["request"]).tolist(), log["unit"].to_pylist(), strict=True))
    request = np.unique(context.parts.test.request)
    person = person_of(context, request)
    names = np.unique(log["unit"].to_pylist())
    assert names[person].tolist() == [units[one] for one in request.tolist()]
    assert len(np.unique(person)) < len(request)


def test_a_ranking_by_hand() -> None:
    truth = np.arange(20.0)
    right, wrong = ranking("same", truth, truth), ranking("reversed", -truth, truth)
    assert (right.tau.mean, right.tau_best_half.mean, right.regret_at_5) == pytest.approx((1.0, 1.0, 0.0))
    assert (wrong.tau.mean, wrong.regret_at_5) == pytest.approx((-1.0, 15.0))
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, 30).astype(float), rng.integers(0, 9, 30).astype(float)
    assert kendall(x, y) == pytest.approx(kendalltau(x, y).statistic)


def test_a_stage_goes_on_where_it_stopped(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute(given: int, task: int) -> int:
        calls.append(task)
        return given + task

    def at(minutes: float) -> Stage[int]:
        return Stage(10, tmp_path, minutes, Console(quiet=True), None)

    assert at(1).each("sums", int, compute, {"one": 1, "two": 2}) == {"one": 11, "two": 12}
    assert at(0).each("sums", int, compute, {"two": 2}) == {"two": 12}
    assert calls == [1, 2]
    with pytest.raises(OutOfTime):
        at(0).each("sums", int, compute, {"three": 3})


def _sum(given: int, task: int) -> int:
    return given + task


def test_workers_compute_what_one_process_does(tmp_path: Path) -> None:
    with workers(2, partial(int, 10)) as pool:
        ours = Stage(10, tmp_path, 1, Console(quiet=True), pool)
        ours.ahead(_sum, {"five": 5})
        assert ours.each("sums", int, _sum, {str(n): n for n in range(4)}) == {str(n): 10 + n for n in range(4)}
        assert ours.each("sums", int, _sum, {"five": 5}) == {"five": 15}
        late = Stage(10, tmp_path, 0, Console(quiet=True), pool)
        with pytest.raises(OutOfTime):
            late.each("sums", int, _sum, {"six": 6})


def test_every_baseline_has_small_embeddings_too(folder: Path) -> None:
    short = bench(TINY, folder)
    middle = msgspec.structs.replace(short, scale=MIDDLE)
    found = {one.name: one.architecture for one in baselines(middle).values()}
    for name in NAMES:
        assert found[f"{name}-256"] == Baseline(name=name, width=256, embedding=16)
        assert found[f"{name}-256-e8"] == Baseline(name=name, width=256, embedding=8)
        assert found[f"{name}-256-e4"] == Baseline(name=name, width=256, embedding=4)
    assert len(found) == 3 * len(MIDDLE.widths) * len(NAMES)
    assert len(baselines(short)) == len(NAMES)


def test_a_pick_is_the_best_finalist_that_fits() -> None:
    nets = [drawn(SMALL, np.random.default_rng(seed)) for seed in range(3)]
    sizes = {"small": (10.0, 0.2), "middle": (40.0, 0.1), "large": (90.0, 0.15)}
    few = {
        name: Candidate(name, net, 0.008, flops, (loss,))
        for net, (name, (flops, loss)) in zip(nets, sizes.items(), strict=True)
    }
    picked = _picks({(0, "evolution"): few, (1, "random"): {"large": few["large"]}}, 100.0)
    assert {key: one.name for key, one in picked.items()} == {
        (0, "evolution", 0.25): "small", (0, "evolution", 0.5): "middle", (0, "evolution", 1.0): "middle",
        (1, "random", 1.0): "large",
    }  # fmt: skip


def test_a_folder_of_another_scale_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim(tmp_path, SHORT)
    claim(tmp_path, msgspec.structs.replace(SHORT, seeds=9, widths=(8, 16), rates=(0.002,)))
    with pytest.raises(AnotherScale, match="holds results of other sizes, this is the short one"):
        claim(tmp_path, TINY)
    assert main(["--middle", "--out", str(tmp_path)]) == 2
    assert "holds results of the short measurement, this is the middle one" in capsys.readouterr().err
    (tmp_path / "scale.json").rename(tmp_path / "log.parquet")
    with pytest.raises(AnotherScale, match=r"holds files but no scale\.json"):
        claim(tmp_path, SHORT)


def test_parts_are_measured_alone_and_quality_goes_on_with_more_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = msgspec.structs.replace(TINY, evaluations=6, finalists=2, valid_rows=50)
    monkeypatch.setattr(nas, "LONG", few)
    arguments = ["--quality", "--out", str(tmp_path), "--json"]
    assert main([*arguments, "--seeds", "1"]) == 0
    first = msgspec.json.decode(capsys.readouterr().out, type=Results)
    assert main([*arguments, "--minutes", "0"]) == 3
    assert main(arguments) == 0
    again = msgspec.json.decode(capsys.readouterr().out, type=Results)
    assert first.quality is not None
    assert again.quality is not None
    assert first.rankings is None is again.quality.cost
    assert [len(line.losses) for line in first.quality.test] == [1] * len(first.quality.test)
    assert {len(line.losses) for line in again.quality.test} == {1, 2}
    assert {line.name for line in again.quality.test} >= {f"{name}-16" for name in NAMES}
    assert {gap.baseline for gap in again.quality.gaps} == {again.quality.best}
    level, lines = again.quality.levels[-1], {line.name: line for line in again.quality.test}
    assert level.gap.mean == pytest.approx(lines[level.searched].logloss - lines[level.baseline].logloss)
    ours, theirs = (lines[name].captured for name in (level.searched, level.baseline))
    assert {name: gap.mean for name, gap in level.captured.items()} == pytest.approx(
        {name: ours[name] - theirs[name] for name in ours}
    )
    assert main([*arguments[:-1], "--figures", str(tmp_path / "figures")]) == 0
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {"nas-front.png", "nas-genotype.png"}
    assert f"best baseline by validation: {again.quality.best}" in capsys.readouterr().out
    assert main(["--ranking", *arguments[1:]]) == 0
    ranked = msgspec.json.decode(capsys.readouterr().out, type=Results)
    assert ranked.quality is None
    kept = msgspec.json.decode((tmp_path / "results.json").read_bytes(), type=Results)
    assert (kept.rankings, kept.quality) == (ranked.rankings, again.quality)
    assert main(["--ranking", *arguments[1:-1], "--figures", str(tmp_path / "ranking")]) == 0
    assert [file.name for file in (tmp_path / "ranking").iterdir()] == ["nas-ranking.png"]
    assert "paired over networks" in capsys.readouterr().out


def test_no_search_at_all_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--quality", "--searches", "0"])
    assert "argument --searches: found 0; expected 1 or more" in capsys.readouterr().err


def test_networks_are_ranked_and_a_second_call_computes_nothing(folder: Path) -> None:
    found = rankings(stage(folder))
    names = ["log FLOPs", "log parameters", "one seed against another", "single-any", "single-any adapted"]
    assert [one.name for one in found.ways] == names
    assert found.ways[-1].rows == 2048 + 4 * 20  # whole batches
    again = rankings(stage(folder, minutes=0))
    assert msgspec.json.encode(again) == msgspec.json.encode(found)
