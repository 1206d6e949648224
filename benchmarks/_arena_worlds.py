"""The arena's scenarios: nineteen of the simulators' worlds, each with half of its traffic for everyone's arms."""

import msgspec

from simulators import catalog
from simulators.scenarios import Scenario
from simulators.shapes import SHAPES

AVAILABLE = 0.5  # of the traffic, for everyone's arms
DRIFTING = ("feed", "tenure")  # here, though they stand still in the catalogue
NAMES = ("quick", "feed", "tenure", "aa", *SHAPES, "rails", "trap", "jump")


def _entered(scenario: Scenario) -> Scenario:
    return msgspec.structs.replace(
        scenario,
        world=msgspec.structs.replace(scenario.world, explore_share=AVAILABLE),
        later=scenario.later and msgspec.structs.replace(scenario.later, explore_share=AVAILABLE),
        drift=catalog.MILD if scenario.name in DRIFTING else scenario.drift,
    )


SCENARIOS = {name: _entered(catalog.SCENARIOS[name]) for name in NAMES}
