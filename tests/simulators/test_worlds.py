"""The closed form itself; that events follow it is shown in test_events."""

import msgspec
import numpy as np
import pytest

from controller.core.estimate import Metric
from controller.core.safety import Guardrail
from controller.core.space import Space, Weight
from simulators.catalog import WORLDS, world_named
from simulators.handmade import AA, FEED, TENURE
from simulators.optimum import best_feasible
from simulators.worlds import (
    HOUR_MS,
    Floats,
    Quantity,
    Season,
    World,
    component_levels,
    gain,
    hour_of,
    margins,
    rate_changes,
    recalibrated,
    traffic,
    true_change,
    volume,
    weekday_of,
)

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


SMALL = World(
    name="small",
    summary="",
    weights=(Weight("a", 0.1, 10.0, 1.0, "log"), Weight("b", -1.0, 3.0, 0.5)),
    quantities=(
        Quantity("impressions", "count", 10.0, response={("b",): 0.2}),
        Quantity("clicks", "part", 0.1, of="impressions", response={("a", "b"): 0.5}, tilts={"new": {("a",): -0.3}}),
        Quantity("watch_s", "amount", 30.0, of="clicks", tilts={"new": {(): 0.7, ("b",): 0.1}}),
    ),
    visits={("a",): 0.1},
    metrics=(Metric("ctr", "clicks", "impressions"), Metric("watch", "watch_s", "buckets")),
    objective={"watch": 2.0},
    guardrails=(Guardrail("ctr", min_change=-0.02), Guardrail("watch", max_change=0.3)),
    segments={"new": 0.25, "old": 0.75},
)


def test_a_world_of_two_weights_by_hand() -> None:
    """A log coordinate and a linear one, terms of a segment's own, and one that is there at the baseline."""
    a, b = np.log(2.0) / np.log(100.0), (1.5 - 0.5) / 4.0
    theta = np.array([2.0, 1.5])
    new = [0.1 * a, 0.2 * b, 0.5 * a * b - 0.3 * a, 0.7 + 0.1 * b]
    old = [0.1 * a, 0.2 * b, 0.5 * a * b, 0.0]
    assert rate_changes(SMALL, theta, "new") == pytest.approx(new)
    assert rate_changes(SMALL, {"all": SMALL.baseline, "old": theta}, "old") == pytest.approx(old)
    assert rate_changes(SMALL, {"all": theta, "old": SMALL.baseline}, "other") == pytest.approx(old)
    assert component_levels(SMALL, theta, "new") == pytest.approx(np.exp([sum(new[:k]) for k in (2, 3, 4)]))
    shares = np.array([0.25, 0.75])
    shown, clicks, watch = (shares @ np.exp([sum(new[:k]), sum(old[:k])]) for k in (2, 3, 4))
    change = true_change(SMALL, theta)
    assert change == pytest.approx([clicks / shown - 1.0, watch / (shares @ np.exp([0.7, 0.0])) - 1.0])
    assert gain(SMALL, change) == pytest.approx(2.0 * change[1])
    assert margins(SMALL, change) == pytest.approx([change[0] + 0.02, 0.3 - change[1]])
    assert margins(msgspec.structs.replace(SMALL, guardrails=()), np.stack([change, change])).shape == (2, 0)


def test_a_recalibration_by_hand() -> None:
    """A log coordinate moves by log 3 / log 100; a linear one is stretched, about where the weight is nothing."""
    s, t = np.log(3.0) / np.log(100.0), (2.0 - 1.0) * 0.5 / 4.0
    new = recalibrated(SMALL, {"a": 3.0, "b": 2.0})
    assert new.events_per_hour == pytest.approx(SMALL.events_per_hour * np.exp(0.1 * s))
    assert new.visits == pytest.approx({("a",): 0.1})
    shown, clicks, watch = new.quantities
    assert (shown.rate, clicks.rate, watch.rate) == pytest.approx(
        (10.0 * np.exp(0.2 * t), 0.1 * np.exp(0.5 * s * t), 30.0)
    )
    assert shown.response == pytest.approx({("b",): 0.4})
    assert clicks.response == pytest.approx({("a", "b"): 1.0, ("a",): 0.5 * t, ("b",): 1.0 * s})
    assert clicks.tilts["new"] == pytest.approx({("a",): -0.3, (): -0.3 * s})
    assert watch.tilts["new"] == pytest.approx({(): 0.7 + 0.1 * t, ("b",): 0.2})
    squared = msgspec.structs.replace(SMALL, visits={("b", "b"): 1.0})
    terms = recalibrated(squared, {"b": 2.0}).visits
    assert sum(terms[key] for key in terms if len(key) == 1) == pytest.approx(4.0 * t)
    assert terms["b", "b"] == pytest.approx(4.0)


def test_a_season_is_highest_at_its_hour_and_at_the_week_s_end() -> None:
    season, monday = Season(swing=0.2, peak_hour=21.0, weekend=0.1), 4 * 24 * HOUR_MS
    hours = monday + np.arange(7 * 24) * HOUR_MS
    factor = season.factor(hours)
    assert factor[[21, 9, 3]] == pytest.approx([1.2, 0.8, 1.0])
    assert factor[: 5 * 24].reshape(5, 24).mean(axis=1) == pytest.approx([1.0] * 5)
    assert factor[5 * 24 :] / factor[: 2 * 24] == pytest.approx(1.1)
    assert weekday_of(hours).tolist() == np.repeat(np.arange(7), 24).tolist()
    world = msgspec.structs.replace(SMALL, volume_swing=1.0, week=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0))
    assert traffic(world, hours).tolist() == np.repeat(np.arange(1.0, 8.0), 24).tolist()


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
