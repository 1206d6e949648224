"""The arena's scenarios: twenty of the simulators' worlds, and any number drawn at random.

Each with half of its traffic for everyone's arms, and with a drift that differs from seed to seed.
"""

from functools import cache

import msgspec

from simulators import catalog
from simulators.scenarios import Scenario
from simulators.shapes import SHAPES

AVAILABLE = 0.5  # of the traffic, for everyone's arms
DRIFTING = ("feed", "tenure")  # here, though they stand still in the catalogue
OWN_DRIFT = 1_000  # seeds of drifts from here on are no world's
NAMES = ("quick", "feed", "tenure", "aa", *SHAPES, "rails", "trap", "jump")


def _entered(scenario: Scenario) -> Scenario:
    return msgspec.structs.replace(
        scenario,
        world=msgspec.structs.replace(scenario.world, explore_share=AVAILABLE),
        later=scenario.later and msgspec.structs.replace(scenario.later, explore_share=AVAILABLE),
        drift=catalog.MILD if scenario.name in DRIFTING else scenario.drift,
    )


SCENARIOS = {name: _entered(catalog.SCENARIOS[name]) for name in NAMES}


@cache
def entered(name: str) -> Scenario:
    """A scenario of the arena, or a world drawn at random; raises `ValueError` saying which there are."""
    found = SCENARIOS.get(name)
    return found if found is not None else _entered(catalog.scenario_named(name))


@cache
def of_run(name: str, seed: int) -> Scenario:
    """The scenario as a run meets it: phases and wanderings of its drift are the seed's own.

    Else all runs of a world would share one error of what is to come.
    """
    scenario = entered(name)
    if scenario.drift is None:
        return scenario
    return msgspec.structs.replace(scenario, drift=msgspec.structs.replace(scenario.drift, seed=OWN_DRIFT + seed))


def names(text: str) -> tuple[str, ...]:
    """The scenarios that a word of the command line names: a name, or `drawn-0..29` for thirty.

    Raises `ValueError` saying which there are.
    """
    first, dots, last = text.partition("..")
    stem, _, start = first.rpartition("-")
    if dots and start.isdecimal() and last.isdecimal():
        if int(last) < int(start):
            raise ValueError(f"{text!r} holds no world: the first number is to be the smaller one")
        entered(f"{stem}-{start}")  # drawing a world takes seconds: the others are, when they are played
        return tuple(f"{stem}-{n}" for n in range(int(start), int(last) + 1))
    return (entered(text).name,)
