"""`trimtab replay` and `trimtab ope`, as they are typed."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from simulators import ope, processes
from simulators.cli_logs import ope_command, replay_command
from simulators.processes import Job
from tests.simulators.test_ope import bandit

Output = pytest.CaptureFixture[str]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    made, target, _ = bandit(0)
    path = tmp_path / "log.csv"
    columns = {
        "reward": made.reward,
        "propensity": made.propensity,
        "action": [f"item-{a}" for a in made.action],
        "place": [f"p{c}" for c in made.context],
        "device": ["phone"] * len(made.reward),
        "target": target[made.context, made.action],
    }
    csv.write_csv(pa.table(columns), path)
    return path


def test_a_uniform_target_by_default(log: Path, capsys: Output) -> None:
    assert ope_command([str(log), "--context", "place", "--context", "device", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    made, _, _ = bandit(0)
    estimates, weights = ope.evaluate(made, ope.uniform(made))
    assert [each["name"] for each in found["estimates"]] == ["logged", "ips", "snips", "dr"]
    assert [each["value"] for each in found["estimates"][1:]] == pytest.approx([e.value for e in estimates], rel=1e-9)
    assert found["weights"]["effective"] == pytest.approx(weights.effective)
    assert found["enough"]


def test_a_target_that_another_log_shows_or_a_column_holds(log: Path, tmp_path: Path, capsys: Output) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(csv.read_csv(log).slice(0, 3_000), other)
    assert ope_command([str(log), "--context", "place", "--target-log", str(other)]) == 0
    shown = capsys.readouterr().out
    assert "4,000 rows, 5 actions, 3 contexts" in shown
    assert "effective rows, mean 1.0" in shown
    assert [line.split()[0] for line in shown.splitlines()[3:]] == ["logged", "ips", "snips", "dr", "on_policy"]
    assert ope_command([str(log), "--target-column", "target", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    made, target, _ = bandit(0)
    expected = ope.ips(made.reward, target[made.context, made.action] / made.propensity)
    assert [each["name"] for each in found["estimates"]] == ["logged", "ips", "snips"]
    assert found["estimates"][1]["value"] == pytest.approx(expected.value, rel=1e-9)


def test_too_few_effective_rows_are_said_aloud(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "log.csv"
    action = np.where(np.arange(2_000) < 3, 1, 0)
    csv.write_csv(pa.table({"reward": action, "propensity": np.where(action, 1e-4, 0.9999), "action": action}), path)
    assert ope_command([str(path)]) == 0
    assert "fewer than 100 effective rows: this log cannot speak for that policy" in capsys.readouterr().out


def test_a_policy_that_the_log_never_shows_is_refused_and_one_that_it_shows_in_part_is_said_aloud(
    tmp_path: Path, capsys: Output
) -> None:
    for name, actions in (("ab", "ab"), ("abc", "abc"), ("c", "c")):
        taken = list(actions * (1200 // len(actions)))
        rows = {"reward": [0.0, 1.0] * 600, "propensity": [1 / len(actions)] * 1200, "action": taken}
        csv.write_csv(pa.table(rows), tmp_path / f"{name}.csv")
    assert ope_command([str(tmp_path / "ab.csv"), "--target-log", str(tmp_path / "c.csv")]) == 1
    assert "the log says nothing of it" in capsys.readouterr().err
    assert ope_command([str(tmp_path / "ab.csv"), "--target-log", str(tmp_path / "abc.csv")]) == 0
    shown = capsys.readouterr().out
    assert "the mean weight is 0.667 +- 0.000, not 1; 33.3% of what it does the log never shows" in shown
    assert ope_command([str(tmp_path / "ab.csv"), "--target-log", str(tmp_path / "abc.csv"), "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["enough"]


@pytest.mark.parametrize(
    ("text", "argv", "message"),
    [
        ("reward,propensity,action\n1,.5,7\n0,.5,\n", [], "column 'action', row 2: no action"),
        ("reward,propensity,action\n1,.5,a\n0,.5, \n", [], "column 'action', row 2: no action"),
        ("reward,reward,propensity,action\n1,1,.5,7\n", [], "there are several columns 'reward'"),
        (
            "reward,propensity,action,t\n1,.5,7,.5\n1,.5,8,-3\n",
            ["--target-column", "t"],
            "column 't', row 2: found -3, a probability is 0 to 1",
        ),
    ],
)
def test_rows_that_cannot_be_are_named(
    tmp_path: Path, text: str, argv: list[str], message: str, capsys: Output
) -> None:
    (tmp_path / "log.csv").write_text(text)
    assert ope_command([str(tmp_path / "log.csv"), *argv]) == 1
    assert message in capsys.readouterr().err


def test_a_file_that_was_cut_off_is_named(log: Path, tmp_path: Path, capsys: Output) -> None:
    cut = tmp_path / "log.csv.gz"
    cut.write_bytes(gzip.compress(log.read_bytes())[:-500])
    assert ope_command([str(cut)]) == 1
    assert "ended before the end-of-stream" in capsys.readouterr().err
    event = b'{"id":"e","ts_ms":1,"unit":"u","values":{}}\n'
    cut.write_bytes(gzip.compress(event * 5_000)[:-10])
    assert replay_command([str(cut), "--out", str(tmp_path / "o.ndjson")]) == 1
    assert f"{cut}: Compressed file ended before the end-of-stream" in capsys.readouterr().err
    pq.write_table(csv.read_csv(log), tmp_path / "log.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "log.parquet").read_bytes()[:-9])
    assert replay_command([str(tmp_path / "cut.parquet"), "--out", str(tmp_path / "p.ndjson")]) == 1
    assert f"{tmp_path / 'cut.parquet'}: Parquet magic bytes not found" in capsys.readouterr().err


def test_a_file_that_is_no_log_is_told_what_it_was_taken_for(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "log.toml"
    for text, message in (("", "the file is empty"), ("[a]\nb = 1\n", "taken for lines of JSON, as its name is not")):
        path.write_text(text)
        assert ope_command([str(path)]) == 1
        told = capsys.readouterr().err
        assert f"{path}: " in told
        assert message in told


def test_a_file_without_an_event_is_no_success(log: Path, tmp_path: Path, capsys: Output) -> None:
    assert replay_command([str(log), "--out", str(tmp_path / "o.ndjson")]) == 1
    assert f"{log}: none of its first 1,000 lines is an event" in capsys.readouterr().err
    assert not (tmp_path / "o.ndjson").exists(), "nothing was sent"


def test_an_empty_file_has_no_time(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "e.ndjson").touch()
    assert replay_command([str(tmp_path / "e.ndjson"), "--out", str(tmp_path / "o.ndjson")]) == 0
    assert capsys.readouterr().out == "no events: there is none to replay\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["none.csv"], "none.csv: No such file or directory"),
        (["log.csv", "--reward", "click"], "no column 'click'; it has reward, propensity, action, place"),
        (
            ["log.csv", "--propensity", "reward"],
            "column 'reward', row 1: found 0, a propensity is above 0 and at most 1",
        ),
        (["log.csv", "--reward", "place"], "column 'place': Failed to parse string"),
    ],
)
def test_a_log_that_cannot_be_used_is_named(log: Path, argv: list[str], message: str, capsys: Output) -> None:
    assert ope_command([str(log.parent / argv[0]), *argv[1:]]) == 1
    assert message in capsys.readouterr().err


def test_a_target_has_one_log(log: Path, capsys: Output) -> None:
    with pytest.raises(SystemExit):
        ope_command([str(log), "--target-log", str(log), "--on-policy", "other.csv"])
    assert "--on-policy: what the policy of --target-log earned is shown already" in capsys.readouterr().err


def test_a_replay_to_no_partition_is_refused(tmp_path: Path, capsys: Output) -> None:
    with pytest.raises(SystemExit):
        replay_command([str(tmp_path / "events.ndjson"), "--out", "-", "--partitions", "0"])
    assert "--partitions: '0' is not a whole number above 0" in capsys.readouterr().err


def test_replay_changes_the_format_and_refuses_to_write_over(tmp_path: Path, capsys: Output) -> None:
    made, again = tmp_path / "e.parquet", tmp_path / "e.ndjson"
    processes.run(Job(world="quick", out=str(made), hours=1), 1, lambda progress: None)
    assert replay_command([str(made), "--out", str(again), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["events"] == len(again.read_bytes().splitlines()) == pq.read_table(made).num_rows
    assert replay_command([str(made), "--out", str(again)]) == 1
    assert "e.ndjson: exists already" in capsys.readouterr().err
    assert replay_command([str(tmp_path / "none"), "--out", "-"]) == 1
    assert "none: No such file or directory" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        replay_command([str(made), "--out", "-", "--speed", "0"])
    assert ended.value.code == 2
