"""The closed form itself; that events follow it is shown in test_events."""

import msgspec
import numpy as np
import pytest

from controller.core.space import Space
from simulators.catalog import WORLDS, world_named
from simulators.handmade import AA, FEED, TENURE
from simulators.optimum import best_feasible
from simulators.worlds import HOUR_MS, Floats, World, gain, hour_of, margins, true_change, volume

ALL_WORLDS = pytest.mark.parametrize("world", list(WORLDS.values()), ids=list(WORLDS))


def random_vectors(world: World, n: int, seed: int) -> Floats:
    space = Space(world.weights)
    return np.asarray(space.to_theta(np.random.default_rng(seed).random((n, space.d))))


@ALL_WORLDS
def test_nothing_changes_at_the_baseline(world: World) -> None:
    assert np.abs(true_change(world, world.baseline)).max() < 1e-12
    assert margins(world, true_change(world, world.baseline)).min() > 0


@ALL_WORLDS
def test_many_vectors_at_once_equal_one_by_one(world: World) -> None:
    theta = random_vectors(world, 7, seed=1)
    assert np.allclose(true_change(world, theta), [true_change(world, vector) for vector in theta])


def test_a_chain_of_quantities_multiplies() -> None:
    theta = FEED.baseline.copy()
    theta[3] *= 2  # p_watch, on a log scale from 0.1 to 5
    x = np.log(2) / np.log(50)
    change = dict(zip([m.name for m in FEED.metrics], true_change(FEED, theta), strict=True))
    clicks = -0.03 * x - 0.06 * x**2
    assert change["ctr"] == pytest.approx(np.expm1(clicks))
    assert change["watch"] == pytest.approx(np.expm1(0.02 * x + clicks + 0.38 * x - 0.34 * x**2))


def test_segments_mix_by_their_share() -> None:
    theta = np.array([1.0, 1.5, -5.0])
    together = true_change(TENURE, theta)
    apart = [true_change(msgspec.structs.replace(TENURE, segments={name: 1.0}), theta) for name in TENURE.segments]
    assert together[0] == pytest.approx(0.3 * apart[0][0] + 0.7 * apart[1][0])
    served_apart = true_change(TENURE, {"all": TENURE.baseline, "returning": theta})
    assert served_apart[0] == pytest.approx(0.7 * apart[1][0])


@pytest.mark.parametrize("world", [FEED, TENURE, AA], ids=["feed", "tenure", "aa"])
def test_no_random_vector_beats_the_optimum(world: World) -> None:
    best = best_feasible(world)
    theta = random_vectors(world, 200_000, seed=2)
    change = true_change(world, theta)
    feasible = margins(world, change).min(axis=-1) >= 0
    found = gain(world, change)[feasible].max()
    assert best.gain >= found
    assert margins(world, true_change(world, best.theta)).min() >= 0
    assert gain(world, true_change(world, best.theta)) == pytest.approx(best.gain)


def test_the_feeds_optimum_is_worth_finding_and_held_back_by_both_guardrails() -> None:
    best, free = best_feasible(FEED), best_feasible(FEED, constrained=False)
    assert 0.05 < best.gain < 0.08
    assert free.gain > best.gain + 0.02
    assert (margins(FEED, true_change(FEED, free.theta)) < 0).all()
    assert np.allclose(margins(FEED, true_change(FEED, best.theta)), 0, atol=1e-6)


def test_an_impossible_guardrail_is_an_error() -> None:
    guards = (msgspec.structs.replace(FEED.guardrails[0], min_change=0.5),)
    with pytest.raises(ValueError, match="no vector keeps every guardrail"):
        best_feasible(msgspec.structs.replace(FEED, guardrails=guards))


def test_in_the_aa_world_no_vector_matters() -> None:
    assert not true_change(AA, random_vectors(AA, 100, seed=3)).any()


def test_traffic_swings_eightfold_and_keeps_its_mean() -> None:
    hours = hour_of(np.arange(0, 86_400_000, 60_000, dtype=np.int64))
    curve = volume(FEED, hours)
    assert curve.max() / curve.min() == pytest.approx(8.0, rel=1e-3)
    assert curve.mean() == pytest.approx(1.0)
    assert 20 < hours[curve.argmax()] < 23
    assert 3 < hours[curve.argmin()] < 6


def test_the_click_rate_moves_over_the_day_as_real_ones_do() -> None:
    clicks = FEED.quantities[FEED.index("clicks")]
    rates = clicks.rate * clicks.season.factor(np.arange(24) * HOUR_MS)
    assert 0.36 < rates.min() < 0.37
    assert 0.40 < rates.max() < 0.41


def test_an_unknown_world_is_named_beside_those_there_are() -> None:
    with pytest.raises(ValueError, match="'fed'; there are feed, quick, tenure, aa, "):
        world_named("fed")
