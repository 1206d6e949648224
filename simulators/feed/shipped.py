"""The feeds that ship with Trimtab: one law, fitted to KuaiRand, and two kinds of people."""

from functools import cache

import msgspec
import numpy as np

from controller.core.estimate import Metric
from controller.core.experiment import Theta
from controller.core.safety import Guardrail
from controller.core.space import Space, Weight
from simulators.feed import calibrated
from simulators.feed.product import Feed, Loyalty, Ranker
from simulators.feed.search import searched
from simulators.feed.truth import truth_of
from simulators.optimum import Best
from simulators.worlds import gain

ROUNDS, DRAWS, SPREAD = 8, 30, 0.1  # of the search after a swap

SHORTVIDEO = Feed(
    name="shortvideo",
    summary="a short-video feed: people, items, a ranker, a value model of 7 predictions; calibrated on KuaiRand",
    weights=(
        Weight("p_click", 0.2, 5.0, 1.0, "log", fixed=True),
        Weight("p_long_view", 0.05, 6.0, 0.6, "log"),
        Weight("p_like", 0.3, 30.0, 3.0, "log"),
        Weight("p_comment", 0.8, 80.0, 8.0, "log"),
        Weight("p_follow", 1.5, 150.0, 15.0, "log"),
        Weight("p_forward", 1.5, 150.0, 15.0, "log"),
        Weight("p_hate", -300.0, 0.0, -30.0, "linear"),
    ),
    metrics=(
        Metric("watch", "watch_s", "buckets"),
        Metric("likes", "likes", "buckets"),
        Metric("ctr", "clicks", "impressions"),
        Metric("returns", "returned", "buckets", "delayed"),
    ),
    objective={"watch": 1.0, "likes": 0.2},
    guardrails=(Guardrail("ctr", min_change=-0.015), Guardrail("returns", min_change=-0.01)),
    law=calibrated.LAW,
    loyalty=Loyalty(
        taste=0.5,
        quality=0.5,
        bait=0.6,
        slope=0.6,
        offset=calibrated.SHORTVIDEO.offset,
        back=calibrated.SHORTVIDEO.back,
    ),
    pages_per_day=calibrated.SHORTVIDEO.pages_per_day,
    ranker=Ranker(scale={"core": 1.0, "casual": 0.75}, shift={"core": 0.0, "casual": 0.25}),
    groups={"core": 0.658, "casual": 0.342},
)

CLICKBAIT = msgspec.structs.replace(
    SHORTVIDEO,
    name="clickbait",
    summary="a trap: the short-video feed tuned for clicks, where bait drives people away days later",
    objective={"ctr": 1.0},
    guardrails=(Guardrail("returns", min_change=-0.01),),
    loyalty=Loyalty(
        taste=0.4, quality=0.6, bait=1.2, slope=1.0, offset=calibrated.CLICKBAIT.offset, back=calibrated.CLICKBAIT.back
    ),
    pages_per_day=calibrated.CLICKBAIT.pages_per_day,
)

FEEDS: dict[str, Feed] = {feed.name: feed for feed in (SHORTVIDEO, CLICKBAIT)}


@cache
def best_of(feed: Feed) -> Best:
    """The best feasible vector that `simulators.feed.best` has found, and what it truly does, in the long run.

    Once predictions are rescaled the baseline ranks otherwise, so that limits lie elsewhere: searched for anew, from
    the stored vector on, in seconds. Raises `KeyError` for a feed that does not ship.
    """
    theta: Theta = calibrated.BEST[feed.name]
    if any(scale != 1.0 for scale in feed.rescaled):
        space = Space(feed.weights)
        stored = [np.array(theta[segment]) / feed.rescaled for segment in feed.segments or ["all"]]
        near = np.clip(np.concatenate([space.to_unit(vector) for vector in stored]), 0.0, 1.0)
        theta = searched(feed, near, SPREAD, ROUNDS, DRAWS, 0, lambda _number, _score: None)
    change = truth_of(feed).settled(theta).change
    names = [metric.name for metric in feed.metrics]
    return Best(theta, float(gain(feed, change)), dict(zip(names, map(float, change), strict=True)))
