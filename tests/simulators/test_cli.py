"""The two commands, as they are typed."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from controller.shell.config import ConfigError, load
from controller.shell.journal import check_chain
from simulators import closed_loop
from simulators.catalog import PRODUCTS, SCENARIOS, WORLDS
from simulators.cli import demo, simulate
from simulators.closed_loop import Turn
from simulators.faults import FAULTS, faulty, parse
from simulators.handmade import AA, QUICK
from simulators.optimum import best_feasible
from simulators.report import report, report_lines
from simulators.study import study_of
from simulators.truth import optimum, truth
from simulators.view import Screen
from simulators.worlds import World, gain, margins, true_change
from tests.services.process import free_port

Output = pytest.CaptureFixture[str]


def test_demo_ends_with_a_report_of_the_truth(tmp_path: Path, capsys: Output) -> None:
    journal = tmp_path / "try.journal"
    argv = ["--world", "quick", "--hours", "4", "--seed", "3", "--journal", str(journal)]
    assert demo([*argv, "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert printed.err == ""
    change = true_change(QUICK, list(found["recommended"]["all"].values()))
    assert found["true_gain"] == pytest.approx(float(gain(QUICK, change)))
    assert found["guardrails"][0]["margin"] == pytest.approx(margins(QUICK, change)[0])
    assert found["feasible"] == bool(margins(QUICK, change).min() >= 0)
    assert found["share_of_best"] == pytest.approx(found["true_gain"] / best_feasible(QUICK).gain)
    assert (found["windows"], found["journal"]) == (4, str(journal))
    assert check_chain(journal) is None
    assert load(Path(found["study"])).journal == journal
    assert demo(argv) == 2
    assert "exists already" in capsys.readouterr().err
    assert demo(["--journal", str(tmp_path / "nodir" / "x.journal")]) == 2
    assert f"x.journal: there is no folder {tmp_path / 'nodir'}" in capsys.readouterr().err


def test_a_demo_that_is_stopped_says_what_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(StringIO):
        def write(self, text: str) -> int:
            if text.startswith("window "):
                raise KeyboardInterrupt
            return super().write(text)

    shown = Interrupted()
    monkeypatch.setattr("sys.stderr", shown)
    assert demo(["--world", "quick", "--hours", "2", "--plain", "--journal", str(tmp_path / "x.journal")]) == 130
    assert shown.getvalue() == f"trimtab demo: stopped; its journal and study file stay in {tmp_path}\n"


def test_demo_tells_a_pipe_a_line_a_window(capsys: Output) -> None:
    assert demo(["--world", "quick", "--hours", "2"]) == 0
    printed = capsys.readouterr()
    assert [line.split()[:2] for line in printed.err.splitlines()] == [["window", "1/2"], ["window", "2/2"]]
    assert "(95 % interval " in printed.err.partition("best known: ")[0], "beside the reason's standard deviation"
    for part in ("recommended   p_click=1 ", "true gain     ", "guardrail     ctr limit -2.00%: ", "trimtab verify /"):
        assert part in printed.out


@pytest.mark.parametrize("world", [QUICK, WORLDS["tenure"]], ids=["quick", "tenure"])
def test_the_screen_shows_arms_intervals_and_the_best_so_far(world: World, tmp_path: Path) -> None:
    plan, console = study_of(world).plan, Console(file=StringIO(), force_terminal=True, width=140, record=True)
    screen = Screen(plan, world, 4, console)
    turns: list[Turn] = []
    with screen:

        def watch(turn: Turn) -> None:
            screen(turn)
            turns.append(turn)

        closed_loop.run(plan, world, 4, 0, tmp_path / "x.journal", watch)
    shown = console.export_text()
    choice = turns[-1].state.experiment.carry.pick
    assert choice is not None
    assert "window 4 of 4   stage explore" in shown
    assert "ctr >= -2.0%" in shown
    assert f"P(guardrails kept) {choice.p_feasible:.0%}" in shown
    assert "in truth: gain " in shown
    last = turns[-1].info.decisions[-1].deal
    assert all(arm.arm in shown for arm in last.arms[1:])


def test_demo_reports_the_truth_of_a_world_that_has_changed(tmp_path: Path, capsys: Output) -> None:
    argv = [
        "--world",
        "quick",
        "--hours",
        "3",
        "--fault",
        "swap:at=2,scale=3",
        "--journal",
        str(tmp_path / "x.journal"),
    ]
    assert demo([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    scenario = faulty(SCENARIOS["quick"], [parse("swap:at=2,scale=3", QUICK)])
    assert found["best_gain"] == pytest.approx(optimum(scenario, 3, common=False).gain)
    theta = {segment: tuple(vector.values()) for segment, vector in found["recommended"].items()}
    assert found["true_gain"] == pytest.approx(float(gain(QUICK, truth(scenario, 3, [theta])[0])))
    assert found["best_gain"] > best_feasible(QUICK).gain + 0.1


def test_a_world_without_gains_is_reported_without_a_share(tmp_path: Path) -> None:
    plan, turns = study_of(AA).plan, list[Turn]()
    closed_loop.run(plan, AA, 1, 0, tmp_path / "aa.journal", turns.append)
    found = report(AA, 0, 1, turns[-1], 1.0, best_feasible(AA), "a j", "s")
    assert "              trimtab verify 'a j'" in report_lines(found)
    assert found.recommended == {"all": {weight.name: weight.baseline for weight in AA.weights}}
    assert (found.true_gain, found.feasible, found.share_of_best) == (0.0, True, None)
    assert "the best feasible vector gains +0.00%)" in "\n".join(report_lines(found))


def test_simulate_lists_the_worlds(capsys: Output) -> None:
    assert simulate(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith(" ")]
    assert listed == [*PRODUCTS, "drawn-N", *FAULTS]
    assert simulate(["--list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["worlds"]["quick"] == QUICK.summary
    assert found["faults"].keys() == FAULTS.keys()


def test_simulate_writes_a_study_once(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "q.toml"
    argv = ["quick", "--write-study", str(path), "--bootstrap", "b:9", "--topic", "t", "--redis-url", "redis://r:1/0"]
    assert simulate(argv) == 0
    study = load(path)
    assert (study.kafka.bootstrap, study.kafka.topic, study.redis.url) == ("b:9", "t", "redis://r:1/0")
    assert study.journal == tmp_path / "quick.journal"
    assert simulate(argv) == 2
    assert "q.toml: exists already; name a new file" in capsys.readouterr().err
    other = tmp_path / "other.toml"
    with pytest.raises(ConfigError, match=r"kafka\.bootstrap"):
        simulate(["quick", "--write-study", str(other), "--bootstrap", "nohost"])
    assert not other.exists(), "the corrected command would be refused"


def test_simulate_refuses_a_study_of_another_world(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "q.toml"
    simulate(["quick", "--write-study", str(path)])
    assert simulate(["feed", "--study", str(path), "--out", str(tmp_path / "e.ndjson")]) == 2
    assert "the study has no 'p_share'" in capsys.readouterr().err


def test_simulate_without_redis_names_it(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "q.toml"
    url = f"redis://127.0.0.1:{free_port()}/0"
    simulate(["quick", "--write-study", str(path), "--redis-url", url])
    assert simulate(["quick", "--study", str(path), "--out", str(tmp_path / "e.ndjson"), "--wait", "1"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("waiting for a first table of this study in Redis, from `trimtab run")
    assert f"Redis at {url} does not answer: ConnectionError" in told


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["quick"],
        ["nowhere"],
        ["quick", "--hours", "0"],
        ["quick", "--seed", "-1"],
        ["quick", "--out", "e.ndjson", "--start-ms", "-1"],
        ["quick", "--out", "e.ndjson", "--start-ms", "2199023255552000"],
        ["quick", "--out", "e.ndjson", "--realtime"],
        ["quick", "--out", "e.ndjson", "--fault", "lost:share=2"],
    ],
)
def test_misuse_ends_with_status_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        simulate(argv)
    assert ended.value.code == 2
