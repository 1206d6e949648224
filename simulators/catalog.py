"""The worlds that ship with Trimtab, by name, each over time."""

import msgspec

from simulators.drawn import drawn_named
from simulators.feed.scenario import FeedScenario
from simulators.feed.shipped import FEEDS
from simulators.handmade import AA, FEED, JUMP_HOUR, QUICK, RAILS, SURFACES, TENURE, TRAP, WEEKEND
from simulators.kinds import AnyScenario
from simulators.scenarios import Drift, LateAmount, Scenario
from simulators.shapes import CORNER, SHAPES, generated
from simulators.worlds import Polynomial, World

MILD, STRONG = Drift(0.20, 0.20, 1), Drift(0.35, 0.40, 2)

MADE = {name: generated(name, summary, shape) for name, (summary, shape) in SHAPES.items()}
STILL = ("three", "small", "trap")  # of the worlds below that could drift


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
        late=LateAmount("watch_s") if world.name == "late" else None,
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
