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
    k -= np.outer(to_baseline(hyper, baseline, a.unit), to_baseline(hyper, baseline, b.unit))  # (2)
    k *= hyper.pooling + (1.0 - hyper.pooling) * (a.group[:, None] == b.group)
    k *= fading(hyper, a, b)
    if hyper.jumps:
        k *= kept(hyper.jumps, a.hour, b.hour)
    k *= hyper.scale**2
    return k


def fading(hyper: Hyper, a: Places, b: Places) -> Floats:
    """T, (len(a), len(b)): (3), or its mean over spans. Rows share few hours: each pair of these is computed once."""
    (hours_a, at_a), (hours_b, at_b) = (np.unique(p.hour, return_inverse=True) for p in (a, b))
    lag = (hours_a[:, None] + _steps(a.span_h))[:, :, None, None] - (hours_b[:, None] + _steps(b.span_h))
    slow, daily = matern3(np.abs(lag) / hyper.memory_h), turning(lag)
    moving = np.einsum("isjt,s,t->ij", (1.0 - DAILY) * slow + DAILY * daily, _shares(a), _shares(b))
    return np.asarray((1.0 - hyper.drift + hyper.drift * moving)[at_a][:, at_b])


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
        factor[(a < jump.hour)[:, None] != (b < jump.hour)] *= jump.kept
    return factor


def squared_distance(a: Floats, b: Floats) -> Floats:
    """(n, k) squared distances of (n, d) and (k, d) points."""
    squared: Floats = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2.0 * (a @ b.T)
    return np.maximum(squared, 0.0, out=squared)


def matern(squared: Floats) -> Floats:
    """The Matern-5/2 correlation at a squared distance in lengthscales."""
    r = ROOT5 * np.sqrt(squared)
    correlation: Floats = (1.0 + r + r * r / 3.0) * np.exp(-r)
    return correlation


def matern3(distance: Floats) -> Floats:
    """The Matern-3/2 correlation at a distance in memories."""
    r = ROOT3 * distance
    return np.asarray((1.0 + r) * np.exp(-r))


def matern_slope(squared: Floats) -> Floats:
    """5/3 (1 + r) e^-r, r = sqrt(5) |z - z'|: times (z_j - z'_j)^2 it is the derivative of k by log l_j."""
    r = ROOT5 * np.sqrt(squared)
    return np.asarray(5.0 / 3.0 * (1.0 + r) * np.exp(-r))


def to_baseline(hyper: Hyper, baseline: Floats, unit: Floats) -> Floats:
    """k(u, u0), (k,)."""
    scaled = (unit - baseline) / np.array(hyper.lengthscale)
    return matern((scaled * scaled).sum(axis=1))
