"""What becomes of a running study whose file an operator edits between two runs.

A journal's past keeps its meaning under another objective, guardrails, traffic, rollout, safety and bounds of weights:
evidence is held as weight vectors and relative changes, so it counts under all of them. Anything else is another study.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from controller.assignment import ALL
from controller.core import posterior
from controller.core.belief import processes, scales
from controller.core.durations import written
from controller.core.experiment import Carry, Experiment, Theta, carrying, moved, tuned
from controller.core.kernel import Hyper
from controller.core.plan import Plan
from controller.core.rollout import FROZEN, Deal, without
from controller.core.space import Space

_FREE = re.compile(
    r"(objectives?|guardrails|rollout|safety|offline)\b|traffic\b(?!\.(salt|buckets):)|weights\[\d+\]\.(low|high)\b"
)
_PLACES = {"salt": "traffic.salt", "buckets": "traffic.buckets", "segments": "segments.values"}  # in the study file


def differences(before: Plan, after: Plan) -> tuple[str, ...]:
    """Every place of the study file that differs, as "guardrails[0].min_change: -0.05 before, -0.02 now"."""
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(after)
    return tuple(line for name in new for line in _differs(old[name], new[name], _PLACES.get(name, name)))


def refused(changed: tuple[str, ...]) -> tuple[str, ...]:
    """The differences that a study cannot follow."""
    return tuple(line for line in changed if not _FREE.match(line))


def follow(before: Plan, after: Plan, experiment: Experiment, at_ms: int) -> Experiment:
    """The state that goes on under another plan.

    Nothing stays promoted, or under test, that was not chosen under what now holds: a candidate outside the new bounds
    or chosen for another objective sends the study back to explore at once; under other guardrails it is judged
    again at the next decision. A frozen study stays frozen and loses the candidate. Exploring for another objective, or
    in other bounds, is counted afresh. Larger shares are climbed to, also by a vector that is held.
    """
    old = tuned(before, experiment.carry)
    if before.objective != after.objective:
        experiment = carrying(experiment, objective=None)  # the study file's word is the last
    before, after = old, tuned(after, experiment.carry)
    experiment = carrying(experiment, hypers=rewritten(before, after, experiment.carry.hypers))
    experiment = _climbing(before, after, experiment, at_ms)
    if (before.objective, before.guardrails, before.weights) == (after.objective, after.guardrails, after.weights):
        return experiment
    another = (before.objective, before.weights) != (after.objective, after.weights)
    explored = 0 if another and experiment.carry.stage == "explore" else experiment.carry.exposed_windows
    experiment = carrying(experiment, pick=None, exposed_windows=explored)
    carry, candidate = experiment.carry, experiment.carry.candidate
    if candidate is None:
        return carrying(experiment, recheck=True)
    if outside(after, candidate.theta):
        why = f"{candidate.arm} lies outside the new bounds"
    elif before.objective != after.objective:
        why = f"{candidate.arm} was chosen for another objective"
    else:
        return carrying(experiment, recheck=before.guardrails != after.guardrails or carry.recheck)
    if carry.stage in FROZEN:
        return carrying(experiment, candidate=None)
    return moved(experiment, "explore", f"the study file changed: {why}", at_ms, candidate=None)


def _climbing(before: Plan, after: Plan, experiment: Experiment, at_ms: int) -> Experiment:
    """A vector that the new steps would raise at once goes on from the largest of them that it has come to."""
    carry, steps = experiment.carry, after.rollout.ramp_shares
    if carry.stage not in ("ramp", "hold") or _share(after, carry) <= _share(before, carry):
        return experiment
    step = max((k for k, share in enumerate(steps) if share <= _share(before, carry)), default=0)
    reason = f"the study file changed: the ramp goes on from {steps[step]:.0%}"
    if carry.stage == "hold":
        return moved(experiment, "ramp", reason, at_ms, ramp_step=step)
    return carrying(experiment, ramp_step=step, exposed_windows=0, reason=reason)


def _share(plan: Plan, carry: Carry) -> float:
    """Of the traffic, that a plan gives a vector in the ramp or held."""
    steps = plan.rollout.ramp_shares
    return steps[-1] if carry.stage == "hold" else steps[min(carry.ramp_step, len(steps) - 1)]


def within_bounds(plan: Plan, experiment: Experiment, deal: Deal) -> Deal:
    """The deal without the vectors that lie outside the plan's bounds; their buckets go to control."""
    gone = [i for i, arm in enumerate(deal.arms) if i and outside(plan, arm.theta)]
    return without(deal, experiment.carry.deals + 1, gone) if gone else deal


def outside(plan: Plan, theta: Theta) -> bool:
    """Whether a vector has a weight outside its bounds in some segment that is served with it."""
    rows = [theta[name] for name in (ALL, *plan.segments) if name in theta]
    return any(not w.low <= value <= w.high for row in rows for w, value in zip(plan.weights, row, strict=True))


def rewritten(before: Plan, after: Plan, hypers: tuple[Hyper, ...] | None) -> tuple[Hyper, ...] | None:
    """Fitted hyperparameters for the processes that there are now, their lengthscales in sides of the new cube."""
    old, new = processes(before), processes(after)
    if hypers is None or len(hypers) != len(old):
        return None
    low, high = (np.array([getattr(w, end) for w in before.weights]) for end in ("low", "high"))
    space = Space(after.weights)
    sides = space.to_unit(high) - space.to_unit(low)  # (d,) of the old cube
    known = {
        m: msgspec.structs.replace(own, lengthscale=tuple(float(v) for v in sides * own.lengthscale))
        for m, own in zip(old, hypers, strict=True)
    }
    fresh = posterior.prior(space.d, scales(after, new))
    return tuple(known.get(m, unknown) for m, unknown in zip(new, fresh, strict=True))


def _differs(old: Any, new: Any, place: str) -> Iterator[str]:
    """The places where two plain values differ."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for key in new:
            yield from _differs(old[key], new[key], f"{place}.{key}")
    elif _listed(old) and _listed(new) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from _differs(*pair, f"{place}[{index}]")
    elif old != new:
        duration = place.endswith("_ms") and not place.startswith("objective")  # a metric's name may end so
        name = place.removesuffix("_ms") if duration else place
        yield f"{name}: {_shown(old, duration)} before, {_shown(new, duration)} now"


def _listed(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _shown(value: Any, duration: bool) -> str:
    if _listed(value):
        return f"{len(value)} of them"
    return "none" if value is None else written(value) if duration else repr(value)
