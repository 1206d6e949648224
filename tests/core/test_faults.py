"""Reasons to freeze, one by one; `test_step` shows what follows from them."""

from typing import Any

import msgspec
import numpy as np
import pytest

from controller.core.experiment import Experiment, Statistics
from controller.core.faults import events_served, fault
from controller.core.ratio import People
from controller.core.rollout import Deal
from controller.core.windows import Cell, Quality
from tests.core.loop import HOUR, PLAN, START, Loop

END = START + 3 * HOUR


@pytest.fixture(scope="module")
def explored() -> tuple[Experiment, Deal]:
    loop = Loop()
    loop.windows(2)
    return loop.state.experiment, loop.state.experiment.deals[loop.carry.deal]


def seen(experiment: Experiment, events: np.ndarray | None = None, **known: Any) -> Statistics:
    counts = np.full((1, PLAN.buckets), 5) if events is None else events[None]
    cells = {(END, experiment.carry.version): Cell(np.zeros((1, PLAN.buckets, 3), np.int64), counts)}
    healthy = Statistics(END, cells, np.zeros(PLAN.buckets, np.int64), Quality(accepted=600), 0, 600)
    return msgspec.structs.replace(healthy, **known)


def test_a_healthy_window_has_no_fault(explored: tuple[Experiment, Deal]) -> None:
    experiment, deal = explored
    assert fault(PLAN, experiment, seen(experiment), deal) is None


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({"quality": Quality(accepted=580, misattributed=20)}, "misattribution: 20 of 600 events"),
        ({"quality": Quality(misattributed=300)}, "misattribution: 300 of 300 events"),
        ({"rejected": 121}, "impossible values: 121 of 600 events"),
    ],
)
def test_bad_rows_are_a_fault_beyond_their_limit(
    explored: tuple[Experiment, Deal], known: dict[str, Any], why: str
) -> None:
    experiment, deal = explored
    found = fault(PLAN, experiment, seen(experiment, **known), deal)
    assert found is not None
    assert found.startswith(why)


@pytest.mark.parametrize(
    "known",
    [
        {"quality": Quality(accepted=590, misattributed=10, fallback=9999, unknown_version=9999)},
        {"quality": Quality(accepted=10, misattributed=100)},  # too few to say
        {"rejected": 120},
        {"rejected": 150, "arrived": 160},
    ],
)
def test_within_the_limits_they_are_none(explored: tuple[Experiment, Deal], known: dict[str, Any]) -> None:
    experiment, deal = explored
    assert fault(PLAN, experiment, seen(experiment, **known), deal) is None


def test_a_silent_arm_and_lost_units_are_named(explored: tuple[Experiment, Deal]) -> None:
    experiment, deal = explored
    silent = fault(PLAN, experiment, seen(experiment, np.where(deal.buckets == 2, 0, 5)), deal)
    assert silent == f"missing data: arm {deal.arms[2].arm} has no event in the window, while the others have"
    experiment = msgspec.structs.replace(experiment, people=People(np.full(PLAN.buckets, 50.0)))
    lost = fault(PLAN, experiment, seen(experiment, units=np.where(deal.buckets == 2, 5, 50)), deal)
    assert lost is not None
    who = f"sample ratio mismatch: {deal.arms[2].arm} has 90.0% fewer people in the window than its buckets' past and "
    assert lost.startswith(who)


def test_only_what_the_deal_served_in_the_window_counts(explored: tuple[Experiment, Deal]) -> None:
    experiment, deal = explored
    version, other = experiment.carry.version, next(v for v, d in experiment.versions.items() if d != deal.id)
    one = Cell(np.zeros((1, PLAN.buckets, 3), np.int64), np.ones((1, PLAN.buckets), np.int64))
    cells = {(END, version): one, (END - HOUR, version): one, (END, other): one, (END, 777): one}
    assert events_served(experiment, seen(experiment, cells=cells), deal).tolist() == [1] * PLAN.buckets
