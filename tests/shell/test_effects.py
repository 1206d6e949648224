import msgspec
import numpy as np
import pytest

from controller.core import evidence
from controller.core.estimate import Served
from controller.core.evidence import deal_changes, deal_sums, trial_sums
from controller.core.safety import Guardrail
from controller.shell.effects import UNKNOWN, Z95, Effect, arm_effects, effect, margins, measured, pooled
from tests.core.loop import PLAN, Loop, at_stage, varied


def served(loop: Loop) -> int:
    """The newest deal with vectors and traffic."""
    experiment, cells = loop.state.experiment, loop.state.windows.cells
    return max(d for d, deal in experiment.deals.items() if len(deal.arms) > 1 and deal_sums(experiment, cells, d))


def test_an_interval_is_two_standard_errors_to_either_side() -> None:
    assert effect(0.02, 0.01) == Effect(0.02, 0.02 - Z95 * 0.01, 0.02 + Z95 * 0.01)
    assert effect(float("nan"), 0.01) == effect(0.0, float("inf")) == UNKNOWN


def test_arms_are_told_as_they_are_estimated() -> None:
    loop = at_stage("explore")
    loop.windows(2)
    experiment, id_ = loop.state.experiment, served(loop)
    deal, cell = experiment.deals[id_], deal_sums(experiment, loop.state.windows.cells, id_)
    assert cell is not None
    changes = deal_changes(PLAN, deal, cell)
    found = arm_effects(PLAN, evidence.served(deal, cell))
    assert len(found) == len(deal.arms) - 1
    for a, arm in enumerate(found):
        for m, metric in enumerate(arm.metrics):
            assert metric.metric == PLAN.metrics[m].name
            change, se = float(changes.change[m, 0, a]), float(changes.covariance[m, 0, a, a]) ** 0.5
            assert metric.effect == effect(change, se)
        watch = arm.metrics[0].effect  # which alone is the objective
        assert arm.gain.change == pytest.approx(watch.change)
        assert arm.gain.low == pytest.approx(watch.low)


@pytest.mark.parametrize(
    ("low", "high", "state"), [(-0.04, 0.02, "kept"), (-0.06, -0.02, "unsure"), (-0.09, -0.06, "broken")]
)
def test_a_guardrail_is_kept_only_where_the_whole_interval_is(low: float, high: float, state: str) -> None:
    middle = (low + high) / 2
    fall = margins(PLAN, {"ctr": Effect(middle, low, high), "watch": UNKNOWN})
    assert (fall[0].state, fall[0].side) == (state, "min")
    assert fall[0].margin == pytest.approx(middle + 0.05)
    plan = varied(guardrails=(Guardrail("ctr", max_change=0.05),))
    rise = margins(plan, {"ctr": Effect(-middle, -high, -low), "watch": UNKNOWN})
    assert (rise[0].state, rise[0].side) == (state, "max")
    assert rise[0].margin == pytest.approx(middle + 0.05)


def test_what_cannot_be_measured_is_not_kept() -> None:
    assert margins(PLAN, {"ctr": UNKNOWN, "watch": UNKNOWN})[0].state == "unsure"


@pytest.mark.parametrize(("events", "known"), [(0, False), (1, False), (8, True)])
def test_beside_a_control_with_hardly_an_event_nothing_is_told(events: int, known: bool) -> None:
    rng, arm_of = np.random.default_rng(1), np.repeat([0, 1], 500)
    sums = np.zeros((1, 1000, 3), np.int64)
    sums[..., 0] = rng.poisson(200.0, 1000) * 1_000_000
    sums[..., 1] = rng.poisson(0.02, 1000) * 1_000_000
    sums[..., 2] = rng.poisson(50.0, 1000) * 1_000_000
    sums[0, :500, 1] = 0
    sums[0, rng.choice(500, events, replace=False), 1] = 1_000_000
    plan = varied(objective={"watch": 1.0, "ctr": 0.5})
    assert plan.component_names == ("impressions", "clicks", "watch_s")
    (found,) = arm_effects(plan, Served(sums, arm_of, 2))
    by_metric = {one.metric: one.effect for one in found.metrics}
    assert by_metric["watch"] != UNKNOWN
    assert [by_metric["ctr"] != UNKNOWN, found.gain != UNKNOWN, found.margins[0].margin is not None] == [known] * 3


def test_pooling_weighs_by_precision() -> None:
    once, twice = pooled([effect(0.01, 0.02)]), pooled([effect(0.01, 0.01), effect(0.04, 0.02)])
    assert once == pytest.approx(effect(0.01, 0.02))
    assert twice.change == pytest.approx((4 * 0.01 + 0.04) / 5)
    assert twice.high is not None
    assert twice.change is not None
    assert twice.high - twice.change == pytest.approx(Z95 / (1 / 0.01**2 + 1 / 0.02**2) ** 0.5)
    assert pooled([UNKNOWN]) == pooled([]) == UNKNOWN


def test_few_clicks_a_deal_do_not_look_like_fewer_clicks() -> None:
    """Five on control a deal and no effect: relative to control's own level the mean is a fifth too low."""
    rng, arm_of, per_deal = (
        np.random.default_rng(7),
        np.repeat([0, 1], [100, 50]),
        {"impressions": 50.0, "clicks": 0.05},
    )
    past = np.array([20 * per_deal.get(name, 10.0) for name in PLAN.component_names])
    history = np.broadcast_to(past * 1e6, (1, 150, len(past)))
    alone, all_ = [], []
    for _ in range(200):
        sums = np.stack([rng.poisson(per_deal.get(name, 10.0), 150) for name in PLAN.component_names], axis=-1)
        deal = Served(sums[None] * 10**6, arm_of, 2, history)
        alone.append(arm_effects(PLAN, deal, usable_alone=True)[0].metrics[1].effect)
        all_.append(arm_effects(PLAN, deal)[0].metrics[1].effect)
    told, low = pooled(alone), pooled(all_)
    assert told.low is not None
    assert told.high is not None
    assert told.low < 0.0 < told.high
    assert low.high is not None
    assert low.high < -0.1


def test_exploring_traffic_is_told_as_one_over_the_deals_that_are_open() -> None:
    loop = Loop()
    assert measured(PLAN, loop.state.experiment, loop.state.windows.cells) is None
    loop.windows(4)
    found = measured(PLAN, loop.state.experiment, loop.state.windows.cells)
    assert found is not None
    assert (found.what, found.arm) == ("exploring", "")
    assert found.deals >= 2
    assert found.events % PLAN.buckets == 0
    assert [m.metric for m in found.effects.metrics] == ["watch", "ctr"]


def test_a_candidate_is_told_by_its_whole_test() -> None:
    loop = at_stage("confirm")
    loop.windows(2)
    experiment, cells = loop.state.experiment, loop.state.windows.cells
    found, cell = measured(PLAN, experiment, cells), trial_sums(experiment, cells)
    assert found is not None
    assert cell is not None
    assert experiment.trial is not None
    assert experiment.carry.candidate is not None
    arm = experiment.carry.candidate.arm
    assert (found.what, found.arm, found.events) == ("candidate", arm, int(cell.events.sum()))
    changes = deal_changes(PLAN, experiment.trial, cell)
    assert found.effects.metrics[0].effect.change == pytest.approx(float(changes.change[0, 0, 0]))
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
