"""The worlds that ship with Trimtab, by name."""

import msgspec

from controller.core.estimate import Metric
from controller.core.safety import Guardrail
from controller.core.space import Weight
from simulators.worlds import Polynomial, Quantity, Season, World

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

WORLDS: dict[str, World] = {world.name: world for world in (FEED, QUICK, TENURE, AA)}


def world_named(name: str) -> World:
    """A world by its name; raises `ValueError` naming those there are."""
    if name not in WORLDS:
        raise ValueError(f"no world is called {name!r}; there are {', '.join(WORLDS)}")
    return WORLDS[name]
