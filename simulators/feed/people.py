"""The feed's people: latent tastes and propensities, the features that hint at them, what the ranker knows of them.

| symbol | shape | meaning |
|---|---|---|
| N, K | | people, dimensions of taste (8) |
| U | (N, K) | a person's taste, scaled so that f = U . V has standard deviation 1 over all items |
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from simulators.feed.items import Catalogue, Singles
from simulators.feed.product import LATENT, Feed
from simulators.feed.targets import SIGNALS, USERS, VIDEOS

FAVOURITES = 3  # tags a person's candidates come from, beside the fresh ones
OWN = np.array([0.55, 0.35, 1.0, 1.0, 0.8, 0.8, 0.8])  # of a person's propensities, in log odds and log rates
EXPRESSIVE = np.array([0.0, 0.0, 0.8, 1.0, 0.8, 0.8, 0.2])  # how much a person acts at all
HABIT = 0.8  # of the log odds to come back on the next day
OWN_TASTE = 0.4  # of a person's taste, beside that of the favourite tags
ACTIVE = "core"  # the segment of those most active


class People(msgspec.Struct, frozen=True, eq=False):
    """Everyone's latents; `hat_` is what the ranker takes for the truth."""

    taste: Singles  # (N, K)
    bias: Singles  # (7, N)
    hat_taste: Singles  # (N, K)
    hat_bias: Singles  # (7, N)
    pools: NDArray[np.int16]  # (N, FAVOURITES + 1)
    habit: Singles  # (N,) of the log odds to come back on the next day
    segment: NDArray[np.int16]  # (N,)
    features: dict[str, NDArray[np.int16]]  # codes into USERS


def people_of(feed: Feed, items: Catalogue, n: int, seed: int) -> People:
    """Draw so many people. The ranker knows the less active ones less well."""
    rng = np.random.default_rng((seed, 2))
    pools, taste = _tastes(items, n, rng)
    active, expressive = rng.standard_normal((2, n))
    features = _features(active, expressive, rng)
    segment = _segments(feed, features["user_active_degree"])
    bias = OWN[:, None] * rng.standard_normal((len(SIGNALS), n)) + np.outer(EXPRESSIVE, expressive)
    knows = np.where(segment == list(feed.groups).index(ACTIVE), 1.0, 0.5)
    wrong = feed.ranker.wrong * rng.standard_normal((len(SIGNALS), n))
    errors = rng.standard_normal((n, LATENT)) * np.linalg.norm(taste, axis=1, keepdims=True) / np.sqrt(LATENT)
    return People(
        taste=taste.astype(np.float32),
        bias=bias.astype(np.float32),
        hat_taste=(taste + feed.ranker.error * errors / knows[:, None]).astype(np.float32),
        hat_bias=(feed.ranker.shrink * knows * bias + wrong).astype(np.float32),
        pools=pools,
        habit=(HABIT * active).astype(np.float32),
        segment=segment,
        features=features,
    )


def _tastes(items: Catalogue, n: int, rng: np.random.Generator) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Favourite tags by share of the catalogue, none twice (Gumbel's trick), and the taste that goes with them."""
    share = np.log(list(VIDEOS["tag"].values()))
    keys = share + rng.gumbel(size=(n, len(share))).astype(np.float32)
    favourites = np.argpartition(-keys, FAVOURITES, axis=1)[:, :FAVOURITES]
    own = rng.standard_normal((n, LATENT)) / np.sqrt(LATENT)
    taste = items.centre[favourites].sum(axis=1) / np.sqrt(FAVOURITES) + OWN_TASTE * own
    taste *= np.sqrt(LATENT) / np.linalg.norm(taste, axis=1, keepdims=True)
    fresh = np.full((n, 1), len(share))
    return np.concatenate([favourites, fresh], axis=1).astype(np.int16), taste


def _features(
    active: NDArray[np.float64], expressive: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, NDArray[np.int16]]:
    """Every feature has its real shares; how much it tells of the latents (a correlation of .6) is assumed."""
    hint = {"user_active_degree": active, "register_days_range": active}
    codes = {}
    for feature, counts in USERS.items():
        score = 0.6 * hint.get(feature, expressive) + 0.8 * rng.standard_normal(len(active))
        codes[feature] = _ordinal(score, np.array(list(counts.values())))
    return codes


def _ordinal(score: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.int16]:
    """Cut people into classes of these shares, by rank of the score."""
    rank = np.empty(len(score))
    rank[np.argsort(score, kind="stable")] = (np.arange(len(score)) + 0.5) / len(score)
    return np.searchsorted(np.cumsum(counts)[:-1] / counts.sum(), rank, side="right").astype(np.int16)


def _segments(feed: Feed, degree: NDArray[np.int16]) -> NDArray[np.int16]:
    """The fully active are one segment, all others the other."""
    names = list(feed.groups)
    core = degree == len(USERS["user_active_degree"]) - 1
    return np.where(core, names.index(ACTIVE), 1 - names.index(ACTIVE)).astype(np.int16)
