"""The front against brute force on worlds small enough for it."""

import msgspec
import numpy as np
import pytest

from controller.core.candidates import rms_distance
from controller.core.front import EDGE, LATTICE, MOST, Point, Question, front, lattice, undominated, valued
from controller.core.goal import Goal, Limit, p_kept
from controller.core.kernel import Floats, Hyper
from controller.core.policy import AHEAD_H, BANNED_RADIUS, MIN_FEASIBLE
from controller.core.posterior import Observations, Posterior, condition, join

D = 2
BASELINE = np.array([0.4, 0.4])
HYPERS = (Hyper((0.8, 0.8), 0.15, 0.03, 500.0, 0.7),) * 3
OBJECTIVES = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
NONE = np.empty((0, D))
WORST = np.array([-0.15, -0.12])  # about what each objective is where the other is best


def truth(unit: Floats, limit_costs: float = 0.1) -> Floats:
    """(3, k): two objectives with their best at opposite corners, and a guardrail that falls along the diagonal."""
    first = 0.1 - 0.2 * ((unit - [0.9, 0.2]) ** 2).sum(axis=1)
    second = 0.08 - 0.15 * ((unit - [0.2, 0.9]) ** 2).sum(axis=1)
    rail = -limit_costs * (unit.sum(axis=1) - BASELINE.sum())
    change = np.stack([first, second, rail])
    zero = np.stack([0.1 - 0.2 * 0.29, 0.08 - 0.15 * 0.29, 0.0])[:, None]
    return np.asarray(change - zero)


def seen(group: int = 0, seed: int = 0, swap: bool = False) -> Observations:
    unit = np.random.default_rng(seed).random((80, D))
    change = truth(unit[:, ::-1] if swap else unit)
    return Observations(unit, np.full(80, group), np.zeros(80), change, np.stack([0.004**2 * np.eye(80)] * 3))


def asked(
    posterior: Posterior | None = None,
    limit: float = -0.02,
    groups: tuple[int, ...] = (0,),
    shares: Floats | None = None,
) -> Question:
    known = condition(seen(), BASELINE, HYPERS) if posterior is None else posterior
    parts = np.full((3, len(groups)), 1.0 / len(groups)) if shares is None else shares
    return Question(known, Goal((0.0,) * 3, (Limit(2, 1, limit),)), OBJECTIVES, groups, 0.0, parts)


def points(question: Question, banned: Floats = NONE, seed: int = 1) -> tuple[Point, ...]:
    dealt = np.random.default_rng(2).random((20, len(question.groups), D))
    off = np.repeat(banned[:, None], len(question.groups), axis=1)
    return front(question, dealt, off, np.random.default_rng(seed))


def volume(values: Floats) -> float:
    """The area between the reference point and the front of (n, 2) values (the hypervolume of two objectives)."""
    kept = np.maximum(values[undominated(values)] - WORST, 0.0)
    kept = kept[np.argsort(-kept[:, 0])]
    heights = np.diff(np.concatenate(([0.0], np.maximum.accumulate(kept[:, 1]))))
    return float((kept[:, 0] * heights).sum())


def test_the_front_is_that_of_brute_force() -> None:
    question = asked()
    found = points(question)
    axis = np.linspace(0.0, 1.0, 101)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, D)
    mean, sd = question.posterior.mean_sd(grid, 0, 0.0, AHEAD_H)
    feasible = p_kept(question.goal, mean, sd) >= 0.95  # a pick is wary: it does not go to the edge of P >= .8
    best = volume(mean[:2, feasible].T)
    assert 6 <= len(found) <= MOST
    assert volume(np.stack([p.mean for p in found])) > 0.95 * best
    assert volume(truth(np.stack([p.unit[0] for p in found]))[:2].T) > 0.93 * best


def test_its_points_are_feasible_undominated_spread_and_ordered() -> None:
    found = points(asked())
    values = np.stack([p.mean for p in found])
    assert undominated(values).all()
    assert min(p.p_feasible for p in found) >= MIN_FEASIBLE
    assert (np.diff(values[:, 0]) <= 0).all()
    assert (np.diff(values[:, 1]) >= 0).all()
    steps = np.linalg.norm(np.diff(values / np.ptp(values, axis=0), axis=0), axis=1)
    assert steps.max() < 0.4
    assert [p.trade.sum() for p in found] == pytest.approx([1.0] * len(found))
    assert (truth(np.stack([p.unit[0] for p in found]))[2] > -0.02 - 0.003).all()
    for point in found:
        assert ((point.unit >= 0) & (point.unit <= 1)).all()


def test_a_point_is_the_best_of_all_for_its_own_trade_off() -> None:
    found = points(asked())
    values = np.stack([p.mean for p in found])
    for own, point in enumerate(found):
        assert values[own] @ point.trade >= (values @ point.trade).max() - 1e-3


def test_a_point_s_values_are_those_of_its_vector() -> None:
    question = asked()
    point = points(question)[0]
    mean, sd, feasible = valued(question, point.unit)
    np.testing.assert_allclose(mean, point.mean)
    np.testing.assert_allclose(sd, point.sd)
    assert feasible == pytest.approx(point.p_feasible)
    expected, spread = question.posterior.mean_sd(point.unit, 0, 0.0, AHEAD_H)
    np.testing.assert_allclose((mean, sd), (expected[:2, 0], spread[:2, 0]))


def test_the_same_question_has_the_same_answer() -> None:
    one, other = (points(asked()) for _ in range(2))
    assert [p.unit.tobytes() for p in one] == [p.unit.tobytes() for p in other]


@pytest.mark.parametrize("units", [(1.0, 1e-9), (1e-9, 1.0), (1e-9, 1e-9), (1e9, 1.0)])
def test_an_objective_s_unit_does_not_move_the_front(units: tuple[float, float]) -> None:
    """With a coefficient of 1e-9 one point of twelve was left, the best of the other objective."""
    plain = points(asked())
    found = points(msgspec.structs.replace(asked(), objectives=OBJECTIVES * np.array(units)[:, None]))
    assert len(found) == len(plain)
    assert np.stack([p.mean for p in found]) / units == pytest.approx(np.stack([p.mean for p in plain]), abs=1e-6)


def test_objectives_that_agree_have_one_best_vector() -> None:
    question = asked()
    both = Question(
        question.posterior, question.goal, np.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]]), (0,), 0.0, question.shares
    )
    found = points(both)
    assert len(found) == 1
    assert truth(found[0].unit)[0, 0] > 0.05


def test_segments_choose_for_themselves_under_a_common_trade_off() -> None:
    """Two segments with mirrored tastes: under every trade-off their vectors mirror each other."""
    posterior = condition(join([seen(1), seen(2, swap=True)]), BASELINE, HYPERS)
    found = points(asked(posterior, groups=(1, 2)))
    assert len(found) >= 5
    for point in found:
        assert rms_distance(point.unit[:1], point.unit[1:, ::-1]).max() < 0.15


def test_one_objective_of_several_metrics_weighs_each_by_its_own_shares() -> None:
    posterior = condition(join([seen(1), seen(2)]), BASELINE, HYPERS)
    shares = np.array([[0.98, 0.02], [0.02, 0.98], [0.5, 0.5]])
    question = asked(posterior, groups=(1, 2), shares=shares)
    both = Question(posterior, question.goal, np.array([[1.0, 1.0, 0.0]]), (1, 2), 0.0, shares)
    (point,) = points(both)
    change = np.stack([truth(unit[None])[:2, 0] for unit in point.unit])
    assert point.mean[0] == pytest.approx((shares[:2].T * change).sum(), abs=0.01)
    assert point.mean[0] > 0.07


def test_what_is_banned_is_kept_away_from() -> None:
    banned = points(asked())[0].unit
    assert min(rms_distance(p.unit, banned).min() for p in points(asked(), banned)) >= BANNED_RADIUS


def test_where_nothing_is_feasible_there_is_nothing_to_choose_from() -> None:
    assert points(asked(limit=0.5)) == ()


def test_from_an_infeasible_baseline_only_feasible_vectors_are_offered() -> None:
    found = points(asked(limit=0.02))
    assert found
    assert (truth(np.stack([p.unit[0] for p in found]))[2] > 0.018).all()


@pytest.mark.parametrize("objectives", [2, 3, 4, 6])
def test_the_lattice_covers_the_simplex(objectives: int) -> None:
    trades = lattice(objectives)
    assert objectives <= len(trades) <= LATTICE
    assert trades.sum(axis=1) == pytest.approx(np.ones(len(trades)))
    assert trades.min() == pytest.approx(EDGE)
    assert trades.max(axis=0) == pytest.approx(np.full(objectives, 1.0 - (objectives - 1) * EDGE)), trades


def test_of_many_metrics_each_has_its_trade_off_at_once() -> None:
    """An objective that no table names may have any number of metrics: all 2^40 sums are not gone through."""
    assert lattice(40).shape == (40, 40)


def test_dominance_is_that_of_two_loops() -> None:
    values = np.random.default_rng(0).integers(0, 5, (60, 3)).astype(float)
    kept = [not any((o >= v).all() and (o > v).any() for o in values) for v in values]
    assert undominated(values).tolist() == kept
