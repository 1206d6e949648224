"""`trimtab truth`: what only a simulator knows."""

import argparse
import json
from collections.abc import Sequence

import msgspec

from controller.core.experiment import Theta
from simulators.arguments import hours, world_name
from simulators.catalog import product_named
from simulators.faults import faulty, parse
from simulators.kinds import AnyScenario, AnyWorld, optimum, true_changes, true_errors
from simulators.report import Kept, named, vector_line
from simulators.worlds import gain, margins


class Truth(msgspec.Struct, frozen=True):
    """What a vector does in the day from an hour on. Changes and gains are relative: 0.01 is 1 %."""

    vector: dict[str, dict[str, float]]  # segment -> weight -> value
    gain: float
    change: dict[str, float]
    se: dict[str, float]  # of the changes, by Monte Carlo; 0 where they are exact
    guardrails: list[Kept]
    feasible: bool


def truth_command(argv: list[str]) -> int:
    """Say what a world's weights truly do: the best feasible vector at an hour, and any other that is asked for."""
    parser = argparse.ArgumentParser(prog="trimtab truth", description=truth_command.__doc__)
    parser.add_argument("world", type=world_name, metavar="WORLD", help="see trimtab simulate --list")
    parser.add_argument("weights", nargs="*", metavar="NAME=VALUE", help="a vector; weights left out: the baseline's")
    parser.add_argument("--hour", type=hours, default=0, metavar="N", help="since the start; the day from then on (0)")
    parser.add_argument("--common", action="store_true", help="one vector for all segments")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME[:ARGS]", help="swap changes the truth")
    parser.add_argument("--json", action="store_true", help="print data instead of text")
    args = parser.parse_args(argv)
    try:
        scenario = product_named(args.world)
        scenario = faulty(scenario, [parse(text, scenario.world) for text in args.fault])
        given = _vector(scenario.world, args.weights)
    except ValueError as error:
        parser.error(str(error))
    found = {"best": judged(scenario, args.hour, optimum(scenario, args.hour, common=args.common).theta)}
    if args.weights:
        found["given"] = judged(scenario, args.hour, given)
    if args.json:
        print(json.dumps(msgspec.to_builtins(found), indent=2))
    else:
        print("\n".join(line for name, each in found.items() for line in _lines(scenario.world, name, each)))
    return 0


def judged(scenario: AnyScenario, hour: int, theta: Theta) -> Truth:
    """The truth of a vector in the day from an hour on."""
    world, change = scenario.world, true_changes(scenario, hour, [theta])[0]
    rails = [
        Kept(rail.metric, rail.limit, float(room))
        for rail, room in zip(world.guardrails, margins(world, change), strict=True)
    ]
    changes = {metric.name: float(y) for metric, y in zip(world.metrics, change, strict=True)}
    errors = true_errors(scenario, hour, theta)
    se = {metric.name: float(error) for metric, error in zip(world.metrics, errors, strict=True)}
    kept = all(rail.margin >= -1e-4 for rail in rails)  # the best of a drifting day is that to a small error
    return Truth(named(world, theta), float(gain(world, change)), changes, se, rails, kept)


def _vector(world: AnyWorld, weights: Sequence[str]) -> Theta:
    values = {weight.name: weight.baseline for weight in world.weights}
    for text in weights:
        name, _, value = text.partition("=")
        if name not in values:
            raise ValueError(f"{text!r}: the world has no weight {name!r}; it has {', '.join(values)}")
        try:
            values[name] = float(value)
        except ValueError:
            raise ValueError(f"{text!r}: write {name}=NUMBER") from None
    for weight in world.weights:
        if not weight.low <= values[weight.name] <= weight.high:
            raise ValueError(f"{weight.name}={values[weight.name]:g}: lies outside {weight.low:g} to {weight.high:g}")
    return {"all": tuple(values.values())}


def _lines(world: AnyWorld, name: str, found: Truth) -> list[str]:
    theta = {segment: tuple(values.values()) for segment, values in found.vector.items()}
    room = {rail.metric: f"   limit {rail.limit:+.2%}, room {rail.margin:+.2%}" for rail in found.guardrails}
    return [
        f"{name:<6}{'gain':>12} {found.gain:+8.2%}   {vector_line(world, theta)}",
        *(
            f"{metric:>18} {change:+8.2%}{f' +- {se:.2%}' if (se := found.se[metric]) else ''}{room.get(metric, '')}"
            for metric, change in found.change.items()
        ),
    ]
