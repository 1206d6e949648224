"""The prior of a metric's relative change over weights x group x time.

| symbol | shape | meaning |
|---|---|---|
| n, k, d | | rows, points, free weights |
| u, g, h | (n, d), (n,), (n,) | where (unit cube), in which group, when (hours since the study's start) |
| u0 | (d,) | the baseline: its change is 0 at all times, exactly |
| l, s, rho | (d,), 1, 1 | lengthscales, scale, share common to all groups |
| omega, tau | 1, 1 | share of the variance that moves, and how long its slow part remembers, in hours |
| delta | 1 | share of what moves that swings with the hour of the day (`DAILY`) |
| t, c | | a jump: its hour, and the correlation of what is before it with what is after it |

With k the Matern-5/2 correlation of lengthscales l:

    K((u,g,h), (u',g',h')) = s^2 k0(u, u') (rho + (1 - rho) [g = g']) T(h - h') J(h, h')      (1)
    k0(u, u') = k(u, u') - k(u, u0) k(u0, u')                                                     (2)

    T(lag) = 1 - omega + omega ((1 - delta) (1 + r) e^-r + delta cos(2 pi lag / 24)),   r = sqrt(3) |lag| / tau   (3)

(2) conditions k on f(u0) = 0. The group term is partial pooling. (3) lets old windows fade as far as the response
moves: one part of it stays for ever, one changes smoothly (Matern-3/2), one swings with the hour of the day and comes
back. An exponential (Bogunovic, Scarlett and Cevher 2016, "Time-varying Gaussian process bandit optimization") is so
rough that it forgets within hours what a day has shown, also where nothing drifts. J is the product over the jumps
between h and h' of their c.

A vector is chosen for a whole day, so what is asked of the process is its mean over a span of hours, weighted by their
traffic: T is then that mean of (3) over `STEPS` hours of it, in which the daily part counts as far as traffic swings.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

Floats = NDArray[np.float64]

ROOT3, ROOT5 = 3.0**0.5, 5.0**0.5
DAILY = 0.3  # delta
DAY_H = 24.0
STEPS = 8  # hours that stand for a span
EVEN = (1.0 / STEPS,) * STEPS  # traffic that is alike at all hours


class Jump(msgspec.Struct, frozen=True):
    """When a metric's response changed at once, and how much of it was left."""

    hour: float  # t, since the study's start
    kept: float  # c, in [0, 1]: the correlation between before and after


class Hyper(msgspec.Struct, frozen=True):
    """Hyperparameters of one metric's process."""

    lengthscale: tuple[float, ...]  # d, in sides of the unit cube
    scale: float  # s, standard deviation of a relative change far from the baseline
    drift: float  # omega, in (0, 1)
    memory_h: float  # tau
    pooling: float  # rho, in (0, 1)
    jumps: tuple[Jump, ...] = ()


class Places(msgspec.Struct, frozen=True, eq=False):
    """Where, in which group and when."""

    unit: Floats  # (k, d)
    group: NDArray[np.int64]  # (k,)
    hour: Floats  # (k,)
    span_h: float = 0.0  # what is meant is the mean over so many hours from `hour` on
    traffic: tuple[float, ...] = EVEN  # shares of the span's traffic in each of its `STEPS` parts


def kernel(hyper: Hyper, baseline: Floats, a: Places, b: Places) -> Floats:
    """Equation (1), (len(a), len(b))."""
    scaled_a, scaled_b = (p.unit / np.array(hyper.lengthscale) for p in (a, b))
    k = matern(squared_distance(scaled_a, scaled_b))
    k = less_outer(k, to_baseline(hyper, baseline, a.unit), to_baseline(hyper, baseline, b.unit))  # (2)
    k *= _in_common(hyper, a, b)
    return k


def _in_common(hyper: Hyper, a: Places, b: Places) -> Floats:
    """The factors of (1) that hang on group and time alone, (len(a) or 1, len(b) or 1): 1 where all share theirs.

    Rows come in runs that share them, as do all points that the policy asks about: each pair of runs is computed once.
    """
    (firsts_a, run_a), (firsts_b, run_b) = _runs(a), _runs(b)
    factor = fading(hyper, firsts_a, firsts_b)
    if hyper.jumps:
        factor *= kept(hyper.jumps, firsts_a.hour, firsts_b.hour)
    factor *= np.where(firsts_a.group[:, None] == firsts_b.group, hyper.scale**2, hyper.scale**2 * hyper.pooling)
    rows = factor if len(factor) == 1 else factor[run_a]
    return rows if factor.shape[1] == 1 else rows[:, run_b]


def _runs(places: Places) -> tuple[Places, NDArray[np.intp]]:
    """The first of every run of places that share their group and hour, and the run (k,) of each."""
    new = np.ones(len(places.hour), dtype=bool)
    new[1:] = (np.diff(places.hour) != 0.0) | (np.diff(places.group) != 0)
    firsts = Places(places.unit[new], places.group[new], places.hour[new], places.span_h, places.traffic)
    return firsts, np.cumsum(new) - 1


def fading(hyper: Hyper, a: Places, b: Places) -> Floats:
    """T, (len(a), len(b)): (3), or its mean over spans."""
    lag = (a.hour[:, None] + _steps(a.span_h))[:, :, None, None] - (b.hour[:, None] + _steps(b.span_h))
    slow, daily = matern3(np.abs(lag) / hyper.memory_h), turning(lag)
    moving = np.einsum("isjt,s,t->ij", (1.0 - DAILY) * slow + DAILY * daily, _shares(a), _shares(b))
    return np.asarray(1.0 - hyper.drift + hyper.drift * moving)


def less_outer(k: Floats, u: Floats, v: Floats) -> Floats:
    """k - u v', (n, k); k in the order of rows is overwritten: a seventh of the time without the product in between."""
    return np.asarray(blas.dger(-1.0, v, u, a=k.T, overwrite_a=1).T) if k.size else k


def turning(lag: Floats) -> Floats:
    """The daily swing's correlation at a lag in hours."""
    return np.asarray(np.cos(lag * (2.0 * np.pi / DAY_H)))


def _steps(span_h: float) -> Floats:
    return np.asarray((np.arange(STEPS) + 0.5) * (span_h / STEPS) if span_h else np.zeros(1))


def _shares(places: Places) -> Floats:
    return np.array(places.traffic if places.span_h else (1.0,))


def kept(jumps: tuple[Jump, ...], a: Floats, b: Floats) -> Floats:
    """J, (len(a), len(b)), between two sets of hours."""
    factor = np.ones((len(a), len(b)))
    for jump in jumps:
        factor *= np.where((a < jump.hour)[:, None] != (b < jump.hour), jump.kept, 1.0)
    return factor


def squared_distance(a: Floats, b: Floats) -> Floats:
    """(n, k) squared distances of (n, d) and (k, d) points: |a|^2 + |b|^2 - 2 a b, as one product of matrices."""
    longer_a = np.column_stack(((a * a).sum(axis=1), np.ones(len(a)), -2.0 * a))
    longer_b = np.column_stack((np.ones(len(b)), (b * b).sum(axis=1), b))
    squared: Floats = longer_a @ longer_b.T
    return np.maximum(squared, 0.0, out=squared)


def matern(squared: Floats) -> Floats:
    """The Matern-5/2 correlation (1 + r + r^2 / 3) e^-r, r = sqrt(5) x distance, at a squared distance in lengthscales.

    In place where it can be: most of a decision's time went into making room for what lies between.
    """
    falling = np.sqrt(squared)
    falling *= -ROOT5
    correlation: Floats = squared * (5.0 / 3.0)
    correlation -= falling
    correlation += 1.0
    correlation *= np.exp(falling, out=falling)
    return correlation


def matern3(distance: Floats) -> Floats:
    """The Matern-3/2 correlation at a distance in memories."""
    r = ROOT3 * distance
    return np.asarray((1.0 + r) * np.exp(-r))


def matern_and_slope(squared: Floats) -> tuple[Floats, Floats]:
    """`matern`, and 5/3 (1 + r) e^-r: times (z_j - z'_j)^2 that is the derivative of k by log l_j."""
    falling = np.sqrt(squared)
    falling *= -ROOT5
    slope: Floats = (5.0 / 3.0) * (1.0 - falling)
    np.exp(falling, out=falling)
    slope *= falling
    falling *= squared
    falling *= 5.0 / 3.0
    falling += 0.6 * slope
    return falling, slope


def to_baseline(hyper: Hyper, baseline: Floats, unit: Floats) -> Floats:
    """k(u, u0), (k,)."""
    scaled = (unit - baseline) / np.array(hyper.lengthscale)
    return matern((scaled * scaled).sum(axis=1))
