import msgspec
import numpy as np
import pytest

from benchmarks._arena_report import ALL, HARD, ahead, lines
from benchmarks._arena_run import Claim, Hour, Run
from benchmarks._arena_scores import Scores, scored
from benchmarks._arena_worlds import SCENARIOS, of_run
from controller.core.experiment import Theta
from simulators.handmade import JUMP_HOUR, QUICK
from simulators.truth import optimum
from simulators.worlds import gain, margins, true_change, volume

BASELINE: Theta = {"all": tuple(QUICK.baseline.tolist())}
BEST: Theta = {"all": optimum(SCENARIOS["quick"], 0, common=True).theta["all"]}
BROKEN: Theta = {"all": (1.0, 5.0, -5.0)}  # far too much of p_watch


def hours(
    recommended: list[Theta | None], arms: tuple[tuple[float, Theta], ...] = ((1.0, BASELINE),)
) -> tuple[Hour, ...]:
    return tuple(Hour(arms, theta, "explore", 0.01) for theta in recommended)


def quick(recommended: list[Theta | None], arms: tuple[tuple[float, Theta], ...] = ((1.0, BASELINE),)) -> Scores:
    return scored(Run("quick", "random", 0, hours(recommended, arms)))


def test_the_optimum_scores_one_and_the_baseline_nothing() -> None:
    assert quick([BEST] * 24).score_24 == pytest.approx(1.0)
    nothing = quick([None] * 24)
    assert (nothing.score_24, nothing.feasible_end, nothing.held) == (0.0, 1.0, 0.0)
    found = quick([None] * 23 + [BROKEN])
    assert found.feasible == (True,) * 23 + (False,)
    (line,) = [one for one in lines([nothing], frozenset()) if one.scenario == "quick"]
    assert line.figures["infeasible_later"] == (0.0, None)  # where nothing is picked no limit is broken


def test_an_infeasible_vector_scores_nothing() -> None:
    assert margins(QUICK, true_change(QUICK, BROKEN)).min() < -0.002
    assert (quick([BROKEN]).score_end, quick([BROKEN]).feasible_end) == (0.0, 0.0)


def test_the_slack_is_a_tenth_of_the_limit() -> None:
    def on_the_way(share: float) -> Theta:
        return {"all": tuple(QUICK.baseline * (1 - share) + np.array([1.0, 2.0, -5.0]) * share)}

    shares = np.linspace(0, 1, 2001)
    margin = np.array([margins(QUICK, true_change(QUICK, on_the_way(share)))[0] for share in shares])
    inside, beyond = (on_the_way(float(shares[np.flatnonzero(margin < edge)[0]])) for edge in (-0.001, -0.0021))
    assert quick([inside]).score_end == pytest.approx(gain(QUICK, true_change(QUICK, inside)) / 0.0611, rel=0.01)
    assert quick([inside]).strict_end == 0.0
    assert quick([beyond]).score_end == 0.0


def test_violations_are_shares_of_all_traffic() -> None:
    found = quick([None] * 10, ((0.9, BASELINE), (0.04, BROKEN), (0.06, BEST)))
    over = -float(margins(QUICK, true_change(QUICK, BROKEN))[0])
    assert (found.violating, found.strict_violating) == pytest.approx((0.04, 0.04))
    assert (found.excess, found.strict_excess) == pytest.approx((0.04 * over, 0.04 * over), rel=1e-4)
    assert (len(found.violations), len(found.fresh_violations)) == (2 * 8, 2 * 2)
    assert max(found.violations) == max(found.fresh_violations) == pytest.approx(over, rel=1e-4)
    assert min(found.violations) == pytest.approx(0.0, abs=1e-8)


def test_within_the_slack_a_violation_is_strict_only() -> None:
    share = 1.0
    at = np.array(BEST["all"])
    beyond: Theta = {"all": tuple(at + share * 0.02 * (np.array([1.0, 5.0, -5.0]) - at))}
    assert -0.002 < margins(QUICK, true_change(QUICK, beyond))[0] < 0
    found = quick([beyond] * 10, ((0.9, BASELINE), (0.1, beyond)))
    assert (found.violating, found.excess, found.feasible_end) == (0.0, 0.0, 1.0)
    assert (found.strict_violating, found.strict_feasible_end) == pytest.approx((0.1, 0.0))
    assert found.strict_excess > 0
    assert found.score_end == 1.0  # more than the best without slack, but no score is above 1


def test_busy_hours_weigh_more() -> None:
    quiet, busy = 5, 18
    assert volume(QUICK, np.array([quiet, busy]) + 0.5).tolist()[0] < 1
    arms = [((1.0, BASELINE), (0.0, BEST))] * 24
    one = [((0.9, BASELINE), (0.1, BROKEN))]
    at = [
        scored(
            Run("quick", "random", 0, tuple(Hour(a, None, "explore", 0.0) for a in [*arms[:h], *one, *arms[h + 1 :]]))
        )
        for h in (quiet, busy)
    ]
    assert at[1].violating > 3 * at[0].violating


def test_held_counts_from_the_last_hour_that_was_not_good() -> None:
    assert quick([None, BEST, None, BEST, BEST]).held_from_h == 4
    assert quick([BEST, BEST]).held_from_h == 1
    assert quick([BEST, None]).held_from_h is None


def test_what_is_served_is_the_mixture() -> None:
    found = quick([None], ((0.5, BASELINE), (0.5, BEST)))
    assert found.served_end == pytest.approx(0.5, rel=1e-6)


def test_after_a_jump_the_truth_is_the_later_world() -> None:
    scenario = of_run("jump", 0)
    before, after = (dict(optimum(scenario, h, common=True).theta) for h in (JUMP_HOUR // 2, 60))
    for late, regained in ((10, 1.0), (30, 0.0)):
        recommended: list[Theta | None] = [*[before] * (JUMP_HOUR + late), *[after] * (36 - late)]
        found = scored(Run("jump", "random", 0, hours(recommended)))
        assert (found.held, found.held_from_h, found.regained) == (1.0, 1, regained)
        assert found.score_end == pytest.approx(1.0, abs=0.02)  # the peak wanders


def test_where_nothing_can_be_gained_there_is_no_score() -> None:
    theta: Theta = {"all": tuple(SCENARIOS["aa"].world.baseline.tolist())}
    found = scored(Run("aa", "trimtab", 0, hours([theta], ((1.0, theta),))))
    assert (found.score_end, found.held, found.violating) == (None, None, 0.0)


def test_segments_are_scored_by_the_freedom_of_the_controller() -> None:
    apart, common = (optimum(of_run("tenure", 0), 0, common=flag) for flag in (False, True))
    assert apart.gain > common.gain + 0.01
    for controller, best in (("trimtab", apart), ("random", common)):  # of the hour before: the peak wanders
        found = scored(Run("tenure", controller, 0, hours([dict(best.theta)])))
        assert found.score_end == pytest.approx(1.0, abs=0.002)


def made(controller: str, seed: int, **figures: object) -> Scores:
    return msgspec.structs.replace(quick([BEST]), controller=controller, seed=seed, **figures)


def test_a_line_has_means_errors_and_paired_differences() -> None:
    scores = [
        made(name, seed, score_end=value)
        for name, values in {"trimtab": (0.5, 0.7), "random": (0.9, 0.7), "static50": (0.1, 0.1)}.items()
        for seed, value in enumerate(values)
    ]
    found = {(line.scenario, line.controller): line.figures["score_end"] for line in lines(scores, frozenset())}
    assert found["quick", "trimtab"] == pytest.approx((0.6, 0.1))
    assert found["all", "random"] == pytest.approx((0.8, 0.1))
    [first, _] = ahead(scores, frozenset())
    assert (first.peer, first.elsewhere) == ("random", False)
    assert first.difference == pytest.approx((-0.2, 0.2))
    assert {line.scenario for line in lines(scores, frozenset(["quick"]))} == {"quick", HARD}
    [first, _] = ahead(scores, frozenset(), {"quick": "static50"})
    assert (first.peer, first.elsewhere) == ("static50", True)
    assert first.difference == pytest.approx((0.5, 0.1))


def test_over_worlds_the_error_is_that_of_the_runs_within_them() -> None:
    scores = [
        made("trimtab", seed, scenario=scenario, score_end=value)
        for scenario, values in {"quick": (0.8, 0.9, 1.0), "tenure": (0.1, 0.3)}.items()
        for seed, value in enumerate(values)
    ]
    every = next(line for line in lines(scores, frozenset()) if line.scenario == ALL).figures["score_end"]
    assert every == pytest.approx((0.55, np.hypot(0.1 / np.sqrt(3), 0.1) / 2))
    alone = lines(scores[:1], frozenset())[0].figures["score_end"]
    assert alone == (0.8, None)


def test_the_worst_is_pooled_over_runs_and_its_error_clustered_by_them() -> None:
    calm, wild = (0.0,) * 999, (0.0,) * 989 + (0.05,) * 10
    [line, _] = lines([made("trimtab", k, violations=v) for k, v in enumerate((calm, wild, calm))], frozenset())
    assert line.worst[0] == pytest.approx(0.05)
    assert line.worst[1] == pytest.approx(0.05 * np.sqrt(8 / 27 * 19 / 27), rel=0.2)  # no wild run drawn: 8 of 27
    assert line.worst_fresh[0] == 0.0


def test_half_that_never_hold_have_no_median() -> None:
    held = [made("trimtab", k, held=float(h is not None), held_from_h=h) for k, h in enumerate((5.0, 9.0, None))]
    assert lines(held, frozenset())[0].held_from_h == 9.0
    assert lines(held[1:] + held[2:], frozenset())[0].held_from_h is None


def test_a_claim_is_held_against_the_truth() -> None:
    gained = float(gain(QUICK, true_change(QUICK, BEST)))
    claims = {4: Claim(BEST, gained + 0.01, 0.005, (1, 2, 3)), 8: Claim(BROKEN, 0.3, 0.1, (5,))}
    played = tuple(msgspec.structs.replace(hour, claim=claims.get(h)) for h, hour in enumerate(hours([BEST] * 10)))
    found = scored(Run("quick", "trimtab", 0, played))
    assert found.promoted == 1.0
    first, second = found.promotions
    assert (first.hour, first.good, second.good) == (5, True, False)
    assert (first.claimed - first.gain, first.claimed - first.gain_then) == pytest.approx((0.01, 0.01))
    [line, _] = lines([found], frozenset())
    assert line.figures["promoted_good"] == (0.5, None)
    assert line.figures["claim_bias"] == pytest.approx((0.5 * (0.01 + 0.3 - second.gain), None))
    assert lines([quick([BEST])], frozenset())[0].figures["claim_bias"] is None


def test_regret_is_what_the_served_mixture_lacks() -> None:
    best = optimum(SCENARIOS["quick"], 0, common=True).gain
    assert quick([None] * 5).regret == pytest.approx(best)
    assert quick([None] * 5, ((0.5, BASELINE), (0.5, BEST))).regret == pytest.approx(best / 2, rel=1e-6)


def test_a_pick_that_is_infeasible_now_and_then_is_told_by_all_checks() -> None:
    series = (0.0,) * 23 + (0.8, 0.0, 0.8, 0.0)
    feasible = (True,) * 23 + (True, False, True, True)  # the last one is no pick yet
    run = made("trimtab", 0, series=series, feasible=feasible)
    (line,) = [one for one in lines([run], frozenset()) if one.scenario == "quick"]
    assert (line.figures["score_later"], line.figures["infeasible_later"]) == ((0.4, None), (0.25, None))
    (line,) = [one for one in lines([made("trimtab", 0, series=(0.5,))], frozenset()) if one.scenario == "quick"]
    assert line.figures["score_later"] is None
