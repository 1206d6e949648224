"""The sample ratio: calibrated where nothing is wrong, and as strong as the people that there are."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from controller.assignment import Arm
from controller.core import ratio
from controller.core.ratio import Counted, Mismatch, People
from controller.core.rollout import Deal

BUCKETS, ARMS = 400, 5
Ints = np.ndarray


def deal(rng: np.random.Generator, number: int = 0) -> Deal:
    """Four vectors of names of their own, on 40 buckets each."""
    buckets = np.zeros(BUCKETS, np.int16)
    buckets[rng.permutation(BUCKETS)[:160]] = np.repeat(np.arange(1, 5), 40)
    vectors = (Arm(f"e{4 * number + k}", "explore", {}) for k in range(4))
    return Deal(number, "explore", (Arm("control", "control", {}), *vectors), buckets)


def known(past: Ints) -> People:
    return People(past.astype(np.float64))


def judged(people: People, units: Ints, dealt: Deal) -> tuple[Mismatch, People]:
    window = ratio.counted(people, units, dealt)
    return ratio.mismatch(people, window), ratio.remembered(people, window)


def nobody() -> People:
    return People(np.zeros(BUCKETS))


def fewer(rng: np.random.Generator, units: Ints, dealt: Deal, arms: Callable[[Ints], Ints], loss: float = 0.05) -> Ints:
    return np.where(arms(dealt.buckets), rng.binomial(units, 1.0 - loss), units)


def test_it_is_calibrated_where_buckets_differ_and_people_come_again() -> None:
    """The worst past there is: the same people in each of its windows, and other people now."""
    rng = np.random.default_rng(2)
    p = []
    for _ in range(1500):
        size = rng.gamma(4.0, 3.0, BUCKETS)  # units of a bucket: very unequal
        p.append(judged(known(rng.poisson(size) * 10), rng.poisson(size), deal(rng))[0].p)
    for alpha in (0.1, 0.01):
        assert np.mean(np.array(p) < alpha) <= alpha + 3 * np.sqrt(alpha / len(p))
    assert np.mean(np.array(p) < 0.1) > 0.05  # and not merely silent


@pytest.mark.parametrize(("holds", "believed"), [(0.4, 0.4), (-0.5, 0.0), (1.5, 1.0)])
def test_as_much_of_a_bucket_s_past_is_expected_as_still_holds_within_arms(holds: float, believed: float) -> None:
    rng = np.random.default_rng(13)
    dealt, past = deal(rng), rng.uniform(50.0, 150.0, BUCKETS)
    before = past / past.mean() - 1.0
    of_arm = np.where(dealt.buckets == 1, 0.45, -0.05)  # what a vector does to how often people come
    window = ratio.counted(known(past), 2000.0 * (1.0 + holds * before + of_arm), dealt)
    assert window.expected == pytest.approx(2000.0 * (1.0 + believed * before))


def test_without_a_past_equal_buckets_are_only_nearly_equal() -> None:
    rng = np.random.default_rng(3)
    p = [judged(nobody(), rng.poisson(rng.poisson(12.0, BUCKETS)), deal(rng))[0].p for _ in range(1500)]
    assert np.mean(np.array(p) < 0.01) <= 0.01 + 3 * np.sqrt(0.01 / len(p))


@pytest.mark.parametrize("lasts", [True, False])
def test_pooled_windows_are_calibrated_where_the_same_buckets_stray_in_both(lasts: bool) -> None:
    """Whoever comes in one of two windows mostly comes in the other; the map lasts, or is dealt anew."""
    rng = np.random.default_rng(4)
    p = []
    for _ in range(600):
        past = rng.poisson(rng.gamma(40.0, 1.0, BUCKETS)) * 10.0
        now = rng.gamma(40.0, 1.0, BUCKETS)  # nothing to do with it
        first = deal(rng)
        second = msgspec.structs.replace(first, id=1) if lasts else deal(rng, 1)
        _, people = judged(known(past), rng.poisson(now), first)
        p.append(judged(people, rng.poisson(now), second)[0].p)
    for alpha in (0.1, 0.01):
        assert np.mean(np.array(p) < alpha) <= alpha + 3 * np.sqrt(alpha / len(p))
    assert np.mean(np.array(p) < 0.1) > 0.02  # of pooled and single looks, which go together


def test_buckets_that_stray_alike_in_both_windows_add_to_the_variance_of_the_two() -> None:
    """The same window twice: rho is 1, but for the arms' own means; so twice the sum is nearly 4 V, and not 2 V."""
    rng = np.random.default_rng(10)
    window = ratio.counted(nobody(), rng.poisson(rng.gamma(20.0, 2.0, BUCKETS)), deal(rng))
    spread = ratio._spread(window)
    assert spread is not None
    alone = ratio._size(window, spread, "e1").variance
    both = ratio._together((window, window), (spread, spread), "e1")
    assert both.variance > 2.0 * alone
    assert both.variance == pytest.approx(2.0 * alone * (1.0 + (BUCKETS - ARMS) / BUCKETS))


def test_how_alike_buckets_stray_is_told_by_those_that_are_known_in_both_windows() -> None:
    rng = np.random.default_rng(10)
    window = ratio.counted(nobody(), rng.poisson(rng.gamma(20.0, 2.0, BUCKETS)), deal(rng))
    spread, half = ratio._spread(window), np.arange(BUCKETS) % 2 == 0
    assert spread is not None
    part = msgspec.structs.replace(spread, inside=half, scaled=np.where(half, spread.scaled, 0.0))
    alone = ratio._size(window, spread, "e1").variance
    rho = np.mean(spread.scaled[half] ** 2)
    for spreads in ((part, spread), (spread, part)):
        both = ratio._together((window, window), spreads, "e1")
        assert both.variance == pytest.approx(2.0 * alone * (1.0 + rho))


def test_of_two_arms_one_mirrors_the_other() -> None:
    rng = np.random.default_rng(12)
    two = Deal(0, "confirm", deal(rng).arms[:2], rng.integers(0, 2, BUCKETS).astype(np.int16))
    window = ratio.counted(nobody(), rng.poisson(20.0, BUCKETS), two)
    spread = ratio._spread(window)
    assert spread is not None
    assert ratio._told(window) == ["e0"]
    sizes = [ratio._size(window, spread, name) for name in window.names]
    assert sizes[0].variance == pytest.approx(sizes[1].variance)
    assert sizes[0].y - sizes[0].expected == pytest.approx(sizes[1].expected - sizes[1].y)


def test_buckets_of_arms_with_few_units_do_not_dilute_how_alike_the_others_stray() -> None:
    """Again the same window twice, a vector on trial beside four that are too small to be told of."""
    rng, buckets = np.random.default_rng(11), np.repeat(np.arange(6), [160, 80, 40, 40, 40, 40]).astype(np.int16)
    names = ("control", "c1", "e1", "e2", "e3", "e4")
    window = ratio.counted(
        nobody(),
        rng.poisson(rng.gamma(4.0, 0.5, BUCKETS)),
        Deal(0, "confirm", tuple(Arm(name, "explore", {}) for name in names), buckets),
    )
    spread = ratio._spread(window)
    assert spread is not None
    assert ratio._told(window) == ["control", "c1"]
    alone = ratio._size(window, spread, "c1").variance
    both = ratio._together((window, window), (spread, spread), "c1")
    assert both.variance == pytest.approx(2.0 * alone * (1.0 + (240 - 2) / 240))


def test_it_sees_an_arm_that_loses_units_and_says_which() -> None:
    rng = np.random.default_rng(4)
    size, dealt = rng.gamma(4.0, 30.0, BUCKETS), deal(rng)
    people, units = known(rng.poisson(size) * 5), rng.poisson(size)
    assert judged(people, units, dealt)[0].p > 1e-3
    found, _ = judged(people, fewer(rng, units, dealt, lambda arm: arm == 3, 0.2), dealt)
    assert (found.arm, found.span) == ("e2", "in the window")
    assert found.p < 5e-6
    assert found.difference == pytest.approx(-0.2, abs=0.03)


def test_two_windows_of_an_arm_show_what_one_does_not() -> None:
    """5 % of 8,000 units, twice: 4.2 standard errors a window, 6.0 together."""
    rng = np.random.default_rng(5)
    alone, both = 0, 0
    for _ in range(20):
        dealt, people = deal(rng), known(np.full(BUCKETS, 3000))
        for _ in range(2):
            units = fewer(rng, rng.poisson(200.0, BUCKETS), dealt, lambda arm: arm == 2)
            found, after = judged(people, units, dealt)
            alone += judged(msgspec.structs.replace(people, last=None), units, dealt)[0].p < 5e-6
            people = after
        both += found.p < 5e-6
    assert alone <= 18  # of 40
    assert both >= 15  # of 20


def test_what_all_vectors_lose_adds_up_over_the_windows_of_exploring() -> None:
    """5 % of 40 % of 4,000 units: 1.6 standard errors a window."""
    rng = np.random.default_rng(6)
    people, spans = nobody(), []
    for hour in range(60):
        dealt, units = deal(rng, hour), rng.poisson(10.0, BUCKETS)
        if hour >= 24:
            units = fewer(rng, units, dealt, lambda arm: arm > 0)
        found, people = judged(people, units, dealt)
        spans.append(found.span if found.p < 5e-6 else "")
    assert not any(spans[:26])
    assert "over the windows of exploring" in spans[26:50]
    assert found.arm == "control"


def test_vectors_that_stay_add_nothing_to_what_was_dealt_anew() -> None:
    rng = np.random.default_rng(7)
    dealt = deal(rng)
    _, people = judged(nobody(), rng.poisson(20.0, BUCKETS), dealt)
    _, people = judged(people, rng.poisson(20.0, BUCKETS), deal(rng, 1))
    assert people.control.y > 0
    _, after = judged(people, rng.poisson(20.0, BUCKETS), deal(rng, 1))
    assert after.control == people.control
    new = deal(rng, 2)
    for arms, stays in ((new.arms, False), ((*new.arms[:-1], deal(rng, 1).arms[-1]), True)):
        _, after = judged(people, rng.poisson(20.0, BUCKETS), msgspec.structs.replace(new, arms=arms))
        assert (after.control == people.control) == stays, "one is enough"


def test_a_difference_that_weights_may_make_is_no_fault_at_any_traffic() -> None:
    rng = np.random.default_rng(8)
    dealt, units = deal(rng), rng.poisson(100_000.0, BUCKETS)
    assert judged(nobody(), np.where(dealt.buckets == 1, units * 0.985, units).astype(int), dealt)[0].p == 1.0
    assert judged(nobody(), np.where(dealt.buckets == 1, units * 0.97, units).astype(int), dealt)[0].p < 1e-9


def test_people_who_come_less_and_less_are_no_fault() -> None:
    """.15 % an hour: the buckets' past follows."""
    rng = np.random.default_rng(9)
    dealt, size = deal(rng), rng.gamma(100.0, 100.0, BUCKETS)
    people = known(10.0 * size)
    for hour in range(40):
        mean = np.where(dealt.buckets == 1, size * 0.9985**hour, size)
        found, people = judged(people, rng.poisson(mean), dealt)
        assert found.p > 5e-6


def test_too_few_units_say_nothing() -> None:
    rng = np.random.default_rng(5)
    none = np.zeros(BUCKETS, np.int64)
    assert judged(nobody(), none, deal(rng))[0].p == 1.0
    alone = Deal(1, "explore", deal(rng).arms[:1], np.zeros(BUCKETS, np.int16))
    found, people = judged(nobody(), none + 1, alone)
    assert (found.p, people.last) == (1.0, None)


def test_half_of_the_people_coming_again_each_window_say_more_than_strangers() -> None:
    rng, found = np.random.default_rng(8), 0
    for _ in range(20):
        bucket, dealt = rng.integers(0, BUCKETS, 300_000), deal(rng)
        people, p = nobody(), []
        for window in range(6):
            here = rng.random(len(bucket)) < 0.5
            if window >= 4:
                here &= (dealt.buckets[bucket] != 2) | (rng.random(len(bucket)) > 0.05)
            result, people = judged(people, np.bincount(bucket[here], minlength=BUCKETS), dealt)
            p.append(result.p)
        assert min(p[:4]) > 1e-4
        found += min(p[4:]) < 5e-6
    assert found >= 19


def test_a_window_is_what_it_was_made_of() -> None:
    rng = np.random.default_rng(1)
    dealt = deal(rng)
    window = ratio.counted(nobody(), rng.poisson(20.0, BUCKETS), dealt)
    assert isinstance(window, Counted)
    assert window.expected.sum() == pytest.approx(window.units.sum())
