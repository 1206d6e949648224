"""Relative changes of a deal's arms against control, with their covariance.

| symbol | shape | meaning |
|---|---|---|
| M, G, A | | metrics; groups (0 = all traffic, k = segment k); arms of the deal, control first |
| B, C | | buckets; components |
| N, D | (M, G, B) | numerator and denominator of each bucket |
| R | (A, B) | 1 where a bucket belongs to an arm |
| n | (A,) | buckets dealt to an arm: the clusters |
| r, v, q | (M, G, A) | an arm's level, its variance, and its variance by the noise of control's buckets (`levels`) |
| y, S | (M, G, A-1), (M, G, A-1, A-1) | relative changes against control, and their covariance |
"""

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core.events import FIXED_POINT
from controller.core.levels import Floats, arm_levels, errors, residuals, without_past

BUCKETS = "buckets"  # the denominator of a metric per assigned bucket
MIN_BUCKETS = 10  # clusters below which a delta-method variance is not worth believing
UNFORETOLD = 0.01  # of a variance: a past that foretells more than the rest is too good to be true
BORROWED = 120.0  # degrees of freedom of control's variance beside an arm's own
LUCK = 2.0  # standard errors of a change that noise may explain
LEAST_BELOW = 0.05  # share below the cap: with less of it a change says nothing of the uncapped one
TINY = 1e-300  # against 0 / 0
MAX_CHANGE = 1e3  # a metric a thousand times control's is a mistake in the data, and too large to reckon with
MAX_CONTROL_SE = 0.1  # beyond it too little is known of the noise, and of what comes of dividing by it
LEAST_TOLD = 0.5  # relative standard error of all arms' level beyond which a deal tells nothing of a rare metric
APART = 0.5  # of the level before, that vectors and the hour may move the level of all
BY_LUCK = 2.0**0.5  # times what it is, or a part of it, that control's standard error may look by luck, not by effects


class Metric(msgspec.Struct, frozen=True):
    """A ratio of two components, or of a component to assigned buckets (denominator `buckets`)."""

    name: str
    numerator: str
    denominator: str
    response: Literal["immediate", "delayed"] = "immediate"


def at_cap(component: str) -> str:
    """The component that adds up what another one counts in events at its cap; no study file can name it."""
    return f'"{component}" at its cap'


class Changes(msgspec.Struct, frozen=True, eq=False):
    """What a deal says of its arms.

    NaN where nothing can be said: no buckets, no denominator, one bucket, a level of control that is not above zero, or
    whose error exceeds it.
    """

    change: Floats  # (M, G, A-1) X(arm) / X(control) - 1
    covariance: Floats  # (M, G, A-1, A-1); the arms share control's noise
    control: Floats  # (M, G) control's own level
    # (M, G) of the level that changes are relative to: control's, by all arms' buckets, within `BY_LUCK` of its own; or
    # the one before the deal (`by_past`)
    control_relative_se: Floats
    group_buckets: NDArray[np.int64]  # (G, A) buckets with traffic

    @property
    def buckets(self) -> NDArray[np.int64]:
        """(A,) buckets with any traffic."""
        everywhere: NDArray[np.int64] = self.group_buckets[0]
        return everywhere


class Served(msgspec.Struct, frozen=True, eq=False):
    """What one deal did: the sums of its windows, and who was served what in them."""

    sums: NDArray[np.int64]  # (G1, B, C) fixed point; slot 0 holds traffic without a segment
    arm_of: NDArray[np.signedinteger]  # (B,) arm of each bucket, 0 = control; a negative value leaves the bucket out
    arms: int  # A, control included
    # (G1, B, C) the buckets' sums before the deal began, in any unit; it must not depend on the arm that a bucket is in
    # now. None: no variance reduction.
    history: Floats | None = None

    @property
    def member(self) -> Floats:
        """R, (A, B)."""
        return np.asarray(self.arm_of == np.arange(self.arms)[:, None], np.float64)


def relative_changes(metrics: tuple[Metric, ...], components: tuple[str, ...], served: Served) -> Changes:
    """Estimate every metric's relative change, in every group, of every arm against arm 0.

    `metrics`: M of them, over `components` (C names).

    Where a component has a cap, the square of the largest bias against the uncapped metric that the cap explains is
    added to an arm's variance (`_cap_bias`).

    Variances are by the delta method with buckets as clusters (Deng, Knoblich and Lu 2018, "Applying the
    delta method in metric analytics", section 3).
    """
    sums, member, arm_of = _groups(served.sums), served.member, served.arm_of
    numerator, denominator = _by_metric(metrics, components, sums / FIXED_POINT)
    with np.errstate(divide="ignore", invalid="ignore"):
        level, variance, foretold = arm_levels(numerator, denominator, member, arm_of)
        rest = numerator
        if served.history is not None:
            past = _by_metric(metrics, components, _groups(served.history))
            rest = without_past(numerator, denominator, past, member, arm_of)
            without = level[..., 0]
            level, rest_variance, rest_foretold = arm_levels(rest, denominator, member, arm_of)
            foretold = np.maximum(rest_foretold, UNFORETOLD * foretold)
            least = np.maximum(rest_variance, UNFORETOLD * variance)
            variance = np.where(variance == 0.0, 0.0, least)  # the past's own noise is none of an arm without any
            level[..., 0] = np.where(without > 0.0, level[..., 0], without)  # nor does it give control a level
        change, covariance = _against_control(level, variance, foretold, member.sum(axis=1))
        covariance = covariance + _cap_bias(metrics, components, sums, member)[..., None] * np.eye(served.arms - 1)
        own = np.sqrt(variance[..., 0]) / np.abs(level[..., 0])
        relative_se = np.clip(_told_by_all(rest, denominator, member, arm_of), own / BY_LUCK, own * BY_LUCK)
    traffic = (sums != 0).any(axis=-1)  # (G, B)
    return Changes(change, covariance, level[..., 0], relative_se, (traffic @ member.T).astype(np.int64))


def by_past(changes: Changes, metrics: tuple[Metric, ...], components: tuple[str, ...], served: Served) -> Changes:
    """The changes; those of a ratio whose control has too few events, relative to the level before the deal instead.

    y = (r_a - r_c) / R, with R that of all buckets in their past (`Served.history`). Arms have the noise, by their
    shares of the denominator, that all together would have with as many events as R foretells: by what they have, deals
    with fewer would look surer.
    NaN beyond `LEAST_TOLD`. Other metrics keep what they have: what a bucket adds up to hangs on the hour. So do those
    whose R is not known within `MAX_CONTROL_SE` either, and those whose level in the deal is another by more than
    `APART` and chance: amounts that come late, or what is logged anew, have no level in the past.
    """
    ratio = np.array([[metric.denominator != BUCKETS] for metric in metrics])
    rare = ratio & ~(changes.control_relative_se <= MAX_CONTROL_SE)  # NaN is not
    if served.history is None or not rare.any():
        return changes
    sums, member = _groups(served.sums), served.member
    numerator, denominator = _by_metric(metrics, components, sums / FIXED_POINT)
    everybody, total = member.sum(axis=0), denominator @ member.T
    with np.errstate(divide="ignore", invalid="ignore"):
        before, before_se = _together(*_by_metric(metrics, components, _groups(served.history)), everybody)
        now, now_se = _together(numerator, denominator, everybody)
        foretold = now_se**2 * now / before  # now_se^2, were there as many events as R foretells
        alike = np.abs(now / before - 1.0) <= APART + np.sqrt(foretold)
        of_arm = (
            np.where(foretold <= LEAST_TOLD**2, foretold, np.nan)[..., None] * total.sum(axis=-1, keepdims=True) / total
        )
        level = (numerator @ member.T) / total
        change = (level[..., 1:] - level[..., :1]) / before[..., None]
        covariance = of_arm[..., :1, None] + of_arm[..., 1:, None] * np.eye(served.arms - 1)
        covariance = covariance + _cap_bias(metrics, components, sums, member)[..., None] * np.eye(served.arms - 1)
    rare &= alike & (before > 0.0) & (before_se <= MAX_CONTROL_SE)
    return msgspec.structs.replace(
        changes,
        change=np.where(rare[..., None], change, changes.change),
        covariance=np.where(rare[..., None, None], covariance, changes.covariance),
        control_relative_se=np.where(rare, before_se, changes.control_relative_se),
    )


def _together(numerator: Floats, denominator: Floats, everybody: Floats) -> tuple[Floats, Floats]:
    """(M, G) level of all buckets together, and its relative standard error."""
    whole, buckets = numerator @ everybody, everybody.sum()
    level = whole / (denominator @ everybody)
    scatter = (numerator - level[..., None] * denominator) ** 2 @ everybody
    return level, np.sqrt(buckets / (buckets - 1.0) * scatter) / np.abs(whole)


def combined_se(
    coefficients: Floats, metrics: tuple[Metric, ...], components: tuple[str, ...], served: Served
) -> Floats:
    """(A-1,) standard error, over all traffic, of sum of coefficient (M,) x relative change of every arm.

    With one metric this is `relative_changes`' own standard error, without what a cap hides.
    """
    terms = combined_noise(coefficients, metrics, components, served)
    return np.asarray(np.sqrt(terms.sum(axis=0)))


def combined_noise(
    coefficients: Floats, metrics: tuple[Metric, ...], components: tuple[str, ...], served: Served
) -> Floats:
    """(M, A-1) covariance of each metric's term with the sum of coefficient x relative change; together its variance.

    The metrics of a bucket vary together: what a bucket does to the whole sum (its linearised influence) is added
    up over the metrics before it is squared.
    """
    numerator, denominator = _by_metric(metrics, components, served.sums.sum(axis=0, keepdims=True) / FIXED_POINT)
    member, arm_of = served.member, served.arm_of
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = arm_levels(numerator, denominator, member, arm_of)
        still = levels[1][:, 0, 1:] == 0.0
        whole = _combined(coefficients, levels, numerator, denominator, member, arm_of, still)
        if served.history is None:
            return whole
        past = _by_metric(metrics, components, served.history.sum(axis=0, keepdims=True))
        rest = without_past(numerator, denominator, past, member, arm_of)
        levels = arm_levels(rest, denominator, member, arm_of)
        unforetold = _combined(coefficients, levels, rest, denominator, member, arm_of, still)
    too_little = unforetold.sum(axis=0) < UNFORETOLD * whole.sum(axis=0)
    return np.where(too_little, UNFORETOLD * whole, unforetold)


def _combined(
    coefficients: Floats,
    levels: tuple[Floats, Floats, Floats],
    numerator: Floats,
    denominator: Floats,
    member: Floats,
    arm_of: NDArray[np.signedinteger],
    still: NDArray[np.bool_],
) -> Floats:
    """(M, A-1) what `combined_noise` says, of numerators and denominators (M, 1, B) and their `arm_levels`.

    `still`: (M, A-1) arms that show no noise of their own, as in `_against_control`.
    """
    level, variance, foretold = (part[:, 0] for part in levels)  # (M, A)
    total, _, residual = residuals(numerator, denominator, member, arm_of)
    error = errors(residual, denominator, total, member, arm_of)
    influence = error[:, 0] / total[:, 0, arm_of]  # (M, B) of a bucket on its own arm's level
    steady, scaled = _steady(level, variance)  # (M, 1), (M, A-1)
    each = np.concatenate((np.ones_like(level[:, :1]), scaled), axis=1)  # (M, A)
    own = np.nan_to_num((coefficients / level[:, 0])[:, None] * each[:, arm_of] * influence)  # (M, B)
    slope = coefficients[:, None] / level[:, :1]  # (M, 1)
    clusters = member.sum(axis=1)
    scale = clusters / (clusters - 1.0)
    control = influence[:, member[0] > 0]
    covariance = scale[0] * control @ control.T  # (M, M)
    least = np.sqrt(np.nan_to_num(variance[:, 0] / np.diagonal(covariance), nan=1.0))
    covariance *= least[:, None] * least
    from_control, plain = (t * slope * (covariance @ (t * slope)) for t in (steady, np.ones_like(steady)))
    from_arm = scale[1:] * np.where(np.isfinite(level[:, 1:]), (own * own.sum(axis=0)) @ member[1:].T, np.nan)
    times = foretold[:, 1:] / np.where(foretold[:, :1] == 0.0, 1.0, foretold[:, :1])
    from_arm = _beside(from_arm, from_control * times, clusters[1:])
    from_arm = np.where(still, plain * times, from_arm)
    return np.asarray(from_arm + from_control)


def usable(changes: Changes, group: int = 0) -> NDArray[np.bool_]:
    """(M,) whether a group's changes of each metric may enter the posterior.

    Every arm has at least 10 buckets with traffic there, the level that changes are relative to has a standard error of
    at most 10 %, and the changes are finite and no larger than data can be.
    """
    enough = bool((changes.group_buckets[group] >= MIN_BUCKETS).all())
    precise = changes.control_relative_se[:, group] <= MAX_CONTROL_SE  # NaN is not
    believable = (np.abs(changes.change[:, group]) <= MAX_CHANGE).all(axis=1)
    known = np.isfinite(changes.covariance[:, group]).all(axis=(1, 2))
    return np.asarray(precise & believable & known & enough)


def _told_by_all(numerator: Floats, denominator: Floats, member: Floats, arm_of: NDArray[np.signedinteger]) -> Floats:
    """(M, G) control's relative standard error by the level and the noise of all arms' buckets together.

    Its own is small where control happens to have many rare events: of a metric near `MAX_CONTROL_SE` only the deals
    would be used in which all arms look low beside it. How many events all have says nothing of who has them.
    """
    _, _, residual = residuals(numerator, denominator, member, arm_of)
    everybody, arms = member.sum(axis=0), len(member)
    buckets, control = everybody.sum(), member[0].sum()
    squared = buckets / (buckets - arms) * (residual**2 @ everybody) * buckets / control
    return np.asarray(np.sqrt(squared) / np.abs(numerator @ everybody))


def _groups(sums: NDArray[Any]) -> NDArray[Any]:
    """(G, B, C): all traffic in place of the slot without a segment."""
    return np.concatenate((sums.sum(axis=0, keepdims=True), sums[1:]))


def _by_metric(metrics: tuple[Metric, ...], components: tuple[str, ...], sums: Floats) -> tuple[Floats, Floats]:
    """N and D, (M, G, B); D is 1 for every bucket of a per-bucket metric."""
    columns = {name: sums[:, :, i] for i, name in enumerate(components)}
    ones = np.ones(sums.shape[:2])
    numerator = np.stack([columns[metric.numerator] for metric in metrics])
    denominator = np.stack([ones if m.denominator == BUCKETS else columns[m.denominator] for m in metrics])
    return numerator, denominator


def _cap_bias(
    metrics: tuple[Metric, ...], components: tuple[str, ...], sums: NDArray[np.int64], member: Floats
) -> Floats:
    """(M, G, A-1) square of how far the caps can keep each change from the uncapped metric's.

    If an arm makes every value y times as large, E min(y X, c) grows by y only where X < c: d log E / d log y = 1 - s,
    where s is the share of the capped sum that events at the cap make up. So a capped change is 1 - s of the whole one
    and misses at most s / (1 - s) times itself, and nothing where an arm changes how many events there are. A metric
    has two components.
    """
    bound = {BUCKETS: np.zeros((sums.shape[0], member.shape[0] - 1))}
    for name in {name for metric in metrics for name in (metric.numerator, metric.denominator)} - {BUCKETS}:
        bound[name] = bound[BUCKETS]
        if at_cap(name) in components:
            total, capped = (sums[..., components.index(c)] @ member.T for c in (name, at_cap(name)))  # (G, A)
            mean = total / member.sum(axis=1)
            share = np.nan_to_num(capped[:, :1] / total[:, :1])
            bound[name] = share / np.maximum(1.0 - share, LEAST_BELOW) * np.nan_to_num(mean[:, 1:] / mean[:, :1] - 1.0)
    return np.stack([bound[metric.numerator] ** 2 + bound[metric.denominator] ** 2 for metric in metrics])


def _beside(own: Floats, control: Floats, clusters: Floats) -> Floats:
    """An arm's variance (..., A), with what control's buckets make of it counted as `BORROWED` buckets more.

    Forty buckets with a heavy tail tell their variance badly, and worst where they miss the tail: their mean and its
    error are then both too small, and means weighted by precision too low (Smyth 2004, "Linear models and empirical
    Bayes methods for assessing differential expression", equation 3, with a prior of fixed weight).
    """
    return np.asarray(((clusters - 1.0) * own + BORROWED * control) / (clusters - 1.0 + BORROWED))


def _against_control(level: Floats, variance: Floats, foretold: Floats, clusters: Floats) -> tuple[Floats, Floats]:
    """y and S from r, v and q, to second order in control's noise.

    E[1 / r_c] = (1 + v_c / r_c^2) / R_c, hence the correction, which would turn the sign where v_c exceeds r_c^2.
    S = diag(v_a) / r_c^2 + t^2 v_c / r_c^2, with t and v_a as of `_steady` and `_beside`. An arm whose buckets all
    agree (none has a click) shows no noise of its own: it takes what control's buckets foretell.
    """
    base = np.where(level[..., :1] > 0.0, level[..., :1], np.nan)
    squared = base**2
    control = variance[..., :1] / squared
    unbiased = np.where(control < 1.0, 1.0 - control, np.nan)
    change = level[..., 1:] / base * unbiased - 1.0
    borrowed = foretold[..., 1:] / squared
    steady, scaled = _steady(level, variance)
    own = _beside(variance[..., 1:] / squared * scaled**2, borrowed * steady**2, clusters[1:])
    own = np.where(variance[..., 1:] == 0.0, borrowed, own)
    shared = (control * steady**2)[..., None]
    return change, shared + own[..., None] * np.eye(own.shape[-1])


def _steady(level: Floats, variance: Floats) -> tuple[Floats, Floats]:
    """t, (..., 1): 1 + the change that the arms have in common; and how many times |r_a| / r_c that is, (..., A-1).

    Noise grows with the level. At an arm's measured one an unlucky arm's error is too small: its interval misses, and
    a mean weighted by precision comes out too low, by twice the variance; some of that is left wherever an arm's own
    change has a say. So all arms have the noise of their mean level, drawn to control's by the part of the square of
    their mean change that `LUCK` standard errors explain (after James and Stein 1961, "Estimation with quadratic loss",
    whose estimator, the positive part, explains one).
    """
    ratio, squared = level[..., 1:] / level[..., :1], level[..., :1] ** 2
    own = variance[..., 1:] / squared
    known = np.isfinite(ratio) & np.isfinite(own)
    arms = np.maximum(known.sum(axis=-1, keepdims=True), 1)
    change = np.where(known, ratio - 1.0, 0.0).sum(axis=-1, keepdims=True) / arms
    noise = np.where(known, own, 0.0).sum(axis=-1, keepdims=True) / arms**2 + variance[..., :1] / squared
    steady = 1.0 + change * np.maximum(1.0 - LUCK**2 * noise / np.maximum(change**2, TINY), 0.0)
    # An amount that may be negative can bring an arm's level below zero: that is no high one.
    return steady, np.clip(np.abs(steady / ratio), 0.5, 2.0)


def influences(metrics: tuple[Metric, ...], components: tuple[str, ...], served: Served) -> Floats:
    """(M, B) what each bucket adds, over all traffic, to its arm's relative level: their mean is the level's error.

    Zero in the mean of every arm; without what the bucket's own past foretells, where there is one. NaN where an arm's
    level is zero, of which nothing is a part.
    """
    numerator, denominator = _by_metric(metrics, components, served.sums.sum(axis=0, keepdims=True) / FIXED_POINT)
    member, arm_of = served.member, served.arm_of
    with np.errstate(divide="ignore", invalid="ignore"):
        if served.history is not None:
            past = _by_metric(metrics, components, served.history.sum(axis=0, keepdims=True))
            numerator = without_past(numerator, denominator, past, member, arm_of)
        total, level, residual = residuals(numerator, denominator, member, arm_of)
        each = member.sum(axis=1) / (total * np.where(level == 0.0, np.nan, level))  # (M, 1, A)
        return np.asarray((residual * each[..., arm_of])[:, 0])
