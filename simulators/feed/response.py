"""How a person responds to an item: seven signals whose chances are known and which come together as real ones do.

For a person and an item, x their tastes, propensities and the hour, eta_s(x) a signal's log odds or log rate:

    P(click) = logistic(eta_1);   P(long view | click) = logistic(eta_2), without a click `stray`
    c = (click, long view);       P(j | c, x) = m_j(x) r_j(c),  m_j = exp(eta_j)        the five rare signals     (1)
    P(j | c, earlier, x) = P(j | c, x) prod_k (1 + (rho_jk - 1) y_k) / (1 + (rho_jk - 1) P(k | c, earlier, x))    (2)

r_j = 1 after a long view. Each factor of (2) has mean 1 given what is left of it, so p_j(x) = m_j sum_c P(c | x) r_j(c)
exactly, whatever the dependence: chances can be told without enumerating, and dependence fitted without moving them.

Arrays have signals first: (7, ...) over any shape of person-item pairs.
"""

from itertools import product

import msgspec
import numpy as np
from numpy.typing import NDArray

from simulators.feed.items import Singles
from simulators.feed.product import Law
from simulators.feed.targets import SIGNALS

COMMON = 2  # click and long view; the others are rare
RARE = len(SIGNALS) - COMMON
HIGHEST_RATE = 0.4  # of m_j: so r_j m_j and its factors stay chances
Bits = NDArray[np.bool_]


class Chances(msgspec.Struct, frozen=True, eq=False):
    """What (1) needs at person-item pairs."""

    click: Singles  # (...) P(click)
    stay: Singles  # (...) P(long view | click)
    rate: Singles  # (5, ...) m_j


def log_odds(
    pairs: tuple[NDArray[np.int32], NDArray[np.int64] | NDArray[np.int32]],
    item: tuple[Singles, Singles],
    person: tuple[Singles, Singles],
    slope: Singles,
) -> tuple[Singles, Singles]:
    """eta (7, n, c) and the match of tastes f (n, c) of n people with c items each.

    `pairs`: items (n, c) and people (n,). `item`: taste (I, K), bias (7, I). `person`: taste (N, K), bias of the n
    people (7, n), what is common to all their pairs included. `slope` of f: (7,).
    """
    items, people = pairs
    f = np.matmul(item[0][items], person[0][people][:, :, None])[..., 0]
    eta = np.empty((len(SIGNALS), *items.shape), np.float32)
    for s in range(len(SIGNALS)):
        np.multiply(f, slope[s], out=eta[s])
        eta[s] += item[1][s].take(items)
        eta[s] += person[1][s][:, None]
    return eta, f


def chances(eta: Singles) -> Chances:
    """Chances from eta (7, ...), which is overwritten."""
    common, rare = eta[:COMMON], eta[COMMON:]
    np.negative(common, out=common)
    np.exp(common, out=common)
    common += np.float32(1.0)
    np.reciprocal(common, out=common)
    np.minimum(rare, np.float32(np.log(HIGHEST_RATE)), out=rare)
    np.exp(rare, out=rare)
    return Chances(common[0], common[1], rare)


def marginals(law: Law, at: Chances) -> Singles:
    """P(signal) of an examined item, (7, ...)."""
    stray = np.float32(law.stray)
    missed = np.float32(1.0) - at.click
    long_view = at.click * at.stay + missed * stray
    clicked = at.click - long_view + missed * stray  # and no long view
    passed = missed * (np.float32(1.0) - stray)
    p = np.empty((len(SIGNALS), *at.click.shape), np.float32)
    p[0], p[1] = at.click, long_view
    for j in range(RARE):
        np.multiply(clicked, np.float32(law.clicked[j]), out=p[COMMON + j])
        p[COMMON + j] += long_view
        p[COMMON + j] += passed * np.float32(law.passed[j])
        p[COMMON + j] *= at.rate[j]
    return p


def respond(law: Law, at: Chances, examined: Bits, rng: np.random.Generator) -> Bits:
    """Draw the signals (7, ...) of items, none where an item is not examined."""
    u = rng.random((len(SIGNALS), *at.click.shape), dtype=np.float32)
    y = np.empty(u.shape, np.bool_)
    y[0] = (u[0] < at.click) & examined
    y[1] = (u[1] < np.where(y[0], at.stay, np.float32(law.stray))) & examined
    given: list[Singles] = []  # P(k | c, earlier, x) of the signals so far
    for j in range(RARE):
        p = at.rate[j] * _cell(law, j, y[0], y[1])
        for k in range(j):
            tie = np.float32(law.pairs[j][k] - 1.0)
            p /= np.float32(1.0) + tie * given[k]
            came = np.flatnonzero(y[COMMON + k])
            p.reshape(-1)[came] *= np.float32(1.0) + tie
        given.append(p)
        y[COMMON + j] = (u[COMMON + j] < p) & examined
    return y


def together(law: Law, at: Chances, weight: Singles) -> NDArray[np.float64]:
    """Mean over pairs x, so weighted, of P(both signals): (7, 7), by enumerating every pattern. Slow and exact."""
    both = np.zeros((len(SIGNALS), len(SIGNALS)))
    for pattern in product((False, True), repeat=len(SIGNALS)):
        y = np.array(pattern)
        if y.any():
            both += np.outer(y, y) * float(np.sum(_joint(law, at, y) * weight, dtype=np.float64))
    return both / float(np.sum(weight, dtype=np.float64))


def _joint(law: Law, at: Chances, y: Bits) -> Singles:
    """P(this pattern) of examined pairs, by (2)."""
    p = at.click if y[0] else 1.0 - at.click
    stay = at.stay if y[0] else np.full_like(at.stay, law.stray)
    p = p * (stay if y[1] else 1.0 - stay)
    given: list[Singles] = []
    for j in range(RARE):
        q = at.rate[j] * _cell(law, j, y[:1], y[1:2])[0]
        for k in range(j):
            tie = law.pairs[j][k] - 1.0
            q = q * ((1.0 + tie * y[COMMON + k]) / (1.0 + tie * given[k]))
        q = np.minimum(q, 1.0)
        given.append(q)
        p = p * (q if y[COMMON + j] else 1.0 - q)
    return np.asarray(p)


def _cell(law: Law, j: int, click: Bits, long_view: Bits) -> Singles:
    """r_j(c)."""
    table = np.array([law.passed[j], 1.0, law.clicked[j], 1.0], np.float32)
    return table.take(click.view(np.uint8) * np.uint8(2) + long_view.view(np.uint8))
