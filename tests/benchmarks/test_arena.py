import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks import arena
from benchmarks._arena_noise import beyond_noise
from benchmarks._arena_plot import plot
from benchmarks._arena_protocol import History, Missing, brief_of, cautious_best
from benchmarks._arena_run import CONTROLLERS, PEERS, TRIMTAB, Claim, Run, run
from benchmarks._arena_scores import scored
from benchmarks._arena_worlds import SCENARIOS, names, of_run
from simulators.handmade import QUICK
from simulators.study import study_of
from simulators.worlds import margins, true_change

EVERYONE = pytest.mark.parametrize("name", CONTROLLERS)
PLAN = study_of(QUICK).plan
BRIEF = brief_of(PLAN)


def played(name: str, scenario: str = "quick", seed: int = 0, hours: int = 8) -> Run:
    try:
        return run(of_run(scenario, seed), name, seed, hours)
    except Missing as lack:
        pytest.skip(str(lack))


def timeless(made: Run) -> Run:
    return msgspec.structs.replace(made, hours=tuple(msgspec.structs.replace(h, cpu_s=0.0) for h in made.hours))


@EVERYONE
def test_a_run_follows_from_its_seed(name: str) -> None:
    first, again, other = (timeless(played(name, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@EVERYONE
@pytest.mark.parametrize("scenario", ["quick", "tenure"])
def test_everyone_gets_the_same_traffic_and_stays_in_bounds(name: str, scenario: str) -> None:
    world = SCENARIOS[scenario].world
    low, high = (np.array([getattr(weight, side) for weight in world.weights]) for side in ("low", "high"))
    for hour in played(name, scenario).hours[1:]:
        share, thetas = zip(*hour.arms, strict=True)
        assert len(share) == 1 + world.explore_arms
        assert share[1:] == pytest.approx([0.5 / world.explore_arms] * world.explore_arms, abs=0.005)
        vectors = np.array([theta for arm in thetas for theta in arm.values()])
        assert ((vectors >= low - 1e-9) & (vectors <= high + 1e-9)).all()
        assert thetas[0]["all"] == tuple(world.baseline)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_proposes_and_recommends_from_any_history(name: str) -> None:
    try:
        tuner = PEERS[name][0](BRIEF)
    except Missing as lack:
        pytest.skip(str(lack))
    nothing = np.zeros((0, len(PLAN.metrics)))
    history = History(np.zeros((0, BRIEF.d)), nothing, nothing, np.zeros(0))
    assert tuner.recommend(history) is None
    for deal in range(3):
        unit = tuner.propose(history)
        assert unit.shape == (BRIEF.arms, BRIEF.d)
        change = np.full((BRIEF.arms, len(PLAN.metrics)), np.nan if deal == 1 else 0.01)  # once nothing can be said
        history = History(
            np.concatenate((history.unit, unit)),
            np.concatenate((history.change, change)),
            np.concatenate((history.sd, np.where(np.isnan(change), np.nan, 0.002))),
            np.append(history.hour, np.full(BRIEF.arms, float(deal))),
            BRIEF.arms,
        )
        found = tuner.recommend(history)
        assert found is None or found.shape == (BRIEF.d,)


@pytest.mark.parametrize("name", ["hyperzero-like", TRIMTAB])
def test_a_model_finds_most_of_the_gain_in_a_day(name: str) -> None:
    world = SCENARIOS["three"].world
    theta = played(name, "three", hours=24).hours[-1].recommended
    assert theta is not None
    change = true_change(world, {segment: np.array(vector) for segment, vector in theta.items()})
    assert change[0] > 0.06  # of 0.108
    assert margins(world, change).min() > -0.001


def test_a_promotion_claims_what_its_confirm_sample_showed() -> None:
    played_hours = played(TRIMTAB, hours=72).hours
    begun = [h for h in range(1, 72) if (played_hours[h - 1].stage, played_hours[h].stage) == ("confirm", "ramp")]
    claims = {h + 1: hour.claim for h, hour in enumerate(played_hours) if hour.claim is not None}
    assert list(claims) == begun
    assert begun
    claim = claims[begun[0]]
    assert claim is not None
    assert claim.theta == played_hours[begun[0]].arms[1][1]
    true = true_change(SCENARIOS["quick"].world, {s: np.array(v) for s, v in claim.theta.items()})[0]
    assert abs(claim.gain - true) < 3.5 * claim.sd
    assert 0 < claim.sd < 0.02
    assert len(claim.sample) == 24
    assert {played_hours[h].stage for h in claim.sample} == {"confirm"}
    assert {played_hours[h].arms[1][1] == claim.theta for h in claim.sample} == {True}


def test_in_a_drift_a_claim_is_of_its_own_hours() -> None:
    made = played(TRIMTAB, "drift", hours=2)
    scenario = of_run("drift", made.seed)
    theta = {"all": tuple(0.9 * w.baseline + 0.1 * w.high for w in scenario.world.weights)}
    claimed = msgspec.structs.replace(made.hours[1], claim=Claim(theta, 0.0, 1.0, (0, 1)))
    [promotion] = scored(msgspec.structs.replace(made, hours=(made.hours[0], claimed))).promotions
    each = [true_change(scenario.at(h), theta)[0] for h in (0, 1)]
    assert min(each) <= promotion.gain_then <= max(each)
    assert promotion.gain_then != pytest.approx(promotion.gain, rel=0.01)


def test_runs_of_a_world_drift_each_in_a_way_of_its_own() -> None:
    late, own, other = SCENARIOS["late"], of_run("late", 0), of_run("late", 1)
    clicks = [one.at(3).quantities[1].response for one in (own, of_run("late", 0), other, late)]
    assert clicks[0] == clicks[1]
    assert clicks[0] != clicks[2] != clicks[3] != clicks[0]
    assert of_run("three", 1) is SCENARIOS["three"]


def test_a_held_deal_lasts() -> None:
    arms = [hour.arms for hour in run(SCENARIOS["quick"], "random", 0, 8, cadence=3).hours]
    assert arms[1] == arms[2] == arms[3] != arms[4] == arms[5] == arms[6] != arms[7]


def test_repeats_are_pooled_by_their_precision() -> None:
    unit = np.array([[0.1, 0.2], [0.3, 0.4], [0.1, 0.2]])
    change = np.array([[0.10, 0.0], [0.5, 0.0], [0.01, 0.0]])
    sd = np.array([[0.01, 0.01], [0.1, 0.01], [0.02, 0.01]])
    pooled = History(unit, change, sd, np.zeros(3)).pooled()
    assert pooled.unit.tolist() == [[0.1, 0.2], [0.3, 0.4]]
    assert pooled.change[0, 0] == pytest.approx((4 * 0.10 + 0.01) / 5)
    assert pooled.sd[0, 0] == pytest.approx(0.01 / np.sqrt(1.25))


def test_the_cautious_pick_is_neither_lucky_nor_infeasible() -> None:
    unit = np.array([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]])
    change = np.array([[0.06, 0.0], [0.08, 0.0], [0.2, -0.05]])  # ctr may fall by 0.02
    sd = np.array([[0.01, 0.001], [0.05, 0.001], [0.01, 0.001]])
    found = cautious_best(BRIEF.goal, History(unit, change, sd, np.zeros(3)))
    assert found is not None
    assert found.tolist() == [0.1, 0.1]
    assert cautious_best(BRIEF.goal, History(unit, -change, sd, np.zeros(3))) is None


def test_every_scenario_begins_feasible_with_something_to_gain() -> None:
    for scenario in SCENARIOS.values():
        change = true_change(scenario.world, scenario.world.baseline)
        assert margins(scenario.world, change).min() > 0
    assert {name for name, scenario in SCENARIOS.items() if scenario.later} == {"jump"}
    assert [name for name in ("tight", "quick") if beyond_noise(SCENARIOS[name])] == ["tight"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seeds", "-1"], "--seeds: '-1' is not a whole number above 0"),
        (["--first-seed", "-4"], "--first-seed: '-4' is not a whole number from 0"),
        (["--json", "none/x.json"], "there is no folder"),
        (["--plot", "x.foo"], "found the ending '.foo'; expected .png or .svg"),
        (["--peers-from", "none.json"], "--peers-from none.json: there is no such file"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_played(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        arena.main(["--worlds", "quick", *argv])
    assert message in capsys.readouterr().err


def test_worlds_are_named_one_by_one_or_drawn_in_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert names("quick") == ("quick",)
    assert names("drawn-014") == ("drawn-14",)
    assert names("drawn-1..2") == ("drawn-1", "drawn-2")
    with pytest.raises(SystemExit):
        arena.main(["--worlds", "drawn-2..1"])
    assert "'drawn-2..1' holds no world" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        arena.main(["--worlds", "quick", "drown-1..2"])
    assert "no world is called 'drown-1'; there are feed," in capsys.readouterr().err


def test_a_controller_named_twice_runs_once(tmp_path: Path) -> None:
    """The same run counted twice would halve the standard error."""
    out = tmp_path / "arena.json"
    arguments = f"--worlds quick quick --controllers random random --hours 1 --seeds 2 --json {out}"
    assert arena.main(arguments.split()) == 0
    assert [run["seed"] for run in json.loads(out.read_text())["runs"]] == [0, 1]


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "arena.json"
    arguments = f"--worlds quick aa --controllers trimtab random --hours 4 --json {out}"
    assert arena.main([*arguments.split(), "--seeds", "1"]) == 0
    assert "random, the best peer by these runs" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["asked"] == {"hours": 4, "seeds": 1, "first_seed": 0}
    assert {(line["scenario"], line["controller"]) for line in found["lines"]} >= {
        ("quick", "random"),
        ("all", "trimtab"),
    }
    assert len(found["runs"]) == 4
    arguments = f"--worlds quick --controllers trimtab static50 random --hours 4 --seeds 1 --peers-from {out}"
    assert arena.main([*arguments.split(), "--first-seed", "7"]) == 0
    assert "random, the best peer on other seeds" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        arena.main(arguments.split())
    assert "it has some of the seeds compared" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_scores_are_drawn_by_hour(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    scores, _ = arena.play([("quick", "random", 0), ("jump", "random", 0), ("aa", "random", 0)], 4)
    plot(scores, frozenset(["jump"]), tmp_path / f"arena.{kind}")
    begin = (tmp_path / f"arena.{kind}").read_bytes()[:200]
    assert begin.startswith(b"\x89PNG") if kind == "png" else b"<?xml" in begin


def test_what_is_not_installed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object) -> Run:
        raise Missing("pip install it")

    monkeypatch.setattr(arena, "run", lacking)
    assert arena.play([("quick", "optuna-tpe", 0)], 4) == ([], {"optuna-tpe": "pip install it"})


def test_a_kept_run_is_not_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = tmp_path / "runs.jsonl"
    first, _ = arena.play([("quick", "random", 0)], 4, kept=kept)

    def again(*_: object) -> Run:
        raise AssertionError

    monkeypatch.setattr(arena, "run", again)
    assert arena.play([("quick", "random", 0)], 4, kept=kept)[0] == first


def test_what_a_killed_run_had_begun_to_write_is_cut_off(tmp_path: Path) -> None:
    kept = tmp_path / "runs.jsonl"
    arena.play([("quick", "random", 0)], 4, kept=kept)
    whole = kept.read_bytes()
    kept.write_bytes(whole + whole[:100])
    arena.play([("quick", "random", 0)], 4, kept=kept)
    assert kept.read_bytes() == whole


def test_a_file_that_holds_no_runs_is_named_with_its_line(tmp_path: Path) -> None:
    kept = tmp_path / "runs.jsonl"
    kept.write_text('{"a": 1}\n')
    with pytest.raises(SystemExit, match=r"runs\.jsonl, line 1: no run of the arena"):
        arena.play([("quick", "random", 0)], 4, kept=kept)


def test_kept_runs_know_no_cadence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arena.main(["--runs", "runs.jsonl", "--cadence", "3"])
    assert "--runs keeps no cadence" in capsys.readouterr().err
