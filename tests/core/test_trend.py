"""A ramp is stopped by a gain that falls with the share, not by luck, nor by the hour of the day."""

import numpy as np
import pytest

from controller.core.trend import ALPHA, Step, falling, kept_at_last, kept_by_line

SHARES = (0.05, 0.25, 0.5, 0.95)


def ramp(gains: list[float], se: float) -> list[Step]:
    return [Step(share, gain, se) for share, gain in zip(SHARES, gains, strict=False)]


def test_two_shares_are_compared_as_they_are() -> None:
    for kept in (kept_by_line, kept_at_last):
        excess, se = kept([Step(0.25, 0.04, 0.003), Step(0.95, 0.01, 0.004)])
        assert excess == pytest.approx(0.01 - 0.5 * 0.04)
        assert se == pytest.approx(np.hypot(0.004, 0.5 * 0.003))


def test_the_line_is_weighted_least_squares() -> None:
    steps = [
        Step(s, g, e) for s, g, e in zip(SHARES, (0.05, 0.03, 0.035, 0.0), (0.02, 0.006, 0.005, 0.01), strict=True)
    ]
    slope, at_zero = np.polyfit(SHARES, [s.gain for s in steps], 1, w=[1.0 / s.se for s in steps])
    assert kept_by_line(steps)[0] == pytest.approx((at_zero + slope * 0.95) - 0.5 * (at_zero + slope * 0.05))
    assert kept_by_line(steps[::-1]) == pytest.approx(kept_by_line(steps)), (
        "a share may be tried again after a larger one"
    )


@pytest.mark.parametrize(
    ("gains", "stopped"),
    [
        ([0.05, 0.05, 0.05, 0.05], False),
        ([0.05, 0.045, 0.04, 0.03], False),  # what the hour of the day does
        ([0.05, 0.04, 0.03, 0.00], True),
        ([0.05, 0.02], True),
        ([0.05], False),
        ([0.0, 0.0, 0.0, 0.0], False),
        ([0.01, 0.02, 0.03, 0.05], False),
        ([0.05, 0.05, 0.05, -0.02], True),  # only the last share shows it
    ],
)
def test_what_is_stopped(gains: list[float], stopped: bool) -> None:
    why = falling(ramp(gains, 0.001), looks=3)
    assert bool(why) == stopped
    if why:
        assert "at 5%" in why
        assert "falls as the share grows" in why


def test_what_cannot_be_told_stops_nothing() -> None:
    assert falling(ramp([0.05, float("nan"), float("nan")], 0.001), 3) is None
    assert falling([Step(0.05, 0.05, 0.0), Step(0.95, 0.0, 0.0)], 3) is None
    assert falling(ramp([0.05, -0.05, -0.1], 0.1), 3) is None


def measured(gain: float, rng: np.random.Generator, trait: float) -> list[Step]:
    """A ramp over 1,000 buckets, each share's buckets holding the smaller ones', with traits that stay."""
    order, n, noise, steps = rng.permutation(1000), 1000, 0.1, []
    own = trait * rng.standard_normal(n)
    for share in SHARES:
        treated = np.isin(np.arange(n), order[: round(share * n)])
        y = own + noise * rng.standard_normal(n) + gain * treated
        one, other = y[treated], y[~treated]
        se = np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
        steps.append(Step(share, float(one.mean() - other.mean()), float(se)))
    return steps


@pytest.mark.parametrize("trait", [0.0, 0.1, 0.3])
def test_without_any_gain_the_line_strays_no_more_than_its_error_says(trait: float) -> None:
    """The hardest case: a gain of 0 has nothing to lose, so every stop is luck."""
    rng = np.random.default_rng(1)
    z = []
    for _ in range(600):
        steps = measured(0.0, rng, trait)
        z.append([excess / se for excess, se in (kept_by_line(steps), kept_at_last(steps))])
    assert np.std(z, axis=0).max() < 1.08
    assert np.mean(np.array(z) < -3.09) < 0.01


def test_a_gain_that_stays_is_never_stopped() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        steps = measured(0.04, rng, 0.1)
        assert not any(falling(steps[:k], 3) for k in (2, 3, 4))
    assert ALPHA == 0.001
