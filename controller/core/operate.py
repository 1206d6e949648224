"""What people (and the daemon on their behalf) may tell a study: pure, recorded, made again by `verify`."""

from typing import Literal

import msgspec

from controller.core import replan, rollout
from controller.core.control import Control, banning, baseline, issue, moved
from controller.core.plan import Plan
from controller.core.rollout import FROZEN, RESUMED, Deal

Verb = Literal["pause", "resume", "rollback", "approve", "freeze"]


class Command(msgspec.Struct, frozen=True):
    """One order. `freeze` is the daemon's own (a fault outside the events, such as lost offsets)."""

    command: Verb
    who: str
    why: str = ""


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
        case "approve" if control.carry.awaiting_approval:
            control = moved(control, "ramp", why, now_ms)
        case _:
            return control, Answer(f"refused: {_expected(command.command, control)}", None)
    control, table = issue(plan, control, _current(plan, control), now_ms)
    return control, Answer(f"stage is {control.carry.stage}", table)


def _resume(control: Control, why: str, now_ms: int) -> Control:
    carry = control.carry
    stage = RESUMED[carry.before] if carry.candidate is not None else "explore"
    return moved(control, stage, why, now_ms)


def _current(plan: Plan, control: Control) -> Deal:
    """All control while frozen or just resumed; the next decision deals what the stage wants."""
    deal = control.deals[control.carry.deal]
    if control.carry.stage not in FROZEN or len(deal.arms) == 1:
        return deal
    return rollout.all_control(control.carry.deals + 1, control.carry.stage, baseline(plan), plan.buckets)


def _expected(verb: Verb, control: Control) -> str:
    stage = control.carry.stage
    if verb == "approve":
        return f"nothing awaits approval in stage {stage}"
    if verb == "resume":
        return f"stage is {stage}; resume answers paused or rolled_back"
    return f"stage is {stage} already"


def begin(plan: Plan, control: Control, epoch: int, now_ms: int) -> tuple[Control, bytes]:
    """A daemon's start: the last deal again under the new epoch, or all control where its table has expired.

    Vectors outside the plan's bounds, which may have changed, are not dealt again.
    """
    carry = control.carry
    expired = carry.valid_until_ms is not None and carry.valid_until_ms <= now_ms
    control = msgspec.structs.replace(control, carry=msgspec.structs.replace(carry, epoch=epoch))
    deal = replan.within_bounds(plan, control, control.deals[carry.deal])
    if expired and len(deal.arms) > 1:
        deal = rollout.all_control(carry.deals + 1, carry.stage, baseline(plan), plan.buckets)
    return issue(plan, control, deal, now_ms)
