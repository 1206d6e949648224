import numpy as np
import pytest
from scipy.stats import qmc

from controller.core.belief import believe, points
from controller.core.durations import HOUR_MS
from controller.core.evidence import live_evidence
from controller.core.experiment import Theta
from controller.core.policy import AHEAD_H
from controller.core.posterior import further, paths
from controller.core.surface import STEPS, surface, total_effects
from tests.core.loop import PLAN, Loop, Row, at_stage, indifferent, varied


def test_total_effects_are_those_of_ishigami() -> None:
    """Closed forms: Saltelli et al. 2008, "Global sensitivity analysis: the primer", 4.4, with a = 7, b = 0.1."""
    a, b, d = 7.0, 0.1, 3
    both = (2.0 * qmc.Sobol(2 * d, rng=np.random.default_rng(1)).random(2**14) - 1.0) * np.pi

    def f(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.sin(x[:, 0]) + a * np.sin(x[:, 1]) ** 2 + b * x[:, 2] ** 4 * np.sin(x[:, 0]))

    mixed = []
    for i in range(d):
        one = both[:, :d].copy()
        one[:, i] = both[:, d + i]
        mixed.append(f(one))
    alone = 0.5 * (1 + b * np.pi**4 / 5) ** 2
    joint = b**2 * np.pi**8 * (1 / 18 - 1 / 50)
    variance = alone + a**2 / 8 + joint
    expected = [(alone + joint) / variance, a**2 / 8 / variance, joint / variance]
    assert total_effects(f(both[:, :d]), np.stack(mixed)) == pytest.approx(expected, abs=0.02)


def test_nothing_is_important_where_nothing_varies() -> None:
    assert total_effects(np.ones(8), np.ones((2, 8))).tolist() == [0.0, 0.0]


def told(loop: Loop, theta: Theta) -> object:
    return surface(PLAN, loop.state.experiment, loop.state.windows.cells, theta)


def test_slices_pass_through_the_vector_and_are_the_beliefs_own() -> None:
    loop = at_stage("confirm")
    experiment, cells = loop.state.experiment, loop.state.windows.cells
    theta = experiment.carry.candidate.theta  # type: ignore[union-attr]
    found = surface(PLAN, experiment, cells, theta)
    assert {(s.metric, s.weight) for s in found.slices} == {
        (m, w) for m in ("watch", "ctr") for w in ("p_watch", "p_share")
    }
    assert all(len(s.values) == len(s.curves[0].mean) == len(s.curves[0].sd) == STEPS for s in found.slices)
    hour = (experiment.carry.decided_through_ms - (experiment.carry.started_ms or 0)) / HOUR_MS
    believed = believe(PLAN, experiment, live_evidence(PLAN, experiment, cells), hour)
    unit = points(PLAN, believed.space, believed.groups, theta)
    mean, sd = believed.posterior.mean_sd(unit, 0, believed.hour, AHEAD_H)
    assert [e.mean for e in found.expected] == pytest.approx(mean[:, 0].tolist())
    assert [e.sd for e in found.expected] == pytest.approx(sd[:, 0].tolist())
    watch = next(s for s in found.slices if (s.metric, s.weight) == ("watch", "p_watch"))
    assert watch.curves[0].chosen == pytest.approx(theta["all"][1])
    assert np.interp(theta["all"][1], watch.values, watch.curves[0].mean) == pytest.approx(mean[0, 0], abs=0.002)
    assert [watch.values[0], watch.values[-1]] == pytest.approx([0.1, 10.0])


def test_the_weight_that_moves_the_objective_is_the_important_one() -> None:
    """In `pleasant` watch time follows p_watch alone."""
    loop = at_stage("confirm")
    loop.windows(2)
    theta = loop.carry.candidate.theta
    worth = {w.weight: w for w in surface(PLAN, loop.state.experiment, loop.state.windows.cells, theta).worth}
    assert worth["p_watch"].share > 0.9
    assert worth["p_share"].share < 0.2
    x = np.log10(theta["all"][1])
    truth = 0.25 * x - 0.1 * x * x
    assert worth["p_watch"].low < truth < worth["p_watch"].high
    assert abs(worth["p_share"].kept) < 0.3 * worth["p_watch"].kept


def test_what_a_weight_is_worth_does_not_hang_on_the_unit_of_the_objective() -> None:
    loop = at_stage("confirm")
    theta = loop.carry.candidate.theta
    one, other = (
        surface(varied(objective={"watch": unit}), loop.state.experiment, loop.state.windows.cells, theta).worth
        for unit in (1.0, 1e-9)
    )
    assert [w.share for w in other] == pytest.approx([w.share for w in one])
    assert [w.kept for w in other] == pytest.approx([1e-9 * w.kept for w in one])


def test_where_weights_do_nothing_none_is_worth_anything() -> None:
    loop = Loop(truth=indifferent)
    loop.windows(4)
    theta: Theta = {"all": (1.0, 3.0, 0.5)}
    for weight in surface(PLAN, loop.state.experiment, loop.state.windows.cells, theta).worth:
        assert weight.low < 0.0 < weight.high


def test_every_segment_has_a_curve_of_its_own() -> None:
    plan = varied(segments=("new", "old"))
    loop = Loop(plan)
    loop.windows(3)
    theta: Theta = {"all": (1.0, 1.0, 0.0), "new": (1.0, 2.0, 0.0), "old": (1.0, 4.0, 0.0)}
    found = surface(plan, loop.state.experiment, loop.state.windows.cells, theta)
    assert found.segments == ("new", "old")
    assert [curve.chosen for curve in found.slices[0].curves] == [pytest.approx(2.0), pytest.approx(4.0)]


def uneven(theta: tuple[float, ...], segment: str) -> dict[str, float]:
    """In one segment p_watch brings watch time and costs clicks; in the other it does nothing."""
    x = float(np.log10(theta[1]))
    return {"watch_s": 0.1 * x, "clicks": -0.1 * x} if segment == "new" else {}


class Uneven(Loop):
    """Nine tenths of the watch time come from one segment, nine tenths of the clicks from the other."""

    def rows(self, hour: int | None = None, minute: float = 30.0) -> list[Row]:
        part = {1: (1.0, 0.1, 0.9), 2: (1.0, 0.9, 0.1)}  # of impressions, clicks, watch time
        return [
            row._replace(values=tuple(p * v for p, v in zip(part[row.segment], row.values, strict=True)))
            for row in super().rows(hour, minute)
        ]


def test_what_is_expected_of_a_metric_goes_by_its_own_shares() -> None:
    loop = Uneven(varied(segments=("new", "old")), truth=uneven, noise=0.005)
    loop.windows(6)
    theta: Theta = {"all": (1.0, 1.0, 0.0), "new": (1.0, 3.0, 0.0), "old": (1.0, 1.0, 0.0)}
    found = surface(loop.plan, loop.state.experiment, loop.state.windows.cells, theta)
    expected, x = {one.metric: one for one in found.expected}, float(np.log10(3.0))
    assert expected["watch"].mean == pytest.approx(0.9 * 0.1 * x, abs=0.01)
    assert expected["ctr"].mean == pytest.approx(-0.1 * 0.1 * x, abs=0.004)
    assert expected["ctr"].sd < 0.01


def test_what_a_weight_is_worth_is_as_sure_as_joint_draws_over_the_segments() -> None:
    plan = varied(segments=("a", "b", "c", "d"))
    loop = Loop(plan, noise=0.05)
    loop.windows(5)
    own = (1.0, 3.0, 0.3)
    theta: Theta = {"all": (1.0, 1.0, 0.0), **dict.fromkeys(plan.segments, own)}
    experiment, cells = loop.state.experiment, loop.state.windows.cells
    worth = {w.weight: w for w in surface(plan, experiment, cells, theta).worth}
    hour = (experiment.carry.decided_through_ms - (experiment.carry.started_ms or 0)) / HOUR_MS
    believed = believe(plan, experiment, live_evidence(plan, experiment, cells), hour)
    unit = points(plan, believed.space, believed.groups, theta)
    back = unit.copy()
    back[:, 0] = believed.space.baseline_unit[0]
    both, groups = np.concatenate((unit, back)), np.tile(believed.groups, 2)
    told_there = believed.posterior.told(both, groups, believed.hour, AHEAD_H)
    drawn = further(paths(believed.posterior, 20_000), told_there, np.random.default_rng(1))[1][:, 0]  # watch
    gains = (drawn[:, :4] - drawn[:, 4:]) @ believed.shares[0]
    low, high = np.quantile(gains, (0.025, 0.975))
    found = worth["p_watch"]
    assert found.kept == pytest.approx(gains.mean(), abs=0.05 * (high - low))
    assert found.high - found.low == pytest.approx(high - low, rel=0.05)


def test_the_same_journal_gives_the_same_figures() -> None:
    loop = at_stage("confirm")
    theta = loop.carry.candidate.theta
    assert told(loop, theta) == told(loop, theta)
