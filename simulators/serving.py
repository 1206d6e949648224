"""What a product serves by, given the table it holds: the rules of the serving client, for all buckets at once."""

import numpy as np

from controller.assignment import ALL, CONTROL, VERSIONS_PER_EPOCH, Arm, Assignment, UnitHash
from controller.core.plan import Plan
from controller.core.rollout import shuffled
from controller.core.space import Space
from simulators.events import Served
from simulators.kinds import AnyWorld

_FIXED = 103  # stream of randomness


def served(world: AnyWorld, table: Assignment | None, now_ms: int) -> Served:
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


def _everyone(world: AnyWorld, arm: Arm, names: tuple[str, ...]) -> Served:
    names = names or tuple(weight.name for weight in world.weights)
    return Served(0, (arm.arm,), np.zeros(world.buckets, np.int16), (_weights(world, arm, names),))


def _weights(world: AnyWorld, arm: Arm, names: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """The arm's weights per segment in the world's order; a weight that the table lacks is at its baseline."""
    return {
        segment: tuple({**_baseline(world), **dict(zip(names, theta, strict=True))}[w.name] for w in world.weights)
        for segment, theta in arm.theta.items()
    }


def _baseline(world: AnyWorld) -> dict[str, float]:
    return {weight.name: weight.baseline for weight in world.weights}


def fixed_table(plan: Plan, seed: int) -> Assignment:
    """A table for events without a daemon: control, and as many random vectors of the cube as the study explores."""
    rng, space, traffic = np.random.default_rng((seed, _FIXED)), Space(plan.weights), plan.traffic
    vectors = space.to_theta(rng.random((traffic.explore_arms, space.d)))
    control = Arm(CONTROL, "control", {ALL: tuple(weight.baseline for weight in plan.weights)})
    arms = (Arm(f"e{k}", "explore", {ALL: tuple(theta)}) for k, theta in enumerate(vectors.tolist(), 1))
    return Assignment(
        study=plan.study,
        version=VERSIONS_PER_EPOCH + 1,
        epoch=1,
        stage="explore",
        published_ms=0,
        decided_through_ms=0,
        valid_until_ms=None,
        unit_hash=UnitHash(plan.salt, plan.buckets),
        form=plan.form,
        weights=tuple(weight.name for weight in plan.weights),
        fallback=CONTROL,
        arms=(control, *arms),
        buckets=tuple(shuffled(plan.buckets, traffic.explore_arms, traffic.explore_share, rng).tolist()),
    )
