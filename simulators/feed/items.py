"""The feed's items: latent tastes and propensities, how their appeal moves with time, and what the ranker knows.

| symbol | shape | meaning |
|---|---|---|
| I, K | | items, dimensions of taste (8) |
| V | (I, K) | an item's taste, of length 1 |
| q, b, s | (I,) | quality; bait: promises more than it holds; how much it moves people to act |
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from simulators.feed.product import LATENT, Feed
from simulators.feed.targets import DURATION_QUANTILES_S, SIGNALS, VIDEOS

Singles = NDArray[np.float32]
STRATA = 4  # of a pool: a request takes one candidate from each, so none comes twice
FRESH = 0.1  # share of the catalogue that is fresh: everyone gets candidates from it
SCATTER = 0.5  # of tastes around their tag's
DAY_MS = 86_400_000
# What quality, bait and sociality do to click's and long view's log odds and the others' log rates; the rest is own.
LOADINGS = np.array([
    # click, long_view, like, comment, follow, forward, hate
    [0.20, 0.45, 0.40, 0.20, 0.50, 0.25, -0.30],
    [0.70, -0.60, -0.20, 0.15, -0.30, -0.10, 0.50],
    [0.00, 0.05, 0.30, 0.50, 0.10, 0.60, 0.10],
])  # fmt: skip
OWN = np.array([0.30, 0.20, 0.30, 0.40, 0.40, 0.40, 0.40])
LONGER = np.array([0.05, -0.35, 0.0, 0.0, 0.0, 0.0, 0.0])  # per log of duration over its median
TREND = np.array([0.25, 0.10, 0.15, 0.15, 0.15, 0.15, 0.0])  # of an item's appeal over days


class Catalogue(msgspec.Struct, frozen=True, eq=False):
    """Items in the order of their pools; `hat_` is what the ranker takes for the truth."""

    taste: Singles  # (I, K)
    bias: Singles  # (7, I)
    hat_taste: Singles  # (I, K)
    hat_bias: Singles  # (7, I)
    quality: Singles  # (I,)
    bait: Singles  # (I,)
    duration_s: Singles  # (I,)
    period_ms: NDArray[np.float64]  # (I,) of its trend
    phase: NDArray[np.float64]  # (I,)
    low: NDArray[np.int32]  # (pools, STRATA) first item
    width: Singles  # (pools, STRATA)
    features: dict[str, NDArray[np.int16]]  # codes into VIDEOS
    centre: Singles  # (tags, K)


def catalogue(feed: Feed) -> Catalogue:
    """Draw the items of a feed; the same feed has the same ones whatever the seed of its traffic."""
    rng = np.random.default_rng((feed.catalogue_seed, 1))
    pool, tag = _pools(rng)
    n, tags = len(pool), len(VIDEOS["tag"])
    centre = _unit(rng.standard_normal((tags, LATENT)))
    taste = _unit(centre[tag] + SCATTER / np.sqrt(LATENT) * rng.standard_normal((n, LATENT)))
    latent = rng.standard_normal((3, n))  # q, b, s
    quality, bait = latent[:2]
    duration = _durations(rng.random(n))
    own = OWN[:, None] * rng.standard_normal((len(SIGNALS), n))
    bias = LOADINGS.T @ latent + np.outer(LONGER, np.log(duration / DURATION_QUANTILES_S[0.5])) + own
    bias -= bias.mean(axis=1, keepdims=True)
    ranker = feed.ranker
    errors = rng.standard_normal((n, LATENT)) / np.sqrt(LATENT)
    wrong = ranker.wrong * rng.standard_normal((len(SIGNALS), n))
    starts = np.searchsorted(pool, np.arange(tags + 1))
    edges = np.linspace(starts, [*starts[1:], n], STRATA + 1, axis=1).astype(np.int32)
    return Catalogue(
        taste=taste.astype(np.float32),
        bias=bias.astype(np.float32),
        hat_taste=(taste + ranker.error * errors).astype(np.float32),
        hat_bias=(ranker.shrink * bias + wrong).astype(np.float32),
        quality=quality.astype(np.float32),
        bait=bait.astype(np.float32),
        duration_s=duration.astype(np.float32),
        period_ms=DAY_MS * rng.uniform(2.0, 6.0, n),
        phase=rng.uniform(0.0, 2 * np.pi, n),
        low=edges[:, :-1],
        width=np.diff(edges, axis=1).astype(np.float32),
        features={
            "tag": tag.astype(np.int16),
            "upload_type": _coded(rng, "upload_type", n),
            "video_type": _coded(rng, "video_type", n),
        },
        centre=centre.astype(np.float32),
    )


def trend(items: Catalogue, at_ms: int) -> Singles:
    """How each item's appeal stands at a time (7, I), as log odds and log rates: waves of 2 to 6 days."""
    wave = np.cos(at_ms * (2 * np.pi) / items.period_ms + items.phase)
    return np.outer(TREND, np.sqrt(2.0) * wave).astype(np.float32)


def trained_ms(feed: Feed, at_ms: int) -> int:
    """What the ranker that serves at a time knows: data up to then."""
    return at_ms // feed.ranker.retrain_ms * feed.ranker.retrain_ms - feed.ranker.lag_ms


def _pools(rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each item's pool, ascending (its tag's, or the last one: fresh), and its tag."""
    counts = np.array(list(VIDEOS["tag"].values()))
    tag = np.repeat(np.arange(len(counts)), counts)
    pool = np.where(rng.random(len(tag)) < FRESH, len(counts), tag)
    order = np.lexsort((rng.random(len(tag)), pool))
    return pool[order], tag[order]


def _durations(u: NDArray[np.float64]) -> NDArray[np.float64]:
    quantiles = np.log(list(DURATION_QUANTILES_S.values()))
    return np.asarray(np.exp(np.interp(u, list(DURATION_QUANTILES_S), quantiles)))


def _coded(rng: np.random.Generator, feature: str, n: int) -> NDArray[np.int16]:
    counts = np.array(list(VIDEOS[feature].values()))
    return rng.choice(len(counts), n, p=counts / counts.sum()).astype(np.int16)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))
