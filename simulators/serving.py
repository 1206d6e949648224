"""What a product serves by, given the table it holds: the rules of the serving client, for all buckets at once."""

import numpy as np

from controller.assignment import ALL, CONTROL, Arm, Assignment
from simulators.events import Served
from simulators.worlds import World


def served(world: World, table: Assignment | None, now_ms: int) -> Served:
    """Without a table the baseline serves, after its end the fallback arm: both echo version 0."""
    if table is None:
        return _everyone(world, Arm(CONTROL, "control", {ALL: tuple(world.baseline.tolist())}), ())
    if table.valid_until_ms is not None and now_ms > table.valid_until_ms:
        fallback = next(arm for arm in table.arms if arm.arm == table.fallback)
        return _everyone(world, fallback, table.weights)
    return Served(
        version=table.version,
        names=tuple(arm.arm for arm in table.arms),
        arm_of=np.array(table.buckets, np.int16),
        theta=tuple(_weights(world, arm, table.weights) for arm in table.arms),
    )


def _everyone(world: World, arm: Arm, names: tuple[str, ...]) -> Served:
    names = names or tuple(weight.name for weight in world.weights)
    return Served(0, (arm.arm,), np.zeros(world.buckets, np.int16), (_weights(world, arm, names),))


def _weights(world: World, arm: Arm, names: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """The arm's weights per segment in the world's order; a weight that the table lacks is at its baseline."""
    return {
        segment: tuple({**_baseline(world), **dict(zip(names, theta, strict=True))}[w.name] for w in world.weights)
        for segment, theta in arm.theta.items()
    }


def _baseline(world: World) -> dict[str, float]:
    return {weight.name: weight.baseline for weight in world.weights}
