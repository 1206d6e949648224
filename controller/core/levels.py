"""A ratio's level in each arm of a deal, its variance over buckets, and what their own past foretells of it.

| symbol | shape | meaning |
|---|---|---|
| M, G, A | | metrics; groups; arms of the deal, control first |
| B | | buckets |
| N, D | (M, G, B) | numerator and denominator of each bucket |
| R | (A, B) | 1 where a bucket belongs to an arm |
| n | (A,) | buckets dealt to an arm: the clusters |
| r, v | (M, G, A) | an arm's level sum N / sum D, and its variance |
| q | (M, G, A) | the variance of an arm's level by the noise of control's buckets |
| e | (M, G, B) | what a bucket adds to its arm's error |
| x, beta | (M, G, B), (M, G) | what a bucket's own past says of its numerator, and how much of it still holds |

Divisions by zero are the caller's to silence: they end as NaN.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

MOST_OF_AN_ARM = 0.9  # of its denominator, that one bucket may hold and still tell of its own error

Floats = NDArray[np.float64]


def arm_levels(
    numerator: Floats, denominator: Floats, member: Floats, arm_of: NDArray[np.signedinteger]
) -> tuple[Floats, Floats, Floats]:
    """r, v and q, (M, G, A), of a ratio of sums over clusters.

    v = n/(n-1) sum e^2 / (sum D)^2 with residuals e = N - r D (`errors`), and r loses its second-order bias
    -n/(n-1) sum e D / (sum D)^2 (Cochran 1977, "Sampling techniques", 6.8). Control's v is at least its q: of a few
    buckets that make up much of it the residuals tell little. Where v is more, every arm's q is by as much.
    """
    total, raw, residual = residuals(numerator, denominator, member, arm_of)
    clusters = member.sum(axis=1)
    scale = clusters / np.where(clusters > 1.0, clusters - 1.0, np.nan) / total**2
    squared = errors(residual, denominator, total, member, arm_of) ** 2
    variance = scale * (squared @ member.T)
    level = raw + scale * ((residual * denominator) @ member.T)
    foretold = _foretold(squared, denominator, member) / total**2
    control = np.fmax(variance[..., :1], foretold[..., :1])
    foretold *= np.where(foretold[..., :1] == 0.0, 1.0, control / foretold[..., :1])
    return level, np.concatenate((control, variance[..., 1:]), axis=-1), foretold


def without_past(
    numerator: Floats,
    denominator: Floats,
    past: tuple[Floats, Floats],
    member: Floats,
    arm_of: NDArray[np.signedinteger],
) -> Floats:
    """N - beta x, (M, G, B): the numerators without what the buckets' own past foretells.

    x is the past's residual N - R D around the level R of all buckets together, so it is zero in the mean whatever
    the arms, and beta its regression coefficient within arms (Deng et al. 2013, "Improving the sensitivity of online
    controlled experiments by utilizing pre-experiment data"; as numerator - R x denominator for a ratio).
    """
    everybody = member.sum(axis=0)  # (B,) 0 where a bucket is left out
    total = past[1] @ everybody
    x = (past[0] - np.nan_to_num((past[0] @ everybody) / total)[..., None] * past[1]) * everybody
    _, _, residual = residuals(numerator, denominator, member, arm_of)
    _, _, within = residuals(x, denominator, member, arm_of)
    beta = np.sum(residual * within * everybody, axis=-1) / np.sum(within**2 * everybody, axis=-1)
    return np.asarray(numerator - np.nan_to_num(beta)[..., None] * x)


def residuals(
    numerator: Floats, denominator: Floats, member: Floats, arm_of: NDArray[np.signedinteger]
) -> tuple[Floats, Floats, Floats]:
    """sum D and sum N / sum D, (M, G, A), and e, (M, G, B); what is left out meets zeros of R."""
    total = denominator @ member.T
    total[total == 0.0] = np.nan
    raw = (numerator @ member.T) / total
    return total, raw, numerator - np.nan_to_num(raw)[..., arm_of] * denominator


def errors(
    residual: Floats, denominator: Floats, total: Floats, member: Floats, arm_of: NDArray[np.signedinteger]
) -> Floats:
    """e, (M, G, B), as if each bucket had pulled its arm's level towards itself only as far as they do in the mean.

    One with a share h = D / sum D of its arm's n buckets leaves 1 - h of its error. With e (1 - 1/n) / (1 - h) the
    variance of a level is the jackknife's (Miller 1974, "The jackknife: a review", section 2.3).
    """
    share = np.nan_to_num(denominator / total[..., arm_of])
    error = residual * (1.0 - 1.0 / member.sum(axis=1))[arm_of] / (1.0 - np.minimum(share, MOST_OF_AN_ARM))
    return np.where(arm_of < 0, 0.0, error)


def _foretold(squared: Floats, denominator: Floats, member: Floats) -> Floats:
    """(M, G, A) sum of e^2 over each arm's buckets, had they the noise of control's, given e^2 (M, G, B).

    Events on their own and buckets that differ: E e^2 = a D + b D^2 with a, b >= 0, fitted to control's buckets, each
    weighted by how well its e^2 would be known were both terms alike. It follows no single bucket, however large.
    """
    positive = np.maximum(denominator, 0.0)  # an amount may be negative, a variance may not
    sums = np.stack((positive @ member.T, positive**2 @ member.T), axis=-1)  # (M, G, A, 2)
    terms = np.zeros((*sums.shape[:2], 2))
    for place in np.ndindex(terms.shape[:2]):
        there = (member[0] > 0.0) & (denominator[place] > 0.0) & np.isfinite(squared[place])
        size, error = denominator[place][there], squared[place][there]
        if error.any():
            mean, noise = size.mean(), error.mean()
            size = size / mean
            weight = 1.0 / (size + size**2)
            fit, _ = nnls(np.stack((size, size**2), axis=1) * weight[:, None], error / noise * weight)
            terms[place] = fit * noise / (mean, mean**2)
    return np.asarray(sums @ terms[..., None])[..., 0]
