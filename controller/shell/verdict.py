"""The answer of a study, first and in plain words: what was promoted, what it gains, and what it keeps."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from controller.core.advance import GATE_BETTER
from controller.core.experiment import Carry, tuned
from controller.core.plan import Plan
from controller.core.policy import MIN_FEASIBLE
from controller.core.surface import Surface
from controller.shell.effects import Effect, Margin, Measured, effect, margins
from controller.shell.story import moment, terms

Answer = Literal["promoted", "in progress", "nothing", "stopped", "not begun"]


class Step(msgspec.Struct, frozen=True):
    """What the candidate gained while it had a share of the traffic."""

    share: float
    gain: Effect
    confirm: bool = False  # in its confirm test, not in the ramp


class Verdict(msgspec.Struct, frozen=True):
    """What to tell somebody who reads one paragraph."""

    answer: Answer
    headline: str
    sentences: tuple[str, ...]
    gain: Effect | None = None  # of the vector that the headline is about
    basis: str = ""  # what the gain and the margins rest on
    margins: tuple[Margin, ...] = ()


def judged(
    plan: Plan | None,
    carry: Carry,
    seen: Measured | None,
    around: Surface | None,
    outcomes: Mapping[str, int],
    steps: Sequence[Step] = (),
    untold: bool = False,
    newest: str = "",
) -> Verdict:
    """The verdict.

    Args:
        plan: the newest.
        carry: the newest.
        seen: what is measured on live traffic.
        around: what is believed of the vector.
        outcomes: decisions by outcome.
        steps: what the candidate gained at each share of the traffic so far.
        untold: whether what is measured cannot be read, so that `seen` and `around` are missing for that.
        newest: why the newest decision was taken.
    """
    if plan is None or not carry.decided_through_ms:
        return Verdict("not begun", "This study has decided nothing yet.", ())
    through = f"{sum(outcomes.values())} windows were decided on, the last ends {moment(carry.decided_through_ms)} UTC."
    if carry.stage in ("paused", "rolled_back"):
        return _stopped(carry, through)
    chosen = ", as an operator chose" if carry.objective else ""
    last = (f"Gains are in the objective {terms(tuned(plan, carry).objective)}{chosen}.", through)
    if carry.candidate is not None:
        return _tested(plan, carry, seen, steps, last, untold)
    if carry.pick is not None:
        return _exploring(plan, carry, around, last)
    return _nothing(carry, seen, last, newest)


def _tested(
    plan: Plan, carry: Carry, seen: Measured | None, steps: Sequence[Step], last: tuple[str, ...], untold: bool
) -> Verdict:
    assert carry.candidate is not None
    name, gain, basis = carry.candidate.arm, None, ""
    rails: tuple[Margin, ...] = ()
    if seen is not None and seen.what == "candidate":
        gain, rails = seen.effects.gain, seen.effects.margins
        basis = f"{name} against control, all traffic of its test at the present share ({seen.events:,} events)"
    elif steps:
        gain = steps[-1].gain
        since = "what is measured since is not told here" if untold else "the present share is new"
        basis = f"{name} against control at {steps[-1].share:.0%} of the traffic: {since}"
    nothing = "what it gains is not told here" if untold else "nothing is measured of it yet"
    told = nothing if gain is None else f"it gains {interval(gain)} in the objective"
    match carry.stage:
        case "hold":
            answer: Answer = "promoted"
            said = f"{name} was promoted and is held: {told}."
        case "ramp":
            answer = "promoted"
            said = f"{name} is confirmed and is being ramped up: {told}."
        case _ if carry.awaiting_approval:
            answer = "in progress"
            said = f"{name} is confirmed and awaits an operator's approval: {told}."
        case _:
            answer = "in progress"
            said = f"{name} is being tested on fresh data and is not confirmed: {told}{' so far' if gain else ''}."
    proven = tuple(f"In its confirm test, on fresh data, it gained {interval(s.gain)}." for s in steps if s.confirm)
    told_too = (*proven, *_guarded(plan, rails, untold), f"Why this stage: {carry.reason}.", *last)
    return Verdict(answer, said, told_too, gain, basis, rails)


def _exploring(plan: Plan, carry: Carry, around: Surface | None, last: tuple[str, ...]) -> Verdict:
    pick = carry.pick
    assert pick is not None
    gain = effect(pick.gain_mean, pick.gain_sd)
    rails: tuple[Margin, ...] = ()
    if around is not None:
        rails = expected_margins(plan, around)
    sure = pick.p_better >= GATE_BETTER
    said = "Nothing has been promoted. " + (
        f"The best vector known is expected to gain {interval(gain)}, and has yet to prove it on fresh data."
        if sure
        else f"No vector is surely better yet: the best known is expected to gain {interval(gain)}."
    )
    chances = (
        f"P(it is better than the baseline) is {pick.p_better:.0%}, {GATE_BETTER:.0%} is asked for before a test; "
        f"P(it keeps every guardrail) is {pick.p_feasible:.0%}, {MIN_FEASIBLE:.0%} is asked for."
    )
    basis = "what the posterior expects of it, from all exploring; chosen as the best, so it may disappoint"
    answer: Answer = "in progress" if sure else "nothing"
    return Verdict(answer, said, (chances, f"Why this stage: {carry.reason}.", *last), gain, basis, rails)


def expected_margins(plan: Plan, around: Surface) -> tuple[Margin, ...]:
    """Every guardrail on what is believed of a vector."""
    by_metric = {one.metric: effect(one.mean, one.sd) for one in around.expected}
    believed = tuple(rail for rail in plan.guardrails if rail.metric in by_metric)
    return margins(msgspec.structs.replace(plan, guardrails=believed), by_metric)


def _nothing(carry: Carry, seen: Measured | None, last: tuple[str, ...], newest: str) -> Verdict:
    said = "This study has found nothing: no vector is known to be better than the baseline and inside the guardrails."
    tried = f"{carry.arms} vectors were dealt, {len(carry.banned)} of them stopped or not confirmed."
    whole = (
        ()
        if seen is None
        else (f"All exploring traffic together, against control: {interval(seen.effects.gain)} in the objective.",)
    )
    why = (f"Why this stage: {carry.reason}.", *([f"The newest decision: {newest}."] if newest else []))
    return Verdict("nothing", said, (tried, *whole, *why, *last))


def _stopped(carry: Carry, through: str) -> Verdict:
    state = "paused" if carry.stage == "paused" else "rolled back"
    said = f"This study is {state}: all traffic is on control."
    left = f"It was in {carry.before} before." + (
        f" Its candidate was {carry.candidate.arm}." if carry.candidate else ""
    )
    return Verdict("stopped", said, (f"Why: {carry.reason}.", left, through))


def _guarded(plan: Plan, rails: tuple[Margin, ...], untold: bool) -> tuple[str, ...]:
    if not plan.guardrails:
        return ("The study has no guardrail.",)
    if not rails:
        return (
            "What the guardrails' metrics do is not told here."
            if untold
            else "No guardrail is measured at the present share.",
        )
    words = {"kept": "is kept", "unsure": "is not surely kept", "broken": "is broken"}
    return tuple(
        f"The guardrail on {rail.metric} ({'at least' if rail.side == 'min' else 'at most'} {signed(rail.limit)}) "
        f"{words[rail.state]}: {interval(rail.effect)}."
        for rail in rails
    )


def interval(found: Effect) -> str:
    """As in `+5.72% (95 % interval +4.71% to +6.72%)`."""
    if found.change is None or found.low is None or found.high is None:
        return "an amount that cannot be measured"
    return f"{signed(found.change)} (95 % interval {signed(found.low)} to {signed(found.high)})"


def signed(value: float) -> str:
    """As in `+5.72%`, with a minus sign that is one."""
    return f"{value:+.2%}".replace("-", "\u2212")
