"""Worlds made by hand, and what is made of them: other segments, a week, no response at all."""

import msgspec

from controller.core.estimate import Metric
from controller.core.safety import Guardrail
from controller.core.space import Weight
from simulators.worlds import Polynomial, Quantity, Season, World

JUMP_HOUR = 36  # of the worlds that change at once

FEED = World(
    name="feed",
    summary="a short-video feed: 4 free weights, watch time and shares against click rate and hides",
    weights=(
        Weight("p_click", 0.2, 5.0, 1.0, "log", fixed=True),
        Weight("p_like", 0.2, 8.0, 1.0, "log"),
        Weight("p_share", 0.5, 30.0, 4.0, "log"),
        Weight("p_watch", 0.1, 5.0, 0.5, "log"),
        Weight("p_hide", -20.0, 0.0, -6.0, "linear"),
    ),
    visits={("p_watch",): 0.02, ("p_hide",): -0.03},
    quantities=(
        Quantity(
            name="impressions",
            law="count",
            rate=10.0,
            season=Season(0.05, 21.0),
            spread=0.06,
        ),
        Quantity(
            name="clicks",
            law="part",
            of="impressions",
            rate=0.386,
            response={
                ("p_watch",): -0.03,
                ("p_watch", "p_watch"): -0.06,
                ("p_share",): -0.015,
                ("p_like",): 0.02,
                ("p_like", "p_like"): -0.04,
                ("p_hide",): 0.025,
            },
            season=Season(0.055, 7.0),
            spread=0.01,
        ),
        Quantity(
            name="watch_s",
            law="amount",
            of="clicks",
            rate=9.0,
            response={
                ("p_watch",): 0.38,
                ("p_watch", "p_watch"): -0.34,
                ("p_like",): -0.12,
                ("p_like", "p_like"): -0.06,
                ("p_share",): -0.02,
                ("p_share", "p_watch"): 0.06,
                ("p_hide",): 0.02,
            },
            season=Season(0.04, 22.0),
            spread=0.06,
            cv=1.2,
        ),
        Quantity(
            name="shares",
            law="part",
            of="clicks",
            rate=0.045,
            response={
                ("p_share",): 0.45,
                ("p_share", "p_share"): -0.42,
                ("p_like",): 0.06,
                ("p_watch",): -0.06,
            },
            season=Season(0.08, 12.0),
            spread=0.06,
        ),
        Quantity(
            name="hides",
            law="part",
            of="impressions",
            rate=0.012,
            response={
                ("p_hide",): 0.55,
                ("p_hide", "p_hide"): 0.25,
                ("p_watch",): 0.12,
                ("p_share",): 0.06,
                ("p_like",): -0.06,
            },
            season=Season(0.06, 2.0),
            spread=0.06,
        ),
    ),
    metrics=(
        Metric("watch", "watch_s", "buckets"),
        Metric("shares", "shares", "buckets"),
        Metric("ctr", "clicks", "impressions"),
        Metric("hide_rate", "hides", "impressions"),
    ),
    objective={"watch": 1.0, "shares": 0.3},
    guardrails=(
        Guardrail("ctr", min_change=-0.01),
        Guardrail("hide_rate", max_change=0.08),
    ),
)

QUICK = World(
    name="quick",
    summary="a small feed for tests: 2 free weights, watch time against click rate, little noise",
    weights=(
        Weight("p_click", 0.2, 5.0, 1.0, "log", fixed=True),
        Weight("p_watch", 0.1, 5.0, 0.5, "log"),
        Weight("p_report", -10.0, 0.0, -5.0, "linear"),
    ),
    quantities=(
        Quantity(name="impressions", law="count", rate=10.0, season=Season(0.05, 21.0), spread=0.02),
        Quantity(
            name="clicks",
            law="part",
            of="impressions",
            rate=0.386,
            response={("p_watch",): -0.06, ("p_watch", "p_watch"): -0.10, ("p_report",): 0.03},
            season=Season(0.055, 7.0),
            spread=0.01,
        ),
        Quantity(
            name="watch_s",
            law="amount",
            of="clicks",
            rate=9.0,
            response={("p_watch",): 0.40, ("p_watch", "p_watch"): -0.35, ("p_report", "p_report"): -0.25},
            spread=0.02,
            cv=0.8,
        ),
    ),
    metrics=(Metric("watch", "watch_s", "buckets"), Metric("ctr", "clicks", "impressions")),
    objective={"watch": 1.0},
    guardrails=(Guardrail("ctr", min_change=-0.02),),
    events_per_hour=6_000.0,
    units=40_000,
    activity_sd=0.3,
    buckets=200,
    explore_arms=4,
)

_WEIGHTS = (
    Weight("w0", 0.2, 5.0, 1.0, "log"),
    Weight("w1", -1.0, 1.0, 0.0, "linear"),
    Weight("w2", 0.1, 10.0, 1.0, "log"),
    Weight("w3", -2.0, 2.0, 0.0, "linear"),
    Weight("w4", 0.2, 5.0, 1.0, "log"),
    Weight("w5", -1.0, 1.0, 0.0, "linear"),
)

RAILS = World(
    name="rails",
    summary="6 weights, 4 guardrails, the optimum where two of them meet",
    weights=_WEIGHTS,
    visits={("w3",): 0.02, ("w0",): -0.01},
    quantities=(
        Quantity(
            name="impressions",
            law="count",
            rate=10.0,
            response={("w4",): 0.03, ("w1",): -0.06, ("w1", "w1"): -0.04},
            season=Season(0.05, 21.0),
            spread=0.05,
        ),
        Quantity(
            name="clicks",
            law="part",
            of="impressions",
            rate=0.386,
            response={("w0",): -0.07, ("w0", "w0"): -0.05, ("w1",): -0.02, ("w2",): 0.02, ("w5",): -0.05},
            season=Season(0.055, 7.0),
            spread=0.01,
        ),
        Quantity(
            name="watch_s",
            law="amount",
            of="clicks",
            rate=9.0,
            response={
                ("w0",): 0.34,
                ("w0", "w0"): -0.45,
                ("w1",): 0.20,
                ("w1", "w1"): -0.40,
                ("w2",): -0.16,
                ("w2", "w2"): -0.36,
                ("w3",): 0.10,
                ("w3", "w3"): -0.30,
                ("w4", "w4"): -0.20,
                ("w5", "w5"): -0.20,
                ("w0", "w1"): 0.10,
            },
            season=Season(0.04, 22.0),
            spread=0.05,
            cv=1.2,
        ),
        Quantity(
            name="shares",
            law="part",
            of="clicks",
            rate=0.06,
            response={("w0",): -0.10, ("w2",): -0.20, ("w2", "w2"): -0.2, ("w4",): 0.12, ("w5",): -0.10},
            season=Season(0.08, 12.0),
            spread=0.05,
        ),
        Quantity(
            name="reports",
            law="part",
            of="impressions",
            rate=0.015,
            response={("w1",): 0.30, ("w1", "w1"): 0.20, ("w0",): 0.12, ("w3",): 0.10, ("w5",): -0.15},
            season=Season(0.06, 2.0),
            spread=0.05,
        ),
    ),
    metrics=(
        Metric("watch", "watch_s", "buckets"),
        Metric("ctr", "clicks", "impressions"),
        Metric("report_rate", "reports", "impressions"),
        Metric("shares", "shares", "buckets"),
        Metric("impressions", "impressions", "buckets"),
    ),
    objective={"watch": 1.0},
    guardrails=(
        Guardrail("ctr", min_change=-0.008),
        Guardrail("report_rate", max_change=0.04),
        Guardrail("shares", min_change=-0.03),
        Guardrail("impressions", min_change=-0.03),
    ),
    events_per_hour=120_000.0,
)

# What raises clicks by 1 % costs 3 % of the people who come back: a sixth of a percent is all there is to gain, less
# than the noise of clicks per bucket lets anyone see.
_LURE: Polynomial = {("w0",): 0.20, ("w1",): 0.12, ("w2",): -0.10, ("w3",): 0.06}
TRAP = World(
    name="trap",
    summary="4 weights, clicks up and retention down: nothing to promote",
    weights=_WEIGHTS[:4],
    quantities=(
        Quantity(name="sessions", law="count", rate=1.0),
        Quantity(name="impressions", law="count", rate=10.0, season=Season(0.05, 21.0), spread=0.05),
        Quantity(
            name="clicks",
            law="part",
            of="impressions",
            rate=0.3,
            response=_LURE,
            season=Season(0.055, 7.0),
            spread=0.01,
        ),
        Quantity(
            name="returned",
            law="part",
            of="sessions",
            rate=0.5,
            response={key: -3.0 * value for key, value in _LURE.items()},
            spread=0.01,
        ),
    ),
    metrics=(
        Metric("clicks", "clicks", "buckets"),
        Metric("ctr", "clicks", "impressions"),
        Metric("returns", "returned", "sessions"),
    ),
    objective={"clicks": 1.0},
    guardrails=(Guardrail("returns", min_change=-0.005),),
    events_per_hour=120_000.0,
)


def _without_response(world: World, name: str, summary: str) -> World:
    flat = tuple(msgspec.structs.replace(q, response={}, tilts={}) for q in world.quantities)
    return msgspec.structs.replace(world, name=name, summary=summary, quantities=flat, visits={})


def _with_tilts(world: World, tilts: dict[str, dict[str, Polynomial]]) -> tuple[Quantity, ...]:
    return tuple(msgspec.structs.replace(q, tilts=tilts.get(q.name, {})) for q in world.quantities)


AA = _without_response(FEED, "aa", "the feed, but no weight vector changes anything: every claimed gain is false")

TENURE = msgspec.structs.replace(
    QUICK,
    name="tenure",
    summary="the quick feed in two segments, where new people like less of p_watch than returning ones",
    quantities=_with_tilts(QUICK, {"watch_s": {"new": {("p_watch",): -0.45}, "returning": {("p_watch",): 0.08}}}),
    segments={"new": 0.3, "returning": 0.7},
    events_per_hour=12_000.0,
    units=60_000,
)

WEEKEND = msgspec.structs.replace(
    QUICK,
    name="weekend",
    summary="the quick feed with a weekly clock: more traffic and longer watches on Saturdays and Sundays",
    quantities=tuple(
        msgspec.structs.replace(q, season=msgspec.structs.replace(q.season, weekend=0.12)) if q.law == "amount" else q
        for q in QUICK.quantities
    ),
    week=(0.92, 0.93, 0.94, 0.96, 1.03, 1.12, 1.10),
)

SURFACES = msgspec.structs.replace(
    QUICK,
    name="surfaces",
    summary=f"the quick feed on two surfaces that want different weights; at hour {JUMP_HOUR} people move",
    quantities=_with_tilts(QUICK, {"watch_s": {"home": {("p_watch",): 0.12}, "related": {("p_watch",): -0.5}}}),
    segments={"home": 0.75, "related": 0.25},
    segment_by="event",
    events_per_hour=12_000.0,
)
