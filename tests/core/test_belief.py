"""From sums to observations: what enters the posterior, and what does not."""

import msgspec
import numpy as np
import pytest

from controller.core import belief, posterior
from controller.core.belief import believe, points, theta_at
from controller.core.estimate import Changes, Metric
from controller.core.events import Component
from controller.core.experiment import Evidence, Experiment, Theta, carrying, initial
from controller.core.kernel import EVEN, to_baseline
from controller.core.learn import EXPOSURES, RESPONSE
from controller.core.offline import Prediction
from controller.core.parts import measured
from controller.core.plan import Plan
from controller.core.safety import Guardrail
from controller.core.space import Space, Weight
from tests.core.loop import HOUR, PLAN, varied

SEGMENTED = varied(segments=("new", "old"))


def evidence(
    plan: Plan = PLAN, deal: int = 1, arms: int = 2, se: float = 0.01, buckets: int = 20, hour: float = 1.0
) -> Evidence:
    rng = np.random.default_rng(deal)
    metrics, groups = len(measured(plan.metrics)), len(plan.segments) + 1
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
    assert rows(PLAN, evidence(se=0.101)) == 0
    assert rows(PLAN, evidence(se=0.099, buckets=10)) == 2


def test_a_metric_that_is_too_noisy_does_not_silence_the_others() -> None:
    noisy = evidence()
    noisy.changes.control_relative_se[1] = 0.2
    noisy.changes.change[1] = np.nan
    believed = believe(PLAN, initial(PLAN), (noisy,), 1.0)
    assert believed.posterior.rows == 2
    theta = points(PLAN, believed.space, believed.groups, noisy.thetas[0])
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
    mean, _ = believed.posterior.mean_sd(points(PLAN, believed.space, believed.groups, broken.thetas[0]), 0, 1.0)
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
    experiment = msgspec.structs.replace(initial(PLAN), evidence=(evidence(deal=1, hour=1.0),))
    believed = believe(PLAN, experiment, (evidence(deal=2, hour=2.0),), 3.0)
    assert believed.posterior.seen.hour.tolist() == [1.0, 1.0, 2.0, 2.0]
    newest = points(PLAN, believed.space, believed.groups, evidence(deal=2).thetas[-1])
    assert np.array_equal(believed.earlier[-1], newest)


@pytest.mark.parametrize("plan", [PLAN, SEGMENTED])
def test_vectors_go_to_the_cube_and_back(plan: Plan) -> None:
    space = Space(plan.weights)
    groups = (1, 2) if plan.segments else (0,)
    unit = np.random.default_rng(0).random((len(groups), space.d))
    theta = theta_at(plan, space, groups, unit)
    assert set(theta) == {"all", *plan.segments}
    assert points(plan, space, groups, theta) == pytest.approx(unit)
    if plan.segments:
        assert theta["all"] == (1.0, 1.0, 0.0)


def test_a_segment_without_weights_of_its_own_has_those_of_all() -> None:
    space = Space(SEGMENTED.weights)
    both = points(SEGMENTED, space, (1, 2), {"all": (1.0, 2.0, 0.5), "old": (1.0, 4.0, 0.0)})
    assert both[0] == pytest.approx(space.to_unit(np.array([1.0, 2.0, 0.5])))
    assert both[1] == pytest.approx(space.to_unit(np.array([1.0, 4.0, 0.0])))


def with_traffic(plan: Plan, **sums: tuple[float, float, float]) -> Experiment:
    """A state that has decided on windows with these sums of impressions, clicks and watch time, by segment."""
    experiment = initial(plan)
    for segment, values in sums.items():
        experiment.history[plan.segments.index(segment) + 1] = np.array(values) / plan.buckets
    return experiment


def test_a_segment_without_traffic_keeps_the_baseline_and_is_not_asked() -> None:
    believed = believe(SEGMENTED, with_traffic(SEGMENTED, old=(9.0, 1.0, 5.0)), (evidence(SEGMENTED),), 2.0)
    assert believed.groups == (2,)
    assert believed.earlier.shape == (2, 1, 2)
    theta = theta_at(SEGMENTED, believed.space, believed.groups, np.full((1, 2), 0.9))
    assert theta["new"] == theta["all"] == (1.0, 1.0, 0.0)
    assert points(SEGMENTED, believed.space, (2,), theta) == pytest.approx(np.full((1, 2), 0.9))


def test_segments_count_by_what_they_make_of_each_metric() -> None:
    experiment = with_traffic(SEGMENTED, new=(9e6, 9e6, 1e6), old=(1e6, 1e6, 3e6))
    watch, ctr = believe(SEGMENTED, experiment, (), 2.0).shares
    assert watch == pytest.approx([0.25, 0.75])
    assert ctr == pytest.approx([0.9, 0.1])
    assert believe(SEGMENTED, initial(SEGMENTED), (), 2.0).shares == pytest.approx(np.full((2, 2), 0.5))
    experiment.history[0] = np.array((9e6, 0.0, 4e6)) / SEGMENTED.buckets
    watch, ctr = believe(SEGMENTED, experiment, (), 2.0).shares
    assert watch == pytest.approx([0.125, 0.375]), "half is of no segment"
    assert ctr == pytest.approx([0.9, 0.1])
    experiment = with_traffic(SEGMENTED, new=(9e6, 0.0, 1e6), old=(1e6, 0.0, 3e6))
    assert believe(SEGMENTED, experiment, (), 2.0).shares[1] == pytest.approx([0.5, 0.5]), "no click yet"


def test_metrics_that_nothing_is_known_of_are_named() -> None:
    assert believe(PLAN, initial(PLAN), (), 1.0).unmeasured == ()
    assert believe(PLAN, initial(PLAN), (evidence(buckets=9),), 1.0).unmeasured == ("watch", "ctr")
    silent = evidence()
    silent.changes.control_relative_se[1] = np.nan  # a denominator of zero
    assert believe(PLAN, initial(PLAN), (silent,), 1.0).unmeasured == ("ctr",)
    assert believe(PLAN, initial(PLAN), (silent, evidence(deal=2)), 1.0).unmeasured == ()


def test_two_predictions_of_one_process_are_weighed_by_their_precision() -> None:
    """Watch time per bucket and per impression say it of the same response."""
    theta = (1.0, 2.0, 0.0)
    given = (Prediction(theta, "whole", 0.01, 0.01), Prediction(theta, "watch", 0.04, 0.02))
    for offline in (given, given[::-1]):
        plan = varied(offline=offline)
        found = belief._predicted(plan, Space(plan.weights), {"whole": 1, "watch": 1}, 2)
        assert found.change[:, 0] == pytest.approx([0.0, (0.01 / 1e-4 + 0.04 / 4e-4) / (1 / 1e-4 + 1 / 4e-4)])
        assert found.noise[:, 0, 0] == pytest.approx([belief.NO_INFORMATION, 1.0 / (1 / 1e-4 + 1 / 4e-4)])


def test_a_vector_is_chosen_from_now_on() -> None:
    assert believe(PLAN, initial(PLAN), (evidence(),), 2.0).hour == 2.0


def test_the_coming_day_s_hours_count_by_their_traffic() -> None:
    experiment = carrying(initial(PLAN), started_ms=0, decided_through_ms=24 * HOUR)
    assert believe(PLAN, experiment, (evidence(),), 24.0).posterior.traffic == EVEN
    experiment = msgspec.structs.replace(experiment, volume={hour * HOUR: hour for hour in range(1, 25)})
    found = believe(PLAN, experiment, (evidence(),), 24.0).posterior.traffic
    assert found == pytest.approx([(9 * step + 6) / 300 for step in range(8)])


def test_each_process_is_fitted_anew_every_third_window_in_turns_once_there_are_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = initial(PLAN)
    given = posterior.prior(2, belief.scales(PLAN, belief.processes(PLAN)))
    told = msgspec.structs.replace(experiment, carry=msgspec.structs.replace(experiment.carry, hypers=given))
    many = tuple(evidence(deal=k, hour=float(k)) for k in range(3))
    assert believe(PLAN, told, many, 3.0).hypers == given, "too few rows to learn from"
    monkeypatch.setattr(belief, "UNFITTED_ROWS", 5)
    assert believe(PLAN, told, many, 4.0).hypers != given, "few rows: each window"
    monkeypatch.setattr(belief, "FEW_ROWS", 6)
    found = [believe(PLAN, told, many, hour).hypers for hour in (3.0, 4.0, 5.0, 6.0)]
    fitted = [tuple(new != old for new, old in zip(hypers, given, strict=True)) for hypers in found]
    assert fitted == [(True, False), (False, False), (False, True), (True, False)]
    assert believe(PLAN, experiment, many, 4.0).hypers != given, "none to start from"


def test_processes_take_turns_where_hours_are_whole_windows_but_for_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Windows of ten minutes: 13 / 6 hours are 12.999... of them in doubles."""
    plan = varied(window={"length_ms": HOUR // 6})
    given = posterior.prior(2, belief.scales(plan, belief.processes(plan)))
    told = carrying(initial(plan), hypers=given)
    many = tuple(evidence(deal=k, hour=float(k)) for k in range(3))
    monkeypatch.setattr(belief, "UNFITTED_ROWS", 5)
    monkeypatch.setattr(belief, "FEW_ROWS", 6)
    windows = [k for k in range(1, 60) if int(k / 6 * HOUR / (HOUR // 6)) != k][:3]
    assert windows
    for k in windows:
        found = believe(plan, told, many, k / 6).hypers
        assert [new != old for new, old in zip(found, given, strict=True)] == [k % 3 == 0, (k + 1) % 3 == 0]


def test_a_metric_of_few_rows_may_move_more_than_most_do() -> None:
    """By the prior alone, changes of three times that are believed far too surely, or taken for a jump."""
    loud = evidence(hour=0.0)
    changes = msgspec.structs.replace(
        loud.changes, change=loud.changes.change + np.array([[[0.6, -0.5]], [[0.0, 0.0]]])
    )
    found = believe(PLAN, initial(PLAN), (msgspec.structs.replace(loud, changes=changes),), 1.0).hypers
    watch, reports = posterior.prior(2, belief.scales(PLAN, belief.processes(PLAN)))
    assert found[0].scale > 2 * watch.scale
    assert msgspec.structs.replace(found[0], scale=watch.scale) == watch
    assert found[1] == reports


def test_a_process_that_few_rows_speak_of_keeps_the_prior() -> None:
    """Reports are too rare to say anything in most windows: their scale is not yet known, whatever else is."""
    experiment, many = initial(PLAN), [evidence(deal=k, arms=8, hour=float(k)) for k in range(4)]
    too_noisy = many[0].changes.control_relative_se + np.array([[0.0], [9.0]])
    rare = [
        msgspec.structs.replace(e, changes=msgspec.structs.replace(e.changes, control_relative_se=too_noisy))
        for e in many[1:]
    ]
    prior = posterior.prior(2, belief.scales(PLAN, belief.processes(PLAN)))
    fitted = believe(PLAN, experiment, tuple(many), 4.0).hypers
    assert all(new != old for new, old in zip(fitted, prior, strict=True))
    watch, reports = believe(PLAN, experiment, (many[0], *rare), 4.0).hypers
    assert watch == fitted[0]
    assert reports == prior[1]


PER_BUCKET = varied(metrics=(Metric("watch", "watch_s", "buckets"), PLAN.metrics[1]))


def test_a_metric_per_bucket_is_learnt_in_parts_once_people_were_shown_something() -> None:
    found = (evidence(PER_BUCKET),)
    whole = believe(PER_BUCKET, initial(PER_BUCKET), found, 1.0)
    assert whole.posterior.factors == ((0,), (1,))
    experiment = initial(PER_BUCKET)
    history = experiment.history + np.array([1.0, 0.0, 0.0])  # impressions
    apart = believe(PER_BUCKET, msgspec.structs.replace(experiment, history=history), found, 1.0)
    assert apart.posterior.factors == ((1, 2), (0,))
    assert [h.scale for h in apart.hypers] == [h.scale for h in posterior.prior(2, (RESPONSE, EXPOSURES, RESPONSE))]
    unit = points(PER_BUCKET, apart.space, apart.groups, found[0].thetas[0])
    each = apart.posterior.only([0]).mean(unit, 0, 1.0)[0]
    assert each != pytest.approx(whole.posterior.mean(unit, 0, 1.0)[0])
    mean, _ = apart.posterior.mean_sd(unit, 0, 1.0)
    assert mean[0] == pytest.approx(each)


def test_where_the_exposures_of_a_deal_are_too_noisy_their_metric_is_unmeasured() -> None:
    silent = evidence(PER_BUCKET)
    silent.changes.control_relative_se[2] = 0.2  # impressions per bucket
    experiment = initial(PER_BUCKET)
    experiment = msgspec.structs.replace(experiment, history=experiment.history + 1.0)
    assert believe(PER_BUCKET, experiment, (silent,), 1.0).unmeasured == ("watch",)


def test_vectors_outside_the_bounds_are_evidence_but_are_not_repeated() -> None:
    inside, outside = evidence(deal=1).thetas
    middle = (inside["all"][1] + outside["all"][1]) / 2
    low, high = (0.01, middle) if inside["all"][1] < outside["all"][1] else (middle, 100.0)
    weights = (PLAN.weights[0], Weight("p_watch", low, high, middle, "log"), PLAN.weights[2])
    plan = varied(weights=weights)
    believed = believe(plan, initial(plan), (evidence(),), 1.0)
    assert believed.posterior.rows == 2
    assert believed.posterior.seen.unit.max() > 1.0 or believed.posterior.seen.unit.min() < 0.0
    assert len(believed.earlier) == 1
    assert believed.space.to_theta(believed.earlier[0, 0]) == pytest.approx(inside["all"])
    assert len(believe(PLAN, initial(PLAN), (evidence(),), 1.0).earlier) == 2
