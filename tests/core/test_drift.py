"""A vector served for long is given up when its newest windows gain less than half of what it gained, surely."""

import math
import re

import msgspec
import numpy as np
import pytest

from controller.core.advance import measured_gain
from controller.core.drift import SURE, faded
from controller.core.experiment import Statistics
from controller.core.windows import Cell, Quality
from tests.core.loop import HOUR, PLAN, START, Loop, Theta, at_stage, pleasant


def sour(theta: Theta, segment: str) -> dict[str, float]:
    """The world turned round: what brought watch time costs it; guardrails are as they were."""
    return {**pleasant(theta, segment), "watch_s": -pleasant(theta, segment)["watch_s"]}


def scaled(share: float) -> Loop:
    loop = at_stage("hold")
    loop.windows(6)
    loop.truth = lambda theta, segment: {k: share * v for k, v in pleasant(theta, segment).items()}
    return loop


def test_a_world_that_turns_round_sends_a_held_vector_back() -> None:
    loop = at_stage("hold")
    loop.windows(5)
    loop.truth = sour
    loop.windows(3)
    assert loop.carry.stage == "explore"
    assert loop.carry.candidate is None
    assert loop.carry.banned == at_stage("hold").carry.banned
    assert any("the world has changed: c" in line and "before" in line for line in loop.story()[-3:])


def test_a_test_of_a_vector_that_surely_loses_ends_before_its_time() -> None:
    loop = at_stage("confirm")
    loop.truth = sour
    vector = loop.carry.candidate.theta
    loop.windows(2)
    assert loop.carry.stage == "explore"
    assert vector in loop.carry.banned
    assert any("surely loses: -" in line for line in loop.story()[-2:])


def test_one_bad_hour_ends_no_test() -> None:
    loop = at_stage("confirm")
    loop.window()
    loop.truth = lambda theta, segment: {**pleasant(theta, segment), "watch_s": -0.4}
    loop.window()
    loop.truth = pleasant
    loop.window()
    assert not any("surely loses" in line for line in loop.story())


def test_what_is_lost_a_little_stays() -> None:
    loop = scaled(0.7)
    loop.windows(12)
    assert loop.carry.stage == "hold"


def test_what_loses_most_of_its_gain_goes() -> None:
    loop = scaled(0.2)
    loop.windows(3)
    assert loop.carry.stage == "explore"


def test_a_vector_that_does_what_it_did_stays() -> None:
    loop = at_stage("hold")
    loop.windows(40)
    assert loop.carry.stage == "hold"


def cell(rng: np.random.Generator, trait: np.ndarray, arm: np.ndarray, gain: float) -> Cell:
    sums = np.array([1000.0, 100.0, 5000.0]) * (1.0 + 0.02 * rng.standard_normal((1, PLAN.buckets, 3)))
    sums[..., 2] *= 1.0 + gain * arm + 0.04 * trait
    return Cell(np.rint(sums * 1e6).astype(np.int64), np.ones((1, PLAN.buckets), np.int64))


def test_the_difference_of_two_halves_is_no_noisier_than_it_is_taken_for() -> None:
    """400 tests of a vector that gains nothing: z-scores of its halves, buckets having traits for ever."""
    loop, rng, z = at_stage("confirm"), np.random.default_rng(1), []
    deal = loop.state.experiment.deals[loop.carry.deal]
    deal = msgspec.structs.replace(deal, history=None)
    for _ in range(400):
        trait = rng.standard_normal(PLAN.buckets)
        (was, a), (now, b) = (measured_gain(PLAN, deal, cell(rng, trait, deal.buckets, 0.0)) for _ in range(2))
        z.append((was - now) / math.hypot(a, b))
    assert abs(np.std(z) - (1 / 3) ** 0.5) < 0.08  # 2 x .02^2 of luck beside .04^2 of traits, which cancel
    assert np.max(np.abs(z)) < SURE


def told(loop: Loop, gains: dict[int, float]) -> str | None:
    """What is found in windows so many hours ago with such gains, older ones having gained .1."""
    experiment, end = loop.state.experiment, START + (loop.hour + 1) * HOUR
    deal, rng, none = experiment.deals[loop.carry.deal], np.random.default_rng(2), np.zeros(PLAN.buckets)
    cells = {(end - ago * HOUR, loop.table.version): cell(rng, none, deal.buckets, gain) for ago, gain in gains.items()}
    return faded(PLAN, experiment, Statistics(end, cells, np.zeros(PLAN.buckets, np.int64), Quality()), deal)


def test_one_bad_hour_is_no_change_and_two_are() -> None:
    loop = at_stage("confirm")
    assert "in the last 3 windows" in (told(loop, {8: 0.1, 7: 0.1, 2: 0.1, 1: -0.2, 0: -0.2}) or "")
    assert told(loop, {8: 0.1, 7: 0.1, 2: 0.1, 1: 0.1, 0: -0.6}) is None


def test_the_last_six_windows_are_held_against_those_before_and_no_window_is_both() -> None:
    why = told(at_stage("confirm"), {7: 0.1, 6: 0.1, 5: -0.2, 0: -0.2}) or ""
    gains = re.search(r"gains (-[\d.]+)% .* in the last 2 windows, \+([\d.]+)% \+- [\d.]+% before", why)
    assert gains is not None, why
    assert [float(gain) for gain in gains.groups()] == pytest.approx([-20.0, 10.0], abs=2.5)


def test_without_older_or_with_one_new_window_or_in_exploration_nothing_is_compared() -> None:
    loop = at_stage("confirm")
    assert told(loop, {1: 0.1, 0: -0.2}) is None
    assert told(loop, {8: 0.1, 0: -0.2}) is None
    loop = Loop()
    assert told(loop, {8: 0.1, 1: -0.2, 0: -0.2}) is None
