"""Choosing: what the draws like, within the risk; and that a short study finds a truly better vector."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from scipy.special import ndtr

from controller.core.candidates import INITIAL_REACH, around, initial, pool, rms_distance
from controller.core.goal import TAIL, TAIL_RISK, TOLERANCE, Goal, Limit
from controller.core.kernel import Floats, Hyper
from controller.core.learn import RESPONSE
from controller.core.policy import (
    AHEAD_H,
    BANNED_RADIUS,
    CAUTION,
    MIN_FEASIBLE,
    MIN_MOVE,
    UNSURE,
    Pick,
    Proposal,
    p_violation,
    propose,
    recommend,
    worth,
)
from controller.core.posterior import Observations, Posterior, condition, extend, fit, join, prior
from tests.core.beliefs import BASELINE, GOAL, HYPERS, D, ask, dealt, linear, observed, unseen


def test_the_first_arms_fill_a_box_around_the_baseline() -> None:
    unit, reasons = ask(unseen(), arms=16)
    assert set(reasons) == {"initial"}
    assert np.abs(unit - BASELINE).max() <= INITIAL_REACH + 1e-12
    assert (unit.max(axis=0) - unit.min(axis=0) > INITIAL_REACH).all()


def test_the_first_arms_stay_in_the_cube() -> None:
    unit = initial(np.array([0.0, 1.0]), 5, np.random.default_rng(2))
    assert unit.shape == (5, 2)
    assert (unit >= 0).all()
    assert (unit <= 1).all()


@pytest.mark.parametrize("risk", [0.05, 0.25])
def test_drawn_arms_share_the_risk_and_are_distinct(risk: float) -> None:
    posterior = linear()
    unit, reasons = ask(posterior, risk=risk)
    assert set(reasons) == {"thompson"}
    assert p_violation(posterior, GOAL, unit, 0, 1.0).mean() <= risk
    apart = rms_distance(unit, unit) + np.eye(len(unit))
    assert apart.min() >= MIN_MOVE
    assert rms_distance(unit, BASELINE[None]).min() >= MIN_MOVE


def test_the_risk_goes_to_a_bold_arm_beside_safe_ones() -> None:
    posterior = linear()
    p = p_violation(posterior, GOAL, ask(posterior, risk=0.02)[0], 0, 1.0)
    assert p.sum() <= 8 * 0.02
    assert p.max() > 2 * 0.02


def test_repeats_are_paid_from_the_risk_too() -> None:
    posterior = linear()
    before, _ = ask(posterior, arms=40, risk=0.4)
    p = p_violation(posterior, GOAL, before, 0, 1.0)
    assert p.max() > 0.02, "some of them cost more than an arm's share"
    for seed in range(10):
        unit, reasons = ask(posterior, seed, risk=0.02, previous=before[:, None])
        p = p_violation(posterior, GOAL, unit, 0, 1.0)
        assert p[: reasons.count("repeat")].sum() > 0.005, "they cost something"
        assert p.sum() <= 8 * 0.02


def test_no_arm_may_break_a_guardrail_by_far() -> None:
    """Nothing is known of the guardrail: far from the baseline it is as probably kept as not, and may fall a lot."""
    unit = np.random.default_rng(0).random((60, D))
    change = np.stack([0.1 * (unit[:, 0] - 0.4), 0.0 * unit[:, 0]])
    seen = observed(unit, change)
    seen.noise[1] = np.eye(60)
    posterior = condition(seen, BASELINE, HYPERS)
    arms, reasons = ask(posterior, risk=0.5)
    mean, sd = posterior.mean_sd(arms, 0, 1.0, AHEAD_H)
    assert "thompson" in reasons
    assert (ndtr((-0.01 - TAIL - mean[1]) / sd[1]) <= TAIL_RISK).all()
    assert p_violation(posterior, GOAL, arms, 0, 1.0).max() < 0.3, "the risk alone would have let them go farther"


@pytest.mark.parametrize("unit_of", [1e-12, 1e9])
def test_what_is_recommended_does_not_hang_on_the_unit_of_the_objective(unit_of: float) -> None:
    candidates = ask(linear())[0][:, None]
    goals = (GOAL, msgspec.structs.replace(GOAL, objective=(unit_of, 0.0)))
    one, other = (
        recommend(linear(), goal, (0,), 1.0, candidates=candidates, rng=np.random.default_rng(5)) for goal in goals
    )
    assert one is not None
    assert other is not None
    assert other.gain_mean == pytest.approx(unit_of * one.gain_mean, rel=0.02)
    assert other.p_better == pytest.approx(one.p_better, abs=1e-3)
    assert one.p_better > 0.99


def test_of_two_equal_gains_the_surer_is_worth_more() -> None:
    mean, sd = np.array([[0.1, 0.1], [0.0, 0.0]]), np.array([[0.01, 0.05], [0.005, 0.005]])
    surer, other = worth(GOAL, mean, sd, MIN_FEASIBLE)
    assert surer - other == pytest.approx(CAUTION * 0.04 * ndtr(0.01 / 0.005))


def test_drawn_arms_go_where_the_gain_is() -> None:
    unit, _ = ask(linear())
    assert np.median(unit[:, 0]) > 0.75
    assert unit[:, 1].max() < 0.7  # a loss of 0.01 stands at 0.6


def test_a_share_of_the_arms_repeats_the_best_earlier_vectors() -> None:
    good, better, bad = np.array([0.7, 0.3, 0.3]), np.array([0.9, 0.3, 0.3]), np.array([0.9, 0.95, 0.3])
    unit, reasons = ask(linear(), previous=dealt(good, better, better, bad, BASELINE))
    assert reasons[:3] == ("repeat", "repeat", "thompson")
    np.testing.assert_array_equal(unit[:2], [better, good])


def test_banned_vectors_are_kept_away_from() -> None:
    posterior = linear()
    favourite, _ = ask(posterior)
    unit, _ = ask(posterior, banned=favourite, previous=favourite[:, None])
    assert rms_distance(unit, favourite).min() >= BANNED_RADIUS


def falling(limit: float) -> tuple[Posterior, Proposal]:
    """The guardrail's metric falls in every direction, least where the second weight moves."""
    unit = np.random.default_rng(0).random((60, D))
    fall = -np.abs(unit - BASELINE) @ np.array([0.2, 0.02, 0.2]) - 0.01
    posterior = condition(observed(unit, np.stack([0.1 * unit[:, 0], fall])), BASELINE, HYPERS)
    goal, rng = Goal((1.0, 0.0), (Limit(1, 1, limit),)), np.random.default_rng(3)
    return posterior, propose(posterior, goal, (0,), 1.0, arms=4, risk=0.02, previous=dealt(), banned=dealt(), rng=rng)


def test_where_not_even_the_baseline_keeps_the_guardrail_the_safest_are_dealt() -> None:
    posterior, proposal = falling(0.02)
    assert proposal.reasons == ("safe",) * 4
    assert (p_violation(posterior, Goal((1.0, 0.0), (Limit(1, 1, 0.02),)), proposal.unit[:, 0], 0, 1.0) > 0.1).all()
    assert rms_distance(proposal.unit[:, 0], BASELINE[None]).max() < 0.2, "P is 0 nearly everywhere: the near ones"


def test_the_safest_are_not_those_of_which_least_is_known() -> None:
    """Nothing near the baseline lifts a metric that must rise; what is far may, or may fall as much."""
    near = BASELINE + 0.15 * (np.random.default_rng(0).random((60, D)) - 0.5)
    seen = observed(near, np.stack([0.1 * near[:, 0], 0.02 * (near[:, 1] - BASELINE[1])]), se=0.002)
    posterior, goal = condition(seen, BASELINE, HYPERS), Goal((1.0, 0.0), (Limit(1, 1, 0.02),))
    rng = np.random.default_rng(3)
    found = propose(posterior, goal, (0,), 1.0, arms=4, risk=0.02, previous=dealt(), banned=dealt(), rng=rng)
    assert found.reasons == ("safe",) * 4
    mean, sd = posterior.mean_sd(found.unit[:, 0], 0, 1.0, AHEAD_H)
    assert (ndtr((mean[1] + 0.01) / sd[1]) >= 1.0 - UNSURE).all(), "a fall of a point is less likely than not"


def test_where_only_the_baseline_keeps_the_guardrail_nothing_is_dealt() -> None:
    _, proposal = falling(0.0)
    assert proposal.unit.shape == (0, 1, D)
    assert proposal.reasons == ()


def narrow() -> tuple[Posterior, Goal]:
    """One weight, whose guardrail is kept within .03 of the baseline and fast broken beyond."""
    unit = np.linspace(0.3, 0.7, 41)[:, None]
    moved = unit[:, 0] - 0.5
    seen = observed(unit, np.stack([0.1 * moved, -12.0 * moved**2]), se=0.002)
    return condition(seen, np.array([0.5]), (Hyper((0.3,), 0.3, 1e-6, 200.0, 0.7),) * 2), GOAL


def test_where_little_can_be_borne_fewer_arms_are_dealt_instead_of_arms_that_cannot() -> None:
    (posterior, goal), nothing = narrow(), np.empty((0, 1, 1))
    rng = np.random.default_rng(3)
    found = propose(posterior, goal, (0,), 1.0, arms=8, risk=0.3, previous=nothing, banned=nothing, rng=rng)
    assert 0 < len(found.unit) < 8
    assert "safe" not in found.reasons
    assert p_violation(posterior, goal, found.unit[:, 0], 0, 1.0).sum() <= 8 * 0.3
    assert np.abs(found.unit - 0.5).max() < 0.04


def test_bans_are_kept_off_before_anything_is_known() -> None:
    banned, rng = dealt(*initial(BASELINE, 16, np.random.default_rng(1))[:4]), np.random.default_rng(1)
    found = propose(unseen(), GOAL, (0,), 0.0, arms=16, risk=0.3, previous=dealt(), banned=banned, rng=rng)
    assert found.reasons == ("initial",) * 16
    assert rms_distance(found.unit[:, 0], banned[:, 0]).min() >= BANNED_RADIUS
    assert np.abs(found.unit[:, 0] - BASELINE).max() <= INITIAL_REACH + 1e-12


def infeasible(limit: float) -> tuple[Floats, Pick | None]:
    """Arms and pick where a metric must rise, which it does as the second weight falls, to .05 at most."""
    posterior, goal, rng = linear(), Goal((1.0, 0.0), (Limit(1, 1, limit),)), np.random.default_rng(3)
    unit = propose(posterior, goal, (0,), 1.0, arms=8, risk=0.1, previous=dealt(), banned=dealt(), rng=rng).unit
    return unit[:, 0], recommend(posterior, goal, (0,), 1.0, candidates=unit, rng=rng)


def test_from_an_infeasible_baseline_arms_go_where_it_is_violated_least() -> None:
    unit, pick = infeasible(0.2)
    assert unit[:, 1].max() < 0.25, "no vector reaches the limit: the nearest are tried"
    assert pick is None


def test_from_an_infeasible_baseline_the_feasible_region_is_searched_for_gain() -> None:
    unit, pick = infeasible(0.02)
    assert unit[:, 1].max() < 0.5, "none is worse than the baseline"
    assert np.median(unit[:, 0]) > 0.75
    assert pick is not None
    assert pick.p_feasible > 0.9
    assert pick.unit[0, 1] < 0.3
    assert pick.unit[0, 0] > 0.9


def test_a_study_may_have_no_guardrails() -> None:
    goal, rng = Goal((1.0, 0.0), ()), np.random.default_rng(5)
    nothing = np.empty((0, 1, D))
    proposal = propose(linear(), goal, (0,), 1.0, arms=4, risk=0.25, previous=nothing, banned=nothing, rng=rng)
    assert np.median(proposal.unit[:, 0, 0]) > 0.75
    pick = recommend(linear(), goal, (0,), 1.0, candidates=proposal.unit, rng=rng)
    assert pick is not None
    assert pick.p_feasible == 1.0


def test_one_weight_and_one_arm_are_enough() -> None:
    baseline, hypers = np.array([0.5]), (Hyper((0.5,), 0.1, 0.3, 200.0, 0.7),)
    unit = np.linspace(0, 1, 9)[:, None]
    posterior = condition(observed(unit, 0.1 * (unit.T - 0.5)), baseline, hypers)
    goal, rng, nothing = Goal((1.0,), ()), np.random.default_rng(6), np.empty((0, 1, 1))
    proposal = propose(posterior, goal, (0,), 1.0, arms=1, risk=0.25, previous=nothing, banned=nothing, rng=rng)
    assert proposal.unit.shape == (1, 1, 1)
    assert proposal.unit[0, 0, 0] > 0.7


def test_the_same_randomness_gives_the_same_proposal() -> None:
    np.testing.assert_array_equal(ask(linear(), seed=6)[0], ask(linear(), seed=6)[0])


def test_a_pick_is_better_and_probably_feasible() -> None:
    posterior, rng = linear(), np.random.default_rng(7)
    given = dealt(np.array([0.95, 0.5, 0.3]), np.array([0.95, 0.95, 0.3]))
    pick = recommend(posterior, GOAL, (0,), 1.0, candidates=given, rng=rng)
    assert pick is not None
    assert pick.gain_mean == pytest.approx(0.1 * (pick.unit[0, 0] - 0.4), abs=0.01)
    assert pick.unit[0, 0] > 0.9
    assert pick.p_feasible > 0.9
    assert pick.p_better > 0.99
    assert 0.0 <= pick.regret < 0.02


def test_a_pick_may_be_over_a_limit_by_the_tolerance() -> None:
    """Gain and loss grow with the first weight: the best is where the loss is over the limit by the tolerance."""
    unit = np.random.default_rng(15).random((150, D))
    change = 0.3 * (unit[:, 0] - 0.4)
    still = tuple(msgspec.structs.replace(hyper, drift=1e-9) for hyper in HYPERS)
    posterior = condition(observed(unit, np.stack([change, -change]), se=1e-4), BASELINE, still)
    goal, rng = Goal((1.0, 0.0), (Limit(1, 1, -0.1),)), np.random.default_rng(16)
    pick = recommend(posterior, goal, (0,), 0.0, candidates=unit[:, None], rng=rng)
    assert pick is not None
    assert 0.1 < pick.gain_mean < 0.1 * (1.0 + TOLERANCE)


def test_a_pick_keeps_off_what_failed_though_it_was_dealt_and_would_be_best() -> None:
    posterior = linear()
    given = dealt(np.array([0.95, 0.5, 0.3]), np.array([0.7, 0.3, 0.3]))
    best = recommend(posterior, GOAL, (0,), 1.0, candidates=given, rng=np.random.default_rng(7))
    assert best is not None
    failed, rng = np.concatenate((best.unit[None], given[:1])), np.random.default_rng(7)
    pick = recommend(posterior, GOAL, (0,), 1.0, candidates=np.concatenate((given, failed)), rng=rng, banned=failed)
    assert pick is not None
    assert rms_distance(pick.unit, failed[:, 0]).min() >= BANNED_RADIUS
    assert 0.8 * best.gain_mean < pick.gain_mean


def test_nothing_is_recommended_where_every_move_breaks_a_guardrail() -> None:
    unit = np.random.default_rng(8).random((150, D))
    loss = -0.3 * np.sqrt(((unit - BASELINE) ** 2).sum(axis=1))
    posterior = condition(observed(unit, np.stack([0.1 * (unit[:, 0] - 0.4), loss])), BASELINE, HYPERS)
    goal = Goal((1.0, 0.0), (Limit(1, 1, 0.0),))
    assert recommend(posterior, goal, (0,), 1.0, candidates=unit[:, None], rng=np.random.default_rng(9)) is None


def test_nothing_is_recommended_where_every_move_loses() -> None:
    unit = np.random.default_rng(8).random((150, D))
    loss = -0.3 * np.sqrt(((unit - BASELINE) ** 2).sum(axis=1))
    posterior = condition(observed(unit, np.stack([loss, 0.0 * loss])), BASELINE, HYPERS)
    assert recommend(posterior, GOAL, (0,), 1.0, candidates=unit[:, None], rng=np.random.default_rng(9)) is None


def test_nothing_is_recommended_without_evidence() -> None:
    assert recommend(unseen(), GOAL, (0,), 0.0, candidates=np.empty((0, 1, D)), rng=np.random.default_rng(10)) is None


def test_regret_falls_as_evidence_comes_in() -> None:
    rng, unit = np.random.default_rng(11), np.random.default_rng(12).random((20, D))
    change = np.stack([0.1 * (unit[:, 0] - 0.4), 0.0 * unit[:, 0]])
    little = extend(unseen(), observed(unit, change, se=0.05))
    much = extend(little, observed(unit, change, se=0.002))
    regrets = [recommend(p, GOAL, (0,), 1.0, candidates=unit[:, None], rng=rng) for p in (little, much)]
    assert regrets[0] is not None
    assert regrets[1] is not None
    assert regrets[1].regret < 0.6 * regrets[0].regret


def test_candidates_lie_in_the_cube_and_reach_from_the_baseline_to_its_sides() -> None:
    rng = np.random.default_rng(13)
    unit = pool(BASELINE, rng.random((3, D)), rng)
    assert ((unit >= 0) & (unit <= 1)).all()
    far = rms_distance(unit, BASELINE[None])
    assert far.min() < 0.02
    assert far.max() > 0.4


def test_local_steps_move_few_coordinates() -> None:
    rng = np.random.default_rng(14)
    anchor = np.full((1, 20), 0.5)
    moved = (around(anchor, 400, rng) != anchor).sum(axis=1)
    assert moved.min() >= 1
    assert 2.5 < moved.mean() < 5.0


World = tuple[Floats, Callable[[Floats], Floats], float]


def quadratic(seed: int, d: int) -> World:
    """A baseline, true changes (2, n) of an objective and of a guardrail's metric, and the best feasible gain."""
    rng = np.random.default_rng(seed)
    baseline = rng.uniform(0.3, 0.7, d)
    slope = rng.standard_normal((2, d))
    slope *= np.array([[0.2], [0.12]]) / np.linalg.norm(slope, axis=1, keepdims=True)

    def truth(unit: Floats) -> Floats:
        x = unit - baseline
        bend = np.array([[0.08], [0.05]]) * (x * x).sum(axis=1)
        return np.asarray(slope @ x.T - bend)

    unit = np.concatenate((rng.random((30_000, d)), around(baseline[None], 5_000, rng)))
    for _ in range(4):
        f = truth(unit)
        best = unit[np.argsort(-np.where(f[1] >= -0.01, f[0], -1.0))[:20]]
        unit = np.concatenate((best, around(best, 4_000, rng)))
    f = truth(unit)
    return baseline, truth, float(f[0][f[1] >= -0.01].max())


def explore(seed: int, d: int, windows: int) -> tuple[float, float]:
    """A study of 8 arms with standard errors of 2.5 %: (true gain of the pick / best feasible, share violating)."""
    baseline, truth, best = quadratic(seed, d)
    rng = np.random.default_rng(1000 + seed)
    noise = np.stack([0.025**2 * (0.75 * np.eye(8) + 0.25)] * 2)  # control's noise is common to the arms
    root = np.linalg.cholesky(noise)
    hypers, previous, violating = prior(d, (RESPONSE,) * 2), np.empty((0, 1, d)), []
    seen = Observations(np.empty((0, d)), np.empty(0, np.int64), np.empty(0), np.empty((2, 0)), np.empty((2, 0, 0)))
    for hour in range(windows):
        posterior = condition(seen, baseline, hypers)
        unit = propose(
            posterior, GOAL, (0,), hour, arms=8, risk=0.25, previous=previous, banned=previous[:0], rng=rng
        ).unit
        change = truth(unit[:, 0])
        violating.append((change[1] < -0.011).mean())
        change = change + np.einsum("mij,mj->mi", root, rng.standard_normal((2, 8)))
        deal = Observations(unit[:, 0], np.zeros(8, np.int64), np.full(8, hour + 0.5), change, noise)
        seen, previous = join([seen, deal]), np.concatenate((previous, unit))
        hypers = fit(seen, baseline, hypers) if hour % 3 == 2 else hypers
    pick = recommend(condition(seen, baseline, hypers), GOAL, (0,), windows, candidates=previous, rng=rng)
    if pick is None:
        return 0.0, float(np.mean(violating))
    gain, rail = truth(pick.unit)[:, 0]
    return (gain / best if rail >= -0.011 else 0.0), float(np.mean(violating))


def test_a_short_study_finds_most_of_the_gain_within_the_guardrail() -> None:
    results = np.array([explore(seed, d=4, windows=30) for seed in range(4)])
    assert np.median(results[:, 0]) > 0.75
    assert (results[:, 0] > 0.6).sum() >= 3
    assert results[:, 1].mean() < 0.2
