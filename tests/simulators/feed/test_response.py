"""The law of responses: known chances, and signals that come together as the law says."""

from itertools import product

import numpy as np
import pytest

from simulators.feed.response import Chances, chances, marginals, respond, together
from simulators.feed.shipped import SHORTVIDEO

LAW = SHORTVIDEO.law


def pairs(n: int, seed: int = 0) -> Chances:
    rng = np.random.default_rng(seed)
    eta = rng.standard_normal((7, n, 1)) + np.array([0.0, 0.5, -3.0, -4.0, -4.5, -4.5, -5.0])[:, None, None]
    return chances(eta.astype(np.float32))


def one_by_one(at: Chances, i: int) -> dict[tuple[int, ...], float]:
    """Every pattern's chance of one pair, written out from the law's definition."""
    found = {}
    for y in product((0, 1), repeat=7):
        click, stay = float(at.click[i, 0]), float(at.stay[i, 0])
        p = click if y[0] else 1 - click
        stay = stay if y[0] else LAW.stray
        p *= stay if y[1] else 1 - stay
        given: list[float] = []
        for j in range(5):
            cell = 1.0 if y[1] else LAW.clicked[j] if y[0] else LAW.passed[j]
            q = float(at.rate[j, i, 0]) * cell
            for k in range(j):
                q *= (1 + (LAW.pairs[j][k] - 1) * y[2 + k]) / (1 + (LAW.pairs[j][k] - 1) * given[k])
            q = min(q, 1.0)
            given.append(q)
            p *= q if y[2 + j] else 1 - q
        found[y] = p
    return found


def test_chances_are_those_of_every_pattern_added_up() -> None:
    at = pairs(20)
    told = marginals(LAW, at)
    for i in range(20):
        patterns = one_by_one(at, i)
        assert sum(patterns.values()) == pytest.approx(1.0, abs=1e-6)
        for s in range(7):
            assert told[s, i, 0] == pytest.approx(sum(p for y, p in patterns.items() if y[s]), rel=1e-5)


def test_pairs_by_enumeration_are_those_of_every_pattern() -> None:
    at, weight = pairs(12), np.linspace(1, 2, 12, dtype=np.float32)[:, None]
    expected = np.zeros((7, 7))
    for i in range(12):
        for y, p in one_by_one(at, i).items():
            expected += float(weight[i, 0]) * p * np.outer(y, y)
    assert together(LAW, at, weight) == pytest.approx(expected / weight.sum(), rel=1e-4)


def test_signals_are_drawn_by_the_law() -> None:
    n = 600_000
    at = pairs(60, seed=3)
    many = Chances(*(np.repeat(each, n // 60, axis=-2) for each in (at.click, at.stay, at.rate)))
    drawn = respond(LAW, many, np.ones((n, 1), np.bool_), np.random.default_rng(4)).reshape(7, n).astype(np.float64)
    expected = together(LAW, at, np.ones((60, 1), np.float32))
    found = drawn @ drawn.T / n
    assert np.abs(found - expected).max() < 0.003
    assert np.all(np.abs(found - expected) <= 5.0 * np.sqrt(expected / n) + 1e-9)


def test_what_is_not_examined_gets_no_signal() -> None:
    at: Chances = pairs(1000)
    examined = np.arange(1000)[:, None] % 2 == 0
    drawn = respond(LAW, at, examined, np.random.default_rng(0))
    assert not drawn[:, ~examined[:, 0]].any()
    assert drawn[0, examined[:, 0]].any()
