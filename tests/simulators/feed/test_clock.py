"""When people come: the hours of visits, the gaps between days, and what makes them longer."""

import numpy as np
import pytest

from simulators.closed_loop import START_MS
from simulators.feed.clock import LONGER_DAYS, back_tomorrow, first_visits, next_visits, weekday
from simulators.feed.items import DAY_MS
from simulators.feed.pages import shelf_of
from simulators.feed.people import people_of
from simulators.feed.targets import RETURN_GAP_DAYS
from tests.simulators.feed.small import SMALL

N = 40_000
SHELF = shelf_of(SMALL)
PEOPLE = people_of(SMALL, SHELF.items, N, 0)
EVERYONE = np.arange(N, dtype=np.int32)


def test_days_of_the_week() -> None:
    assert weekday(np.array([START_MS // DAY_MS, START_MS // DAY_MS + 5], np.int32)).tolist() == [1, 6]  # a Tuesday


def test_an_unpleasant_page_makes_people_come_later() -> None:
    rng = np.random.default_rng(0)
    end, day = np.full(N, START_MS + 12 * 3_600_000), np.full(N, START_MS // DAY_MS, np.int32)
    gaps = {}
    for mood in (-1.0, 0.0, 1.0):
        at, gap = next_visits(SMALL, PEOPLE, EVERYONE, end, day, np.full(N, mood, np.float32), rng)
        assert np.all(at > end)
        assert np.all(at // DAY_MS == day + gap)
        told = back_tomorrow(SMALL, PEOPLE.habit, np.full(N, mood, np.float32)).mean()
        assert (gap[gap > 0] == 1).mean() == pytest.approx(told, abs=0.01)
        assert (gap == 0).mean() == pytest.approx(SMALL.law.again[1], abs=0.01)
        assert gap[gap > 1].mean() == pytest.approx(LONGER_DAYS, rel=0.03)
        gaps[mood] = gap.mean()
    assert gaps[-1.0] > gaps[0.0] > gaps[1.0]


def test_visits_of_a_day_follow_its_clock() -> None:
    at, _, _ = first_visits(SMALL, PEOPLE, EVERYONE, START_MS, np.random.default_rng(1))
    hours = np.bincount(at // 3_600_000 % 24, minlength=24) / N
    assert np.abs(hours - np.array(SMALL.law.clock)).max() < 0.005


def test_at_the_start_people_have_been_coming_for_ever() -> None:
    at, day, gap = first_visits(SMALL, PEOPLE, EVERYONE, START_MS, np.random.default_rng(2))
    today = day == START_MS // DAY_MS
    active = 1.0 / (1.0 + (LONGER_DAYS - 1.0) * (1.0 - back_tomorrow(SMALL, PEOPLE.habit, np.zeros(N, np.float32))))
    assert today.mean() == pytest.approx(active.mean(), abs=0.01)
    share = np.bincount(gap[today], minlength=17)[1:] / today.sum()
    assert share[1:4] == pytest.approx(np.array(RETURN_GAP_DAYS[1:4]) / sum(RETURN_GAP_DAYS), abs=0.012)
    late, _, _ = first_visits(SMALL, PEOPLE, EVERYONE, START_MS + DAY_MS // 2, np.random.default_rng(3))
    assert late.min() >= START_MS + DAY_MS // 2
    assert at.min() >= START_MS
