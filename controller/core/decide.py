"""One decision: what a settled window says, which stage follows, which table is published.

Notation: A arms, G' groups with weights of their own (one, or each segment), d free weights.
"""

from collections import Counter
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.assignment import Arm, Stage
from controller.core import policy, ratio, rollout, safety
from controller.core.advance import advanced, exposed_ms, measured_gain
from controller.core.belief import Believed, banned, believe, theta_at
from controller.core.control import (
    Choice,
    Control,
    Statistics,
    all_on_control,
    banning,
    baseline,
    carrying,
    issue,
    moved,
    tuned,
)
from controller.core.drift import faded, losing
from controller.core.durations import HOUR_MS
from controller.core.estimate import MIN_BUCKETS, Changes
from controller.core.evidence import deal_changes, live_evidence, remembered, trial_sums, watched
from controller.core.faults import events_served, fault
from controller.core.looks import looked
from controller.core.plan import Plan
from controller.core.rollout import BESIDE, FROZEN, OTHERS, TESTS, Deal
from controller.core.soundness import alike, followed_on, told, verified

Outcome = Literal["dealt", "kept", "no_data", "backlog", "frozen"]

NOTHING = "none (what is not near a vector that failed is believed to break a guardrail)"  # instead of reasons
EXPOSED = 0.5  # of a window's events that a deal must have served for the window to count as its exposure


class Decision(msgspec.Struct, frozen=True, eq=False):
    """What was decided on one window, for the ledger and for people."""

    end_ms: int
    outcome: Outcome
    why: str
    table: bytes | None  # None: nothing is published (an older window of a backlog, but one that freezes the study)
    changes: Changes | None  # of the deal that was live in the window, over all it has lasted
    deal: Deal  # that deal
    tripped: tuple[safety.Crossing, ...] = ()


class _Verdict(msgspec.Struct, frozen=True, eq=False):
    """A decision before its table is made."""

    control: Control
    outcome: Outcome
    why: str
    deal: Deal  # to be published
    changes: Changes | None = None
    tripped: tuple[safety.Crossing, ...] = ()


def decide(
    plan: Plan, control: Control, seen: Statistics, now_ms: int, rng: np.random.Generator, act: bool
) -> tuple[Control, Decision]:
    """Decide on the window that ends at `seen.end_ms`.

    Args:
        plan: the study.
        control: the decision state before.
        seen: the sums up to the window's end, and what else is known of it.
        now_ms: the daemon's clock, for the table.
        rng: the decision's randomness.
        act: False for the older windows of a backlog: their evidence counts, but only the newest publishes and
            only on what was published in it may a stage advance. A freeze does not wait for it: no vector may be
            left on traffic that nobody judges.
    """
    plan, deal = tuned(plan, control.carry), control.deals[control.carry.deal]
    verdict = _judged(plan, _observed(plan, control, seen, deal), seen, deal, rng, act)
    control, table = verdict.control, None
    froze = verdict.outcome == "frozen" and verdict.deal.id != deal.id
    if act or froze:
        control, table = issue(plan, control, verdict.deal, now_ms)
    return control, Decision(seen.end_ms, verdict.outcome, verdict.why, table, verdict.changes, deal, verdict.tripped)


def _observed(plan: Plan, control: Control, seen: Statistics, deal: Deal) -> Control:
    """The state that knows the window, of a backlog too, and whether the deal's vectors carried traffic in it."""
    carry = control.carry
    events = events_served(control, seen, deal)
    window = [cell for (end, _), cell in sorted(seen.cells.items()) if end == seen.end_ms]
    everyone = sum(int(cell.events.sum()) for cell in window)
    by_arm = np.bincount(deal.buckets, weights=events, minlength=len(deal.arms))
    own = _belongs(deal, carry.stage) and len(deal.arms) > 1  # a table of another stage shows nothing of this one
    exposed = own and bool((by_arm > 0).all()) and events.sum() >= EXPOSED * everyone
    started = seen.end_ms - plan.window.length_ms if carry.started_ms is None else carry.started_ms
    control = carrying(
        remembered(control, seen.end_ms, window),
        started_ms=started,
        decided_through_ms=seen.end_ms,
        exposed_windows=carry.exposed_windows + int(exposed),
    )
    return looked(plan, watched(plan, control, seen.cells), seen.cells)


def _judged(
    plan: Plan, control: Control, seen: Statistics, deal: Deal, rng: np.random.Generator, act: bool
) -> _Verdict:
    if control.carry.stage in FROZEN:
        return _Verdict(control, "frozen", control.carry.reason, _all_control(plan, control))
    found = fault(plan, control, seen, deal)
    if found:
        people = ratio.People(control.people.past)
        control = moved(msgspec.structs.replace(control, people=people), "paused", found, seen.end_ms)
        return _Verdict(control, "frozen", found, _all_control(plan, control))
    people = ratio.remembered(control.people, ratio.counted(control.people, seen.units, deal))
    control = msgspec.structs.replace(control, people=people)
    if not act:
        return _Verdict(control, "backlog", "a newer window is decided on", deal)
    if not any(end == seen.end_ms for end, _ in seen.cells):
        return _Verdict(control, "no_data", "no event in the window: the last deal goes on", deal)
    return _followed(plan, control, seen, deal, rng)


def _followed(plan: Plan, control: Control, seen: Statistics, deal: Deal, rng: np.random.Generator) -> _Verdict:
    """What follows from data that can be trusted."""
    stage = control.carry.stage
    control = followed_on(plan, control, seen, deal)
    if stage == "verify":
        control = verified(plan, control, seen)
        if control.carry.stage != "explore":
            return _verifying(plan, control, rng)
    live = live_evidence(plan, control, seen.cells)
    changes = next((e.changes for e in live if e.deal == deal.id), None)
    crossed, tripped = _crossed(plan, control, seen, deal)
    control = _given_up(plan, control, seen, deal, tripped)
    believed = believe(plan, control, live, (seen.end_ms - (control.carry.started_ms or 0)) / HOUR_MS)
    control = carrying(control, hypers=believed.hypers, pick=_pick(plan, control, believed, rng))
    if not crossed or tripped or len(control.looks.windows) > 1:  # what a first window says, the next one must say too
        control = advanced(plan, control, seen, believed)
    turned = tripped or control.carry.stage != stage
    if control.carry.stage == "explore":
        control, following, why = _explored(plan, control, believed, rng)
    else:
        control, following, beside = _tested(plan, control, deal, believed, rng)
        why = _progress(plan, control, seen) + beside
    outcome: Outcome = "kept" if following.id == deal.id else "dealt"
    said = [control.carry.reason if turned else why, control.carry.notice]
    return _Verdict(control, outcome, "; ".join(filter(None, said)), following, changes, tripped)


def _verifying(plan: Plan, control: Control, rng: np.random.Generator) -> _Verdict:
    """The A/A stage goes on, or has found the pipeline broken."""
    if control.carry.stage in FROZEN:
        return _Verdict(control, "frozen", control.carry.reason, _all_control(plan, control))
    control, deal = alike(plan, control, rng)
    return _Verdict(control, "dealt", f"A/A, every arm serves the baseline: {told(control.carry.noise)}", deal)


def _all_control(plan: Plan, control: Control) -> Deal:
    """The current deal where it is all control already, else a new one."""
    deal = control.deals[control.carry.deal]
    if len(deal.arms) == 1:
        return deal
    return all_on_control(plan, control)


def _crossed(
    plan: Plan, control: Control, seen: Statistics, deal: Deal
) -> tuple[tuple[safety.Crossing, ...], tuple[safety.Crossing, ...]]:
    """Guardrails that the candidate's sequence has crossed, and those of them that no single bad hour can explain.

    Exploring arms are judged by the posterior instead.
    """
    cell = trial_sums(control, seen.cells)
    if not _on_trial(control, deal) or control.trial is None or cell is None or not plan.guardrails:
        return (), ()
    changes = deal_changes(plan, control.trial, cell)
    alpha = plan.safety.stop_alpha / (2 + len(plan.rollout.ramp_shares))  # confirm, each share, hold: a sequence each
    found = safety.crossings(plan.guardrails, plan.metrics, changes, alpha)
    return found, safety.lasting(found, plan.guardrails, plan.metrics, changes, alpha, control.looks)


def _on_trial(control: Control, deal: Deal) -> bool:
    """Whether the deal serves the candidate: after a choice the deal of the one before goes on for a window."""
    candidate = control.carry.candidate
    return candidate is not None and candidate.arm in deal.names


def _given_up(
    plan: Plan, control: Control, seen: Statistics, deal: Deal, tripped: tuple[safety.Crossing, ...]
) -> Control:
    """Back in explore where the candidate has crossed a guardrail, no longer gains what it did, or surely loses."""
    if tripped:
        return _stopped(control, deal, tripped, seen.end_ms)
    if not (_belongs(deal, control.carry.stage) and _on_trial(control, deal)):
        return control
    if why := faded(plan, control, seen, deal):  # not banned: it was not at fault
        return moved(control, "explore", why, seen.end_ms, candidate=None)
    if why := losing(plan, control, seen, deal):
        vector = deal.arms[1].theta
        return moved(control, "explore", why, seen.end_ms, candidate=None, banned=banning(control.carry, vector))
    return control


def _stopped(control: Control, deal: Deal, tripped: tuple[safety.Crossing, ...], at_ms: int) -> Control:
    worst = tripped[0]
    vector = deal.arms[worst.arm]
    reason = (
        f"guardrail: {vector.arm} changes {worst.metric} by {worst.change:+.2%} +- {worst.radius:.2%}, "
        f"the limit is {worst.limit:+.2%}"
    )
    return moved(control, "explore", reason, at_ms, candidate=None, banned=banning(control.carry, vector.theta))


def _pick(plan: Plan, control: Control, believed: Believed, rng: np.random.Generator) -> Choice | None:
    pick = policy.recommend(
        believed.posterior,
        believed.goal,
        believed.groups,
        believed.hour,
        candidates=believed.earlier,
        rng=rng,
        shares=believed.shares,
        banned=banned(plan, control, believed),
    )
    if pick is None:
        return None
    figures = (pick.gain_mean, pick.gain_sd, pick.p_feasible, pick.p_better, pick.regret)
    # What is no number cannot be recorded, nor promoted.
    theta = theta_at(plan, believed.space, believed.groups, pick.unit)
    return Choice(theta, *figures) if np.isfinite(figures).all() else None


def _explored(plan: Plan, control: Control, believed: Believed, rng: np.random.Generator) -> tuple[Control, Deal, str]:
    """A new deal of vectors worth trying, and what is known by now."""
    carry, traffic = control.carry, plan.traffic
    found, why = _proposed(plan, control, believed, traffic.explore_arms, rng)
    # Where bans leave room for fewer vectors, each still has its own share.
    share = traffic.explore_share * len(found) / traffic.explore_arms
    buckets = rollout.shuffled(plan.buckets, max(len(found), 1), share, rng)
    deal = Deal(carry.deals + 1, "explore", (baseline(plan), *found), buckets, control.history)
    control = carrying(control, arms=carry.arms + len(found))
    return control, deal, f"vectors dealt: {why}; {_known(carry.pick, believed.unmeasured)}"


def _proposed(
    plan: Plan, control: Control, believed: Believed, arms: int, rng: np.random.Generator
) -> tuple[list[Arm], str]:
    """Up to so many vectors worth trying, and how many for which reason."""
    proposal = policy.propose(
        believed.posterior,
        believed.goal,
        believed.groups,
        believed.hour,
        arms=arms,
        risk=plan.safety.risk,
        previous=believed.earlier,
        banned=banned(plan, control, believed),
        rng=rng,
        shares=believed.shares,
    )
    found = [
        Arm(f"e{control.carry.arms + k + 1}", "explore", theta_at(plan, believed.space, believed.groups, unit))
        for k, unit in enumerate(proposal.unit)
    ]
    counts = Counter(proposal.reasons)
    return found, ", ".join(f"{counts[reason]} {reason}" for reason in sorted(counts)) or NOTHING


def _known(pick: Choice | None, unmeasured: tuple[str, ...]) -> str:
    if unmeasured:
        return f"none can be told to be better and feasible: no deal has measured {', '.join(unmeasured)} yet"
    if pick is None:
        return "none is known to be better and feasible yet"
    return f"best known: gain {pick.gain_mean:+.2%} +- {pick.gain_sd:.2%}, P(feasible) {pick.p_feasible:.0%}"


def _tested(
    plan: Plan, control: Control, deal: Deal, believed: Believed, rng: np.random.Generator
) -> tuple[Control, Deal, str]:
    """The candidate beside control at the stage's share, with vectors worth trying beside where there is room."""
    control, trial = _on_with(plan, control, deal)
    carry, traffic = control.carry, plan.traffic
    room = int((trial.buckets == OTHERS).sum())
    arms = round(room / plan.buckets * traffic.explore_arms / traffic.explore_share)  # each with its share in explore
    arms = min(arms, room // MIN_BUCKETS)  # of one arm with fewer buckets the whole deal would say nothing
    if arms:
        found, why = _proposed(plan, control, believed, arms, rng)
        control = carrying(control, arms=carry.arms + len(found))
        return control, rollout.joined(trial, carry.deals + 1, found, arms, rng), f"; beside it {why}"
    alone = deal.trial == trial.id and len(deal.arms) == len(trial.arms)
    return control, deal if alone else rollout.joined(trial, carry.deals + 1, (), 0, rng), ""


def _on_with(plan: Plan, control: Control, deal: Deal) -> tuple[Control, Deal]:
    """The stage's trial: the one that the deal goes on with where it is that one already, else a new one."""
    carry, shares, most = control.carry, plan.rollout.ramp_shares, plan.traffic.max_share_at_risk
    share = {
        "confirm": plan.traffic.confirm_share,
        "ramp": shares[min(carry.ramp_step, len(shares) - 1)],  # the plan may have got fewer steps meanwhile
        "hold": shares[-1],
    }[carry.stage]
    assert carry.candidate is not None  # these stages are entered with a candidate
    arm = Arm(carry.candidate.arm, "candidate" if carry.stage == "confirm" else "promoted", carry.candidate.theta)
    beside = min(most * BESIDE, plan.traffic.explore_share)
    arm_of = rollout.nested(plan.buckets, share, plan.seed, arm.arm, rollout.room_beside(share, beside))
    old = control.trial
    if (
        old is not None
        and deal.trial == old.id
        and _belongs(old, carry.stage)
        and old.arms[1:] == (arm,)
        and np.array_equal(old.buckets, arm_of)
    ):
        return control, old
    trial = Deal(carry.deals + 1, carry.stage, (baseline(plan), arm), arm_of, _past(control, deal), carry.deals + 1)
    return msgspec.structs.replace(control, trial=trial, tried=None, sample=None), trial


def keeps_test(plan: Plan, control: Control) -> bool:
    """Whether the next decision goes on with the test that runs: with other shares it begins anew."""
    carry = control.carry
    if carry.candidate is None or carry.stage not in TESTS:
        return False
    return _on_with(plan, control, control.deals[carry.deal])[1] is control.trial


def _past(control: Control, deal: Deal) -> NDArray[np.float64] | None:
    """The buckets' past for a test that follows `deal`: from before the vector had any of them, or none.

    The shares of a ramp hold each other's buckets, so they share the past of the confirm test. After anything but
    exploring, the newest past would already hold what the vector does.
    """
    if deal.stage == "explore":
        return control.history if len(deal.arms) > 1 else None
    return deal.history


def _belongs(deal: Deal, stage: Stage) -> bool:
    """Whether a deal was made for the stage: a ramp that is complete is held with the very deal it ended with."""
    return deal.stage == stage or (deal.stage, stage) == ("ramp", "hold")


def _progress(plan: Plan, control: Control, seen: Statistics) -> str:
    """How far a test is: "c145 at 40%, 7.0 h of traffic, gain +4.10% +- 0.90%"."""
    trial, cell = control.trial, trial_sums(control, seen.cells)
    assert trial is not None  # a test is one of a candidate
    hours = exposed_ms(plan, control.carry) / HOUR_MS
    text = f"{trial.arms[1].arm} at {np.mean(trial.buckets == 1):.0%}, {hours:.1f} h of traffic"
    if cell is None:
        return text
    gain, sd = measured_gain(plan, trial, cell)
    return f"{text}, gain {gain:+.2%} +- {sd:.2%}"
