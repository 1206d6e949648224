"""The worlds that ship with Trimtab, by name: still ones made by hand, and all of them over time."""

import msgspec

from controller.core.estimate import Metric
from controller.core.safety import Guardrail
from controller.core.space import Weight
from simulators.drawn import drawn_named
from simulators.feed.scenario import FeedScenario
from simulators.feed.shipped import FEEDS
from simulators.kinds import AnyScenario
from simulators.rails import RAILS, TRAP
from simulators.scenarios import Drift, Late, Scenario
from simulators.shapes import SHAPES, Shape, generated
from simulators.worlds import Polynomial, Quantity, Season, World

JUMP_HOUR = 36
MILD, STRONG = Drift(0.20, 0.20, 1), Drift(0.35, 0.40, 2)

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

MADE = {name: generated(name, summary, shape) for name, (summary, shape) in SHAPES.items()}
STILL = ("three", "small", "trap")  # of the worlds below that could drift

_BEYOND = generated(
    "corner",
    "4 weights, 3 guardrails, the optimum at the edge of the cube",
    Shape(d=4, seed=44, active=4, peak=0.7, pull=0.004, push=0.03),
)
CORNER = msgspec.structs.replace(
    _BEYOND,
    quantities=(
        msgspec.structs.replace(_BEYOND.quantities[0], response={("w0",): -0.01, ("w1",): 0.01}),
        *_BEYOND.quantities[1:],
    ),
    metrics=(*_BEYOND.metrics, Metric("impressions", "impressions", "buckets")),
    guardrails=(*_BEYOND.guardrails, Guardrail("impressions", min_change=-0.02)),
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


def _turned(world: World) -> World:
    """The world after a jump: people want less of what they wanted, and mind reports more."""
    quantities = tuple(
        msgspec.structs.replace(q, response=_mirrored(q.response)) if q.law == "amount" else q for q in world.quantities
    )
    return msgspec.structs.replace(world, quantities=quantities)


def _mirrored(response: Polynomial) -> Polynomial:
    """The same peak with the sign of every other weight's linear term turned round."""
    singles = sorted(names[0] for names in response if len(names) == 1)
    turned = set(singles[::2])
    return {names: -c if len(names) == 1 and names[0] in turned else c for names, c in response.items()}


def _over_time(world: World) -> Scenario:
    drift = STRONG if world.name == "drift" else None if world.name in STILL else MILD
    return Scenario(
        name=world.name,
        summary=world.summary,
        world=world,
        drift=drift,
        late=Late("watch_s") if world.name == "late" else None,
        bad_hours=(20, 45) if world.name == "badhour" else (),
    )


_ALL = (
    *(Scenario(name=world.name, summary=world.summary, world=world) for world in (FEED, QUICK, TENURE, AA)),
    *(_over_time(world) for world in (*MADE.values(), RAILS, TRAP)),
    Scenario(
        name="jump",
        summary=f"the 3 weights, whose peak moves at hour {JUMP_HOUR}",
        world=MADE["three"],
        later=_turned(MADE["three"]),
        drift=MILD,
        jump_hour=JUMP_HOUR,
    ),
    Scenario(name="corner", summary=CORNER.summary, world=CORNER),
    Scenario(name="weekend", summary=WEEKEND.summary, world=WEEKEND),
    Scenario(
        name="surfaces",
        summary=SURFACES.summary,
        world=SURFACES,
        later=msgspec.structs.replace(SURFACES, segments={"home": 0.35, "related": 0.65}),
        jump_hour=JUMP_HOUR,
    ),
)
SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
WORLDS: dict[str, World] = {name: scenario.world for name, scenario in SCENARIOS.items()}
DRAWN = "drawn-0, drawn-1, ... at random"
PRODUCTS: dict[str, AnyScenario] = {**SCENARIOS, **{name: FeedScenario(feed) for name, feed in FEEDS.items()}}


def product_named(name: str) -> AnyScenario:
    """A world or a feed by its name; raises `ValueError` saying which there are."""
    found = PRODUCTS.get(name) or drawn_named(name)
    if found is None:
        raise ValueError(f"no world is called {name!r}; there are {', '.join(PRODUCTS)}, and {DRAWN}")
    return found


def scenario_named(name: str) -> Scenario:
    """A world over time by its name; raises `ValueError` saying which there are."""
    found = SCENARIOS.get(name) or drawn_named(name)
    if found is None:
        raise ValueError(f"no world is called {name!r}; there are {', '.join(SCENARIOS)}, and {DRAWN}")
    return found


def world_named(name: str) -> World:
    """The world that a scenario of this name begins with; raises `ValueError` saying which there are."""
    return scenario_named(name).world
