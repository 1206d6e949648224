"""The sample ratio: do the people of a window fall on the arms as their buckets and the other arms foretell?

People are counted, not events: their number moves with the weights. Each arm is held against all others. A fault may
come with a vector, which has one window in explore: so by the window alone. It may last with the vector that is tested:
so an arm that was there before, too, by both windows. And it may come with being served by any vector: so control by
all windows that were dealt anew, old ones fading. These are independent given their buckets; those of a test are not,
and who has been in an arm for long may come more often or less for reasons of his own.

| symbol | shape | meaning |
|---|---|---|
| B, A | | buckets; arms of the deal, control first |
| u, e | (B,) | different units of a window; as many as are expected of the bucket |
| y, E | (A,) | the same of an arm |
| d | | dispersion: the variance of u over e |
"""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from controller.assignment import CONTROL
from controller.core.estimate import TINY
from controller.core.rollout import Deal

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MEMORY = 0.9  # of the buckets' past, a window: who came in the last hours tells best who comes now
RUNNING = 0.95  # of what control had in the windows before, a window
MIN_EXPECTED = 100.0  # units of an arm below which nothing is said
MIN_FREEDOM = 10  # buckets, less arms, below which how they stray is not known
FAULT = 0.02  # a smaller difference is never called one: weights move how often people come, too


class Counted(msgspec.Struct, frozen=True, eq=False):
    """A window's units, and what was expected of them."""

    units: Ints  # (B,) u
    expected: Floats  # (B,) e
    arm_of: NDArray[np.int16]  # (B,)
    names: tuple[str, ...]  # A


class Size(msgspec.Struct, frozen=True):
    """An arm's units beside what is expected."""

    y: float = 0.0
    expected: float = 0.0
    total: float = 0.0  # units of all arms
    variance: float = 0.0  # of y


class People(msgspec.Struct, frozen=True, eq=False):
    """What is known of the buckets' people. Follows from units and tables, like the rest of the experiment's state."""

    past: Floats  # (B,) units of the windows before, old ones fading; all zero: buckets are taken as equal
    last: Counted | None = None  # the window before, where it was sound
    control: Size = Size()  # in the windows before that were dealt anew


Span = Literal["in the window", "in this window and the one before", "over the windows of exploring"]


class Mismatch(msgspec.Struct, frozen=True):
    """An arm with too many or too few people."""

    arm: str
    difference: float  # to what the other arms' people let expect, as a part of that
    span: Span  # that says so
    p: float  # of so large a difference in any arm, if there is none


class _Spread(msgspec.Struct, frozen=True, eq=False):
    """How a window's buckets stray within their arms."""

    dispersion: float  # d
    freedom: int
    inside: NDArray[np.bool_]  # (B,) buckets of arms that have units enough: of no others it is known
    scaled: Floats  # (B,) in standard deviations; 0 where it is not known


def counted(people: People, units: Ints, deal: Deal) -> Counted:
    """A window's units (B,) beside what the buckets' past foretells."""
    expected = _expected(units, people.past, deal.buckets, len(deal.arms))
    return Counted(units, expected, deal.buckets, deal.names)


def remembered(people: People, window: Counted) -> People:
    """The past with one more window, which was found to be sound."""
    past = MEMORY * people.past + window.units
    if len(window.names) < 2:
        return People(past, None, people.control)
    return People(past, window, _running(people, window, _spread(window)) or people.control)


def mismatch(people: People, window: Counted) -> Mismatch:
    """The arm that strays most, over any span.

    p is that arm's times the number of arms and spans looked at: 1 where there is too little to say. How far a bucket
    strays from what is expected is measured on the buckets within arms (McCullagh and Nelder 1989, "Generalized linear
    models", 4.5): less than a Poisson count does where the same units come again, more where they come together. Few
    units are skewed: an arm's are judged on the scale of Anscombe's residuals (the same, 2.4.2).
    """
    spread = _spread(window)
    if spread is None:
        return SOUND
    told, last = _told(window), people.last
    found = [_judged(name, _size(window, spread, name), spread.freedom, "in the window") for name in told]
    before = None if last is None else _spread(last)
    if last is not None and before is not None:
        for name in [name for name in _told(last) if name in told]:
            both = _together((last, window), (before, spread), name)
            found.append(_judged(name, both, spread.freedom, "in this window and the one before"))
    running = _running(people, window, spread)
    if running is not None:
        found.append(_judged(CONTROL, running, spread.freedom, "over the windows of exploring"))
    worst = min(found, key=lambda one: (one.p, -abs(one.difference)), default=SOUND)  # where p is 0, several may be
    return msgspec.structs.replace(worst, p=min(1.0, worst.p * len(found)))


SOUND = Mismatch(CONTROL, 0.0, "in the window", 1.0)


def _told(window: Counted) -> list[str]:
    """The arms that have units enough; of two one mirrors the other."""
    enough = _by_arm(window, window.expected) >= MIN_EXPECTED
    names = [name for name, told in zip(window.names, enough, strict=True) if told]
    return names if len(window.names) > 2 else names[1:]


def _size(window: Counted, spread: _Spread, name: str) -> Size:
    inside = window.arm_of == window.names.index(name)
    e, total = float(window.expected[inside].sum()), float(window.units.sum())
    return Size(float(window.units[inside].sum()), e, total, spread.dispersion * e * (1.0 - e / total))


def _together(windows: tuple[Counted, Counted], spreads: tuple[_Spread, _Spread], name: str) -> Size:
    """Both windows as one. A bucket that strays may do so in both, which counts where it was in the arm twice."""
    first, second = (_size(w, s, name) for w, s in zip(windows, spreads, strict=True))
    known = int((spreads[0].inside & spreads[1].inside).sum())
    rho = max(float(spreads[0].scaled @ spreads[1].scaled) / max(known, 1), 0.0)
    once, again = (
        np.sqrt(s.dispersion * np.maximum(w.expected, 0.0)) * _contrast(w, name)
        for w, s in zip(windows, spreads, strict=True)
    )
    both = _sum(first, second)
    return msgspec.structs.replace(both, variance=both.variance + 2.0 * rho * float(once @ again))


def _running(people: People, window: Counted, spread: _Spread | None) -> Size | None:
    """Control over the windows with this one; None unless all its vectors, so its buckets too, are new."""
    if spread is None or people.last is None or len(set(window.names) & set(people.last.names)) > 1:
        return None
    old, now = people.control, _size(window, spread, CONTROL)
    fading = Size(RUNNING * old.y, RUNNING * old.expected, RUNNING * old.total, RUNNING**2 * old.variance)
    return _sum(fading, now) if now.expected >= MIN_EXPECTED else None


def _sum(one: Size, other: Size) -> Size:
    return Size(*(a + b for a, b in zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True)))


def _judged(name: str, size: Size, freedom: int, span: Span) -> Mismatch:
    y, e = size.y, size.expected
    anscombe = 1.5 * (y ** (2 / 3) - e ** (2 / 3)) * e ** (1 / 3)
    difference = y / e * (size.total - e) / max(size.total - y, 1.0) - 1.0
    z = abs(anscombe) / np.sqrt(max(size.variance, TINY)) if abs(difference) >= FAULT else 0.0
    return Mismatch(name, difference, span, min(1.0, float(2.0 * stdtr(freedom, -z))))


def _contrast(window: Counted, name: str) -> Floats:
    """(B,) what a bucket's unit adds to the arm's excess."""
    inside = window.arm_of == window.names.index(name)
    return np.asarray(inside - window.expected[inside].sum() / window.expected.sum(), np.float64)


def _by_arm(window: Counted, values: NDArray[np.generic]) -> Floats:
    return np.asarray(np.bincount(window.arm_of, weights=values, minlength=len(window.names)), np.float64)


def _spread(window: Counted) -> _Spread | None:
    """None: too few arms, units or buckets."""
    y, e = _by_arm(window, window.units), _by_arm(window, window.expected)
    inside = (e >= MIN_EXPECTED)[window.arm_of]
    arms = int((e >= MIN_EXPECTED).sum())
    freedom = int(inside.sum()) - arms
    if arms < 2 or freedom < MIN_FREEDOM:
        return None
    ratio = np.divide(y, e, out=np.ones(len(e)), where=e >= MIN_EXPECTED)
    strays = np.where(inside, window.units - ratio[window.arm_of] * window.expected, 0.0)
    dispersion = float(strays @ strays) / freedom / float(np.mean(window.expected[inside]))
    return _Spread(dispersion, freedom, inside, strays / np.sqrt(np.maximum(dispersion * window.expected, TINY)))


def _expected(units: Ints, past: Floats, arm_of: NDArray[np.int16], arms: int) -> Floats:
    """(B,) units expected of each bucket: so much of its past as still holds, the rest in equal parts."""
    mean, before = units.mean(), past * (units.sum() / max(float(past.sum()), 1.0))
    count = np.maximum(np.bincount(arm_of, minlength=arms), 1)
    x, y = (v - (np.bincount(arm_of, weights=v, minlength=arms) / count)[arm_of] for v in (before, units))
    slope = float(x @ y) / max(float(x @ x), TINY)
    return np.asarray(mean + min(max(slope, 0.0), 1.0) * (before - before.mean()))
