"""A claim that does not hold, and options that cannot be, are told by the exit status."""

from pathlib import Path

import msgspec
import pytest

from benchmarks import arena, calibration, metrics, serving, simulators, throughput
from benchmarks._arena_protocol import Missing
from benchmarks._arena_run import Run
from benchmarks._calibration_figures import Figure, share
from benchmarks.throughput import FORMS, Measure


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (throughput.main, "--events 0"),
        (throughput.main, "--events -5"),
        (throughput.main, "--rounds 0"),
        (metrics.main, "--rounds 0"),
        (metrics.main, "--events 0"),
        (serving.main, "--units 0"),
        (serving.main, "--publications 0"),
        (simulators.main, "--hours 0"),
        (calibration.main, "--studies -3"),
        (calibration.main, "--jobs 0"),
    ],
)
def test_counts_are_above_0(main: object, argv: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(main)
    with pytest.raises(SystemExit) as ended:
        main(argv.split())
    assert ended.value.code == 2
    assert "is not a whole number above 0" in capsys.readouterr().err


def test_calibration_is_told_of_a_missing_folder_before_hours_of_work(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        calibration.main(["--json", "none/x.json"])
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(("holds", "status"), [(True, 0), (None, 0), (False, 1)])
def test_calibration_fails_with_a_claim(holds: bool | None, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure("", "", 0.5, None, 1, holds=holds)
    monkeypatch.setattr(calibration, "CLAIMS", {"srm": lambda *_: [figure]})
    assert calibration.main(["--claims", "srm"]) == status


def test_so_few_runs_that_one_would_break_what_is_asked_tell_nothing() -> None:
    assert share("", "", [False] * 19, least=0.95).holds is None
    assert share("", "", [False] * 20, least=0.95).holds is False
    assert share("", "", [True] * 2, most=0.001).holds is None
    assert "too few to tell" in share("", "", [], least=0.95).asked


def test_the_arena_fails_where_nobody_could_play(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object) -> Run:
        raise Missing("pip install it")

    monkeypatch.setattr(arena, "run", lacking)
    assert arena.main(["--worlds", "aa", "--controllers", "random", "--hours", "4", "--seeds", "1"]) == 1


LINE = {
    "scenario": "quick",
    "controller": "scbo",
    "runs": 1,
    "held_from_h": None,
    "worst": (0, 0),
    "worst_fresh": (0, 0),
}
BARE = msgspec.json.encode({"asked": {"first_seed": 9, "seeds": 1}, "lines": [{**LINE, "figures": {}}]})


@pytest.mark.parametrize("content", [b'{"asked": {}, "lines": []}', b"[]", b"no JSON", b'{"asked": "\xff"}', b"", BARE])
def test_peers_from_a_file_of_another_kind(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        arena.main(["--peers-from", str(tmp_path / "x.json")])
    assert ended.value.code == 2
    assert "no JSON of the arena" in capsys.readouterr().err


def test_a_rate_below_what_is_claimed_is_named() -> None:
    json, arrow = Measure(FORMS[0].name, 400_000, None, 8.0), Measure(FORMS[2].name, 5_000_000, None, 90.0)
    assert throughput.missed([json, arrow]) == []
    slower = msgspec.structs.replace(json, ratio=4.7)
    assert throughput.missed([slower, arrow]) == [f"{FORMS[0].name}: 8 x naive"]
    slow = [msgspec.structs.replace(one, per_second=1.0) for one in (json, arrow)]
    assert len(throughput.missed(slow)) == 2


def test_a_table_that_is_seen_too_late_is_named() -> None:
    late, loop = (
        serving._measure("p99", 51.0, "ms", 50.0, "claim: p99"),
        serving._measure("x", 2, "ns", 1, "naive loop"),
    )
    assert serving.missed([late, loop]) == ["p99"]
    assert serving.missed([msgspec.structs.replace(late, value=50.0), loop]) == []
