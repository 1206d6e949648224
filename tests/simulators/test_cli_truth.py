import json

import pytest

from simulators.cli_truth import truth_command
from simulators.handmade import QUICK
from simulators.optimum import best_feasible
from simulators.worlds import gain, true_change

Output = pytest.CaptureFixture[str]


def test_the_best_vector_and_one_that_is_asked_for(capsys: Output) -> None:
    assert truth_command(["quick", "p_watch=1.2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"]["gain"] == pytest.approx(best_feasible(QUICK).gain)
    assert found["best"]["feasible"]
    change = true_change(QUICK, (1.0, 1.2, -5.0))
    assert list(found["given"]["change"].values()) == pytest.approx(change)
    assert found["given"]["gain"] == pytest.approx(float(gain(QUICK, change)))


def test_the_hour_matters_where_the_world_changes(capsys: Output) -> None:
    gains = []
    for hour in ("35", "36"):
        assert truth_command(["surfaces", "--hour", hour, "--common", "--json"]) == 0
        gains.append(json.loads(capsys.readouterr().out)["best"]["gain"])
    assert abs(gains[1] / gains[0] - 1) > 0.2
    assert truth_command(["three", "--hour", "30", "--fault", "swap:at=30,scale=3"]) == 0
    assert "gain   +9.47%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["quick", "p_like=2"], "the world has no weight 'p_like'; it has p_click, p_watch, p_report"),
        (["quick", "p_watch=much"], "'p_watch=much': write p_watch=NUMBER"),
        (["quick", "p_watch=50"], "p_watch=50: lies outside 0.1 to 5"),
        (["quick", "--fault", "flood"], "no fault is called 'flood'"),
        (["quick", "--hour", "-5"], "'-5' is not a whole number from 0 on"),
    ],
)
def test_a_mistake_is_named(argv: list[str], message: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as ended:
        truth_command(argv)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
