"""What people (and the daemon on their behalf) may tell a study: pure, recorded, made again by `verify`."""

import math
from typing import Literal

import msgspec

from controller.assignment import ALL
from controller.core import replan, rollout
from controller.core.control import Control, Theta, Vector, all_on_control, banning, carrying, issue, moved, tuned
from controller.core.plan import Plan
from controller.core.rollout import FROZEN, RESUMED, Deal

Verb = Literal["pause", "resume", "rollback", "approve", "reject", "choose", "freeze"]


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """One order. `freeze` is the daemon's own (a fault outside the events, such as lost offsets).

    `candidate`: the vector that `approve` or `reject` means; another one that awaits approval meanwhile is left alone.
    `choose` names a vector and the objective that it is the best for; neither of them: back to the study file's own.
    """

    command: Verb
    who: str
    why: str = ""
    theta: Theta | None = None
    objective: dict[str, float] | None = None  # metric -> coefficient
    candidate: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """What came of a command. `table`: None when it was refused."""

    said: str
    table: bytes | None


def apply(plan: Plan, control: Control, command: Command, now_ms: int) -> tuple[Control, Answer]:
    """Carry out a command at once; one that does not fit the stage changes nothing and is answered with what would."""
    stage = control.carry.stage
    why = f"{command.command} by {command.who}" + (f": {command.why}" if command.why else "")
    match command.command:
        case "pause" | "freeze" if stage != "paused":
            control = moved(control, "paused", why if command.command == "pause" else command.why, now_ms)
        case "rollback" if stage != "rolled_back":
            candidate = control.carry.candidate
            banned = control.carry.banned if candidate is None else banning(control.carry, candidate.theta)
            control = moved(control, "rolled_back", why, now_ms, candidate=None, banned=banned)
        case "resume" if stage in FROZEN:
            control = _resume(control, why, now_ms)
        case "approve" if _awaited(control, command):
            control = moved(control, "ramp", why, now_ms)
        case "reject" if _awaited(control, command):
            control = _rejected(control, why, now_ms)
        case "choose" if _unfit(plan, control, command) is None:
            control = _chosen(plan, control, command, why, now_ms)
        case _:
            return control, Answer(f"refused: {_expected(plan, control, command)}", None)
    control, table = issue(plan, control, _current(plan, control), now_ms)
    return control, Answer(f"stage is {control.carry.stage}", table)


def _awaited(control: Control, command: Command) -> bool:
    """Whether the candidate that is meant waits for an approval."""
    carry = control.carry
    return carry.awaiting_approval and carry.candidate is not None and command.candidate in (None, carry.candidate.arm)


def _rejected(control: Control, why: str, now_ms: int) -> Control:
    """Back to explore, where the vector is not dealt again: a person knows something that no metric tells."""
    candidate = control.carry.candidate
    assert candidate is not None  # an approval is awaited for one
    return moved(control, "explore", why, now_ms, candidate=None, banned=banning(control.carry, candidate.theta))


def _resume(control: Control, why: str, now_ms: int) -> Control:
    carry = control.carry
    stage = RESUMED[carry.before] if carry.candidate is not None or carry.before == "verify" else "explore"
    return moved(control, stage, why, now_ms)


def _current(plan: Plan, control: Control) -> Deal:
    """All control while frozen or just resumed, else the last deal without what is banned by now.

    The next decision deals what the stage wants.
    """
    deal = control.deals[control.carry.deal]
    if len(deal.arms) == 1:
        return deal
    if control.carry.stage not in FROZEN:
        # Control stays: what is banned may be the baseline, which arms of the A/A stage and a choice can serve too.
        gone = [i for i, arm in enumerate(deal.arms) if i and arm.theta in control.carry.banned]
        return rollout.without(deal, control.carry.deals + 1, gone) if gone else deal
    return all_on_control(plan, control)


def _unfit(plan: Plan, control: Control, command: Command) -> str | None:
    """Why a choice cannot be followed, or None."""
    carry, theta, objective = control.carry, command.theta, command.objective
    if carry.stage in FROZEN:
        return f"stage is {carry.stage}; choose when it is resumed"
    if theta is None and objective is None:
        return f"stage {carry.stage} goes by the study file's objective already" if carry.objective is None else None
    if theta is None or not objective:
        return "a choice names a vector and the objective that it is the best for"
    if set(theta) != {ALL, *plan.segments} or any(len(row) != len(plan.weights) for row in theta.values()):
        return "the vector is not of this study's segments and weights"
    if replan.outside(plan, theta) or theta in carry.banned:
        return "the vector lies outside the bounds, or was stopped or not confirmed before"
    learnt = {metric.name for metric in plan.metrics if metric.response == "immediate"}
    sound = set(objective) <= learnt and all(math.isfinite(c) and c for c in objective.values())
    return None if sound else f"the objective is to be of {', '.join(sorted(learnt))}, with coefficients other than 0"


def _chosen(plan: Plan, control: Control, command: Command, why: str, now_ms: int) -> Control:
    """The study under the chosen objective, with its vector in confirm: it must prove itself on fresh data."""
    before = tuned(plan, control.carry)
    control = carrying(control, objective=command.objective, pick=None, exposed_windows=0)
    control = carrying(control, hypers=replan.rewritten(before, tuned(plan, control.carry), control.carry.hypers))
    if control.carry.stage != "explore":
        control = moved(control, "explore", why, now_ms, candidate=None)
    if command.theta is None:
        return carrying(control, reason=why)
    vector = Vector(f"c{control.carry.arms + 1}", command.theta)
    return moved(control, "confirm", why, now_ms, candidate=vector, arms=control.carry.arms + 1)


def _expected(plan: Plan, control: Control, command: Command) -> str:
    stage, verb = control.carry.stage, command.command
    if verb == "choose":
        return str(_unfit(plan, control, command))
    if verb in ("approve", "reject"):
        waits = control.carry.candidate if control.carry.awaiting_approval else None
        told = f"nothing awaits approval in stage {stage}"
        return told if waits is None else f"{waits.arm} awaits approval, not {command.candidate}"
    if verb == "resume":
        return f"stage is {stage}; resume answers paused or rolled_back"
    return f"stage is {stage} already"


def begin(plan: Plan, control: Control, epoch: int, now_ms: int) -> tuple[Control, bytes]:
    """A daemon's start: the last deal again under the new epoch, or all control where its table has expired.

    Vectors outside the plan's bounds, which may have changed, are not dealt again.
    """
    carry = control.carry
    expired = carry.valid_until_ms is not None and carry.valid_until_ms <= now_ms
    control = carrying(control, epoch=epoch)
    deal = replan.within_bounds(plan, control, control.deals[carry.deal])
    if expired and len(deal.arms) > 1:
        deal = all_on_control(plan, control)
    return issue(plan, control, deal, now_ms)
