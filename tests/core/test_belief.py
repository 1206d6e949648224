"""From sums to observations: what enters the posterior, and what does not."""

import msgspec
import numpy as np
import pytest

from controller.core import belief
from controller.core.belief import believe, points, theta_at
from controller.core.control import Evidence, Theta, initial
from controller.core.estimate import Changes, Metric
from controller.core.events import Component
from controller.core.kernel import to_baseline
from controller.core.plan import Plan
from controller.core.safety import Guardrail
from controller.core.space import Space
from tests.core.loop import PLAN, varied

SEGMENTED = varied(segments=("new", "old"))


def evidence(
    plan: Plan = PLAN, deal: int = 1, arms: int = 2, se: float = 0.01, buckets: int = 20, hour: float = 1.0
) -> Evidence:
    rng = np.random.default_rng(deal)
    metrics, groups = len(plan.metrics), len(plan.segments) + 1
    thetas: tuple[Theta, ...] = tuple(
        {name: (1.0, float(np.exp(rng.uniform(-2, 2))), 0.1) for name in ("all", *plan.segments)} for _ in range(arms)
    )
    noise = np.broadcast_to(1e-4 * (np.eye(arms) + 0.5), (metrics, groups, arms, arms)).copy()
    changes = Changes(
        change=rng.normal(0.02, 0.01, (metrics, groups, arms)),
        covariance=noise,
        control=np.ones((metrics, groups)),
        control_relative_se=np.full((metrics, groups), se),
        group_buckets=np.full((groups, arms + 1), buckets),
    )
    return Evidence(deal, hour, thetas, changes)


def rows(plan: Plan, *found: Evidence) -> int:
    return believe(plan, initial(plan), found, 2.0).posterior.rows


def test_every_arm_of_every_deal_is_a_row() -> None:
    assert rows(PLAN) == 0
    assert rows(PLAN, evidence(deal=1), evidence(deal=2)) == 4


def test_in_segments_every_one_has_rows_of_its_own() -> None:
    believed = believe(SEGMENTED, initial(SEGMENTED), (evidence(SEGMENTED),), 2.0)
    assert believed.groups == (1, 2)
    assert believed.posterior.seen.group.tolist() == [2, 2, 1, 1]
    assert believed.earlier.shape == (2, 2, 2)


def test_too_few_buckets_or_too_noisy_a_control_say_nothing() -> None:
    assert rows(PLAN, evidence(buckets=9)) == 0
    assert rows(PLAN, evidence(se=0.051)) == 0
    assert rows(PLAN, evidence(se=0.049, buckets=10)) == 2


def test_a_metric_that_is_too_noisy_does_not_silence_the_others() -> None:
    noisy = evidence()
    noisy.changes.control_relative_se[1] = 0.2
    noisy.changes.change[1] = np.nan
    believed = believe(PLAN, initial(PLAN), (noisy,), 1.0)
    assert believed.posterior.rows == 2
    theta = points(PLAN, believed.space, noisy.thetas[0])
    mean, sd = believed.posterior.mean_sd(theta, 0, 1.0)
    hyper = believed.hypers[1]
    prior = hyper.scale * np.sqrt(1.0 - to_baseline(hyper, believed.space.baseline_unit, theta) ** 2)
    assert mean[0] > 1e-3
    assert mean[1] == pytest.approx(0.0, abs=1e-6)
    assert sd[1] == pytest.approx(prior, rel=1e-3)


def test_an_impossible_change_is_not_believed_and_stops_nothing() -> None:
    """Arms that all say 9e11 share so much of control's noise that their covariance is singular in doubles."""
    broken = evidence()
    broken.changes.change[0] = 2e8
    broken.changes.covariance[0] = 4e16 * 1e-4 + 1e-4 * np.eye(2)
    believed = believe(PLAN, initial(PLAN), (broken, evidence(deal=2)), 1.0)
    mean, _ = believed.posterior.mean_sd(points(PLAN, believed.space, broken.thetas[0]), 0, 1.0)
    assert abs(mean[0, 0]) < 0.1


def test_delayed_metrics_and_metrics_of_no_interest_are_left_out() -> None:
    plan = varied(
        components=(*PLAN.components, Component("returned")),
        metrics=(
            *PLAN.metrics,
            Metric("returns", "returned", "buckets", "delayed"),
            Metric("idle", "clicks", "buckets"),
        ),
        guardrails=(*PLAN.guardrails, Guardrail("returns", min_change=-0.05)),
    )
    believed = believe(plan, initial(plan), (evidence(plan),), 2.0)
    assert len(believed.hypers) == 2
    assert believed.goal.objective == (1.0, 0.0)
    assert [(limit.metric, limit.sign, limit.limit) for limit in believed.goal.limits] == [(1, 1, -0.05)]


def test_the_newest_evidence_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(belief, "MAX_ROWS", 6)
    many = [evidence(deal=k, hour=float(k)) for k in range(10)]
    believed = believe(PLAN, initial(PLAN), tuple(many), 10.0)
    assert believed.posterior.seen.hour.tolist() == [7.0, 7.0, 8.0, 8.0, 9.0, 9.0]


def test_sealed_evidence_comes_before_live() -> None:
    control = msgspec.structs.replace(initial(PLAN), evidence=(evidence(deal=1, hour=1.0),))
    believed = believe(PLAN, control, (evidence(deal=2, hour=2.0),), 3.0)
    assert believed.posterior.seen.hour.tolist() == [1.0, 1.0, 2.0, 2.0]
    newest = points(PLAN, believed.space, evidence(deal=2).thetas[-1])
    assert np.array_equal(believed.earlier[-1], newest)


@pytest.mark.parametrize("plan", [PLAN, SEGMENTED])
def test_vectors_go_to_the_cube_and_back(plan: Plan) -> None:
    space = Space(plan.weights)
    unit = np.random.default_rng(0).random((max(len(plan.segments), 1), space.d))
    theta = theta_at(plan, space, unit)
    assert set(theta) == {"all", *plan.segments}
    assert points(plan, space, theta) == pytest.approx(unit)
    if plan.segments:
        assert theta["all"] == (1.0, 1.0, 0.0)


def test_a_segment_without_weights_of_its_own_has_those_of_all() -> None:
    space = Space(SEGMENTED.weights)
    both = points(SEGMENTED, space, {"all": (1.0, 2.0, 0.5), "old": (1.0, 4.0, 0.0)})
    assert both[0] == pytest.approx(space.to_unit(np.array([1.0, 2.0, 0.5])))
    assert both[1] == pytest.approx(space.to_unit(np.array([1.0, 4.0, 0.0])))
