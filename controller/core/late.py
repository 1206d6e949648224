"""What a window that is not sealed says of what it will have said: the change so far is scaled, its noise widened.

Amounts that arrive the later the larger they are make a young window's changes too small, and by how much is learned
from the windows that were sealed: at every decision each open window is looked at, and when it is sealed every look is
compared with the end. Refunds that come later make them too large, which is learned alike.

| symbol | shape | meaning |
|---|---|---|
| M, A, K | | metrics; arms of a deal; ages of a window, in decisions since its end |
| y, v | (M, A-1) | relative changes of a look, over all traffic, and their variances; y*, v* of the sealed window |
| m | (K, M) | share of a metric's sums that is still to come, or to go |
| lambda, tau | (K, M) | y = lambda y* + tau e: how much of a change shows at an age, and what else is in it |
"""

from collections.abc import Callable, Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core.estimate import BUCKETS, TINY, Changes, Metric, usable

Floats = NDArray[np.float64]

AGES = 12  # at most: where a study has more decisions until a window is sealed, an age stands for several
MEMORY = 0.95  # of what the sealed windows taught, a window
PRIOR_ROWS = 4.0  # what is believed before any window is sealed counts as so many arms, with changes of PRIOR_CHANGE
PRIOR_CHANGE = 0.03
PRIOR_SPREAD = 0.05  # size of changes before any is known: root mean square of an amount's, in the arena's worlds
SPREAD_ROWS = 2.0  # that what is to come changes in a way of its own, by as much as changes do, counts as so many arms
KNOWN = 2.0  # standard deviations above which changes are taken to be there, and not luck alone
APART = 4.0  # times a change, at most, that what came and what is to come differ in theirs
LEAST_SHOWN, MOST_SHOWN = 0.25, 1.5  # lambda below which a look says nothing; above which it is no lateness


class Look(msgspec.Struct, frozen=True, eq=False):
    """What an open window said at an age."""

    deal: int
    age: int
    total: Floats  # (2, M) numerators' and denominators' sums
    change: Floats  # (M, A-1) NaN where it says nothing
    variance: Floats  # (M, A-1)


class Late(msgspec.Struct, frozen=True, eq=False):
    """What is known of late data. Follows from sums and tables, like the rest of the experiment's state."""

    looks: dict[int, tuple[Look, ...]]  # open window's end -> its looks, oldest first
    missing: Floats  # (K, M) m, of the windows sealed so far
    rows: Floats  # (7, K, M) sums over their arms: 1; y y, y y*, y* y*; v, cov(y, y*), v*


def nothing(metrics: int) -> Late:
    """Before any window."""
    return Late({}, np.zeros((AGES, metrics)), np.zeros((7, AGES, metrics)))


def looked(late: Late, end_ms: int, deal: int, age: int, total: Floats, changes: Callable[[], Changes]) -> Late:
    """One more look at an open window and its deal; `changes` is asked for only where the sums have grown."""
    looks = tuple(look for look in late.looks.get(end_ms, ()) if look.deal == deal)
    age = min(age, AGES - 1)
    if looks and looks[-1].age >= age:  # of several looks at an age the first one counts: it has seen least
        return late
    look = _look(looks, deal, age, total, changes)
    return msgspec.structs.replace(late, looks={**late.looks, end_ms: (*looks, look)})


def sealed(late: Late, end_ms: int, deal: int, total: Floats, changes: Callable[[], Changes]) -> Late:
    """Learn from a window that cannot change any more, and let go of it."""
    looks = tuple(look for look in late.looks.get(end_ms, ()) if look.deal == deal)
    rest = {end: kept for end, kept in late.looks.items() if end > end_ms}
    if not looks:
        return msgspec.structs.replace(late, looks=rest)
    final = _look(looks, deal, AGES, total, changes)
    missing, rows = late.missing.copy(), MEMORY * late.rows
    for look in looks:
        k = look.age
        gone = _missing(look.total, final.total)
        weight = 1.0 if not late.rows[0, k].any() and not late.missing[k].any() else 1.0 - MEMORY
        missing[k] += weight * (gone - missing[k])
        rows[:, k] += _rows(look, final)
    return Late(rest, missing, rows)


def foretold(late: Late, changes: Changes, ages: Iterable[tuple[int, Floats]]) -> Changes:
    """A deal's changes as they are expected to be once all its windows are sealed.

    `ages`: age of each of its windows (-1: sealed) and the window's sums (2, M).
    """
    expected = _expected(late)
    if expected is None:
        return changes
    at, sums = zip(*ages, strict=True)
    weight = np.abs([total[0] for total in sums])  # (windows, M)
    weight = weight / np.maximum(weight.sum(axis=0), TINY)
    place = np.minimum(at, AGES - 1)  # -1, a sealed window's, is the row that is added here
    lam, tau, sd = (
        np.sum(weight * np.vstack((part, np.full(part.shape[1], whole)))[place], axis=0)[:, None, None]
        for part, whole in zip(expected, (1.0, 0.0, 0.0), strict=True)
    )
    lam = np.where(lam < LEAST_SHOWN, np.nan, lam)
    change = changes.change / lam
    noise = (np.diagonal(changes.covariance, axis1=2, axis2=3) + tau**2) / lam**2
    own = (tau / lam) ** 2 + _without_luck(change, noise) * (sd / lam) ** 2
    covariance = changes.covariance / lam[..., None] ** 2 + own[..., None] * np.eye(change.shape[-1])
    return msgspec.structs.replace(changes, change=change, covariance=covariance)


def _without_luck(change: Floats, noise: Floats) -> Floats:
    """(..., A-1) E y*^2 of changes that are measured with noise: an error of lambda scales them, not their luck.

    Changes are taken as normal around 0, with the mean square that the noise leaves of them (Morris 1983, "Parametric
    empirical Bayes inference").
    """
    excess = change**2 - noise
    known = np.isfinite(excess)
    size = np.where(known, excess, 0.0).sum(axis=-1, keepdims=True) / np.maximum(known.sum(axis=-1, keepdims=True), 1)
    kept = np.maximum(size, 0.0) / np.maximum(np.maximum(size, 0.0) + noise, TINY)
    return np.asarray((kept * change) ** 2 + kept * noise)


def totals(metrics: tuple[Metric, ...], components: tuple[str, ...], sums: NDArray[np.int64]) -> Floats:
    """(2, M) numerators' and denominators' sums of a window (G1, B, C); 1 for a metric per bucket."""
    by_name = dict(zip(components, sums.sum(axis=(0, 1), dtype=np.float64), strict=True)) | {BUCKETS: np.float64(1.0)}
    return np.array([[by_name[m.numerator] for m in metrics], [by_name[m.denominator] for m in metrics]])


def _look(looks: tuple[Look, ...], deal: int, age: int, total: Floats, changes: Callable[[], Changes]) -> Look:
    if looks and np.array_equal(looks[-1].total, total):
        return msgspec.structs.replace(looks[-1], age=age)
    found = changes()
    change = np.where(usable(found)[:, None], found.change[:, 0], np.nan)
    return Look(deal, age, total, change, np.diagonal(found.covariance[:, 0], axis1=1, axis2=2).copy())


def _missing(now: Floats, final: Floats) -> Floats:
    """(M,) share of the numerator or of the denominator that is to come (or to go), whichever is larger."""
    whole = np.maximum(np.abs(now), np.abs(final))
    share = np.divide(np.abs(final - now), whole, out=np.zeros_like(now), where=whole > 0.0)
    return np.asarray(np.minimum(share, 1.0).max(axis=0))


def _rows(look: Look, final: Look) -> Floats:
    """(7, M) moments of y and y*, and of their sampling noise.

    The later estimate holds all that the earlier one holds, so their errors have the covariance min(v, v*) (Hausman
    1978, "Specification tests in econometrics": an efficient estimator is uncorrelated with its difference to another).
    """
    y, v, y_, v_ = look.change, look.variance, final.change, final.variance
    found = np.array([np.ones_like(y), y * y, y * y_, y_ * y_, v, np.minimum(v, v_), v_])
    known = np.isfinite(found).all(axis=0)
    return np.asarray(np.where(known, found, 0.0).sum(axis=-1))


def _expected(late: Late) -> tuple[Floats, Floats, Floats] | None:
    """lambda, tau and the standard error of lambda, (K, M) each; None where nothing is late.

    A regression of y on y*, both noisy (Fuller 1987, "Measurement error models", 1.2), with a prior of lambda = 1 and
    of a tau as large as what is missing. Where changes may be nothing but luck, the sum of their squares says neither
    how large they are nor what part of them shows: twice its own error stands for it, and lambda stays near 1.
    """
    missing = np.maximum(late.missing, _so_far(late))
    if not missing.any():
        return None
    n, moments, noise = late.rows[0], late.rows[1:4], late.rows[4:]
    _, xy, xx = moments - noise
    luck = np.sqrt(2.0 / np.maximum(n, 1.0)) * noise[2]  # sd of xx where nothing changes
    weight = np.maximum(xx, KNOWN * luck) + PRIOR_ROWS * PRIOR_CHANGE**2
    least, most = np.maximum(1.0 - APART * missing, 0.0), np.minimum(1.0 + APART * missing, MOST_SHOWN)
    shown = np.clip(1.0 + (xy - xx) / weight, least, most)
    square = np.stack((np.ones_like(shown), -2.0 * shown, shown**2))  # of y - lambda y*
    sampled = np.maximum((square * noise).sum(axis=0), 0.0)
    size = (np.maximum(xx, 0.0) + PRIOR_ROWS * PRIOR_SPREAD**2) / (n + PRIOR_ROWS)
    excess = (square * moments).sum(axis=0) - sampled + SPREAD_ROWS * missing**2 * size
    spread = np.sqrt(np.maximum(excess, 0.0) / (n + SPREAD_ROWS))
    unsure = np.sqrt((spread**2 + sampled / np.maximum(n, 1.0)) / weight) * (n > 0)
    comes = missing > 0.0
    return np.where(comes, shown, 1.0), np.where(comes, spread, 0.0), np.where(comes, unsure, 0.0)


def _so_far(late: Late) -> Floats:
    """(K, M) what is missing, by the open window that is known best, where nothing was sealed yet.

    As large a share is taken to be still to come after it.
    """
    missing = np.zeros_like(late.missing)
    if late.rows[0].any() or late.missing.any() or not late.looks:
        return missing
    oldest = late.looks[min(late.looks)]
    for look in oldest:
        missing[look.age] = 1.0 - (1.0 - _missing(look.total, oldest[-1].total)) ** 2
    return missing
