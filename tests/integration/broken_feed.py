"""`trimtab simulate quick` with clicks that collapse off the baseline: arms break their guardrail for real."""

import sys

import msgspec

from simulators.catalog import PRODUCTS, SCENARIOS
from simulators.cli import simulate
from simulators.worlds import World


def broken(world: World) -> World:
    """The world with a click rate that falls by half where a weight is far from its baseline."""
    fall = {("p_watch", "p_watch"): -8.0, ("p_report", "p_report"): -8.0}
    parts = (msgspec.structs.replace(q, response=fall) if q.name == "clicks" else q for q in world.quantities)
    return msgspec.structs.replace(world, quantities=tuple(parts))


if __name__ == "__main__":
    PRODUCTS["quick"] = msgspec.structs.replace(SCENARIOS["quick"], world=broken(SCENARIOS["quick"].world))
    sys.exit(simulate(["quick", *sys.argv[1:]]))
