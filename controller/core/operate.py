"""What people (and the daemon on their behalf) may tell a study: pure, recorded, made again by `verify`."""

import math
from typing import Literal

import msgspec

from controller.assignment import ALL
from controller.core import replan, rollout
from controller.core.experiment import Experiment, Theta, Vector, all_on_control, banning, carrying, issue, moved, tuned
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


def apply(plan: Plan, experiment: Experiment, command: Command, now_ms: int) -> tuple[Experiment, Answer]:
    """Carry out a command at once; one that does not fit the stage changes nothing and is answered with what would."""
    stage = experiment.carry.stage
    why = f"{command.command} by {command.who}" + (f": {command.why}" if command.why else "")
    match command.command:
        case "pause" | "freeze" if stage != "paused":
            experiment = moved(experiment, "paused", why if command.command == "pause" else command.why, now_ms)
        case "rollback" if stage != "rolled_back":
            candidate = experiment.carry.candidate
            banned = experiment.carry.banned if candidate is None else banning(experiment.carry, candidate.theta)
            experiment = moved(experiment, "rolled_back", why, now_ms, candidate=None, banned=banned)
        case "resume" if stage in FROZEN:
            experiment = _resume(experiment, why, now_ms)
        case "approve" if _awaited(experiment, command):
            experiment = moved(experiment, "ramp", why, now_ms)
        case "reject" if _awaited(experiment, command):
            experiment = _rejected(experiment, why, now_ms)
        case "choose" if _unfit(plan, experiment, command) is None:
            experiment = _chosen(plan, experiment, command, why, now_ms)
        case _:
            return experiment, Answer(f"refused: {_expected(plan, experiment, command)}", None)
    experiment, table = issue(plan, experiment, _current(plan, experiment), now_ms)
    return experiment, Answer(f"stage is {experiment.carry.stage}", table)


def _awaited(experiment: Experiment, command: Command) -> bool:
    """Whether the candidate that is meant waits for an approval."""
    carry = experiment.carry
    return carry.awaiting_approval and carry.candidate is not None and command.candidate in (None, carry.candidate.arm)


def _rejected(experiment: Experiment, why: str, now_ms: int) -> Experiment:
    """Back to explore, where the vector is not dealt again: a person knows something that no metric tells."""
    candidate = experiment.carry.candidate
    assert candidate is not None  # an approval is awaited for one
    return moved(experiment, "explore", why, now_ms, candidate=None, banned=banning(experiment.carry, candidate.theta))


def _resume(experiment: Experiment, why: str, now_ms: int) -> Experiment:
    carry = experiment.carry
    stage = RESUMED[carry.before] if carry.candidate is not None or carry.before == "verify" else "explore"
    return moved(experiment, stage, why, now_ms)


def _current(plan: Plan, experiment: Experiment) -> Deal:
    """All control while frozen or just resumed, else the last deal without what is banned by now.

    The next decision deals what the stage wants.
    """
    deal = experiment.deals[experiment.carry.deal]
    if len(deal.arms) == 1:
        return deal
    if experiment.carry.stage not in FROZEN:
        # Control stays: what is banned may be the baseline, which arms of the A/A stage and a choice can serve too.
        gone = [i for i, arm in enumerate(deal.arms) if i and arm.theta in experiment.carry.banned]
        return rollout.without(deal, experiment.carry.deals + 1, gone) if gone else deal
    return all_on_control(plan, experiment)


def _unfit(plan: Plan, experiment: Experiment, command: Command) -> str | None:
    """Why a choice cannot be followed, or None."""
    carry, theta, objective = experiment.carry, command.theta, command.objective
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


def _chosen(plan: Plan, experiment: Experiment, command: Command, why: str, now_ms: int) -> Experiment:
    """The study under the chosen objective, with its vector in confirm: it must prove itself on fresh data."""
    before = tuned(plan, experiment.carry)
    experiment = carrying(experiment, objective=command.objective, pick=None, exposed_windows=0)
    experiment = carrying(
        experiment, hypers=replan.rewritten(before, tuned(plan, experiment.carry), experiment.carry.hypers)
    )
    if experiment.carry.stage != "explore":
        experiment = moved(experiment, "explore", why, now_ms, candidate=None)
    if command.theta is None:
        return carrying(experiment, reason=why)
    vector = Vector(f"c{experiment.carry.arms + 1}", command.theta)
    return moved(experiment, "confirm", why, now_ms, candidate=vector, arms=experiment.carry.arms + 1)


def _expected(plan: Plan, experiment: Experiment, command: Command) -> str:
    stage, verb = experiment.carry.stage, command.command
    if verb == "choose":
        return str(_unfit(plan, experiment, command))
    if verb in ("approve", "reject"):
        waits = experiment.carry.candidate if experiment.carry.awaiting_approval else None
        told = f"nothing awaits approval in stage {stage}"
        return told if waits is None else f"{waits.arm} awaits approval, not {command.candidate}"
    if verb == "resume":
        return f"stage is {stage}; resume answers paused or rolled_back"
    return f"stage is {stage} already"


def begin(plan: Plan, experiment: Experiment, epoch: int, now_ms: int) -> tuple[Experiment, bytes]:
    """A daemon's start: the last deal again under the new epoch, or all control where its table has expired.

    Vectors outside the plan's bounds, which may have changed, are not dealt again.
    """
    carry = experiment.carry
    expired = carry.valid_until_ms is not None and carry.valid_until_ms <= now_ms
    experiment = carrying(experiment, epoch=epoch)
    deal = replan.within_bounds(plan, experiment, experiment.deals[carry.deal])
    if expired and len(deal.arms) > 1:
        deal = all_on_control(plan, experiment)
    return issue(plan, experiment, deal, now_ms)
