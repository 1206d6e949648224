"""The commands of feeds: a ranking log, what it says of other weights, a closed loop, and mistakes that are named."""

import json
from pathlib import Path

import msgspec
import pytest

from controller.shell.config import load
from simulators import closed_loop
from simulators.cli import simulate
from simulators.cli_counterfactual import counterfactual
from simulators.cli_feed import calibration
from simulators.cli_truth import truth_command
from simulators.faults import parse
from simulators.feed.shipped import SHORTVIDEO
from simulators.kinds import optimum, over_time
from simulators.report import report
from simulators.study import study_of

Output = pytest.CaptureFixture[str]
FEW = msgspec.structs.replace(SHORTVIDEO, events_per_hour=3_000.0)


def test_a_log_becomes_predictions_that_a_study_listens_to(tmp_path: Path, capsys: Output) -> None:
    log, study, file = tmp_path / "log.parquet", tmp_path / "study.toml", tmp_path / "predictions.csv"
    asked = ["shortvideo", "--ranking-log", str(log), "--hours", "2", "--events-per-hour", "3000", "--json"]
    assert simulate(asked) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["candidates"] == 16 * told["requests"] > told["shown"] > 0
    assert simulate(["shortvideo", "--write-study", str(study)]) == 0
    capsys.readouterr()
    assert counterfactual([str(log), str(study), "--vectors", "4", "--write", str(file), "--json"]) == 0
    found = capsys.readouterr()
    assert [line["metric"] for line in json.loads(found.out)] == ["watch", "likes", "ctr"] * 4
    assert "nothing of returns" in found.err
    kept = file.read_bytes()
    with pytest.raises(SystemExit):
        counterfactual([str(log), str(study), "--vectors", "1", "--write", str(file)])
    assert "predictions.csv: exists already; name a new file" in capsys.readouterr().err
    assert file.read_bytes() == kept
    for world, columns in (([], ["+-"]), (["--world", "shortvideo"], ["+-", "true"])):
        assert counterfactual([str(log), str(study), "--vectors", "1", *world]) == 0
        assert capsys.readouterr().out.splitlines()[0].split("predicted")[1].split() == columns
    study.write_text(study.read_text() + '\n[offline]\npath = "predictions.csv"\n')
    assert len(load(study).plan.offline) == 12


def test_mistakes_are_named(tmp_path: Path, capsys: Output) -> None:
    with pytest.raises(SystemExit):
        simulate(["quick", "--ranking-log", str(tmp_path / "x.parquet")])
    assert "quick has no candidates; the feeds are shortvideo, clickbait" in capsys.readouterr().err
    assert simulate(["shortvideo", "--ranking-log", str(tmp_path / "x.csv")]) == 2
    assert "must end in .parquet" in capsys.readouterr().err
    assert simulate(["shortvideo", "--ranking-log", "/nowhere/x.parquet", "--events-per-hour", "1000"]) == 1
    assert "/nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        calibration(["--days", "10"])
    assert "whole weeks" in capsys.readouterr().err
    for wrong in (["--seed", "-1"], ["--plot", str(tmp_path / "plot.xyz")]):
        with pytest.raises(SystemExit):
            calibration(["--people", "100", *wrong])
        assert wrong[1] in capsys.readouterr().err
    study = tmp_path / "study.toml"
    simulate(["shortvideo", "--write-study", str(study)])
    capsys.readouterr()
    assert counterfactual([str(tmp_path / "no.parquet"), str(study)]) == 1
    assert "no.parquet" in capsys.readouterr().err


def test_a_ranking_log_says_what_it_cannot_do(tmp_path: Path, capsys: Output) -> None:
    log, study = tmp_path / "log.parquet", tmp_path / "study.toml"
    asked = ["shortvideo", "--ranking-log", str(log), "--hours", "1", "--events-per-hour"]
    for wrong, named in (
        (["100", "--fault", "lost"], "--fault"),
        (["100", "--out", "x.ndjson"], "--out"),
        (["0"], "'0'"),
    ):
        with pytest.raises(SystemExit):
            simulate([*asked, *wrong])
        assert named in capsys.readouterr().err.rpartition("error: ")[2]
    assert simulate([*asked, "100"]) == 0
    assert simulate([*asked, "100"]) == 2
    assert f"{log}: exists already; name a new file" in capsys.readouterr().err
    assert simulate(["shortvideo", "--write-study", str(study)]) == 0
    capsys.readouterr()
    assert counterfactual([str(log), str(study)]) == 1
    assert "too little of segment 'casual'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        counterfactual([str(log), str(study), "--write", str(tmp_path / "nowhere" / "p.csv")])
    assert "there is no folder" in capsys.readouterr().err


def test_calibration_is_told_as_data(capsys: Output) -> None:
    calibration(["--people", "400", "--days", "7", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {each["group"] for each in found} >= {"signals", "pairs", "hourly volume", "return gap", "people"}


def test_the_truth_of_a_feed_is_told(capsys: Output) -> None:
    assert truth_command(["shortvideo", "p_like=9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"]["gain"] > 0.05
    assert found["best"]["feasible"]
    assert 0.0 < found["best"]["se"]["watch"] < 0.002
    assert found["given"]["change"]["likes"] > 0.02


def test_a_closed_loop_tunes_a_feed(tmp_path: Path) -> None:
    turns: list[closed_loop.Turn] = []
    plan = study_of(FEW).plan
    assert {metric.name: metric.response for metric in plan.metrics}["returns"] == "delayed"
    faults = [parse("swap:at=1", FEW)]
    closed_loop.run(plan, FEW, 2, 0, tmp_path / "feed.journal", turns.append, faults=faults)
    assert turns[-1].events > 500
    assert turns[-1].state.experiment.carry.stage == "explore"
    best = optimum(over_time(SHORTVIDEO), 0, common=False)
    told = report(SHORTVIDEO, 0, 2, turns[-1], 1.0, best, "", "")
    assert told.best_gain > 0.05
    assert abs(told.true_gain) < 0.2
