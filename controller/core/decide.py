"""One decision: what a settled window says, which stage follows, which table is published.

Notation: A arms, G' groups with weights of their own (one, or each segment), d free weights.
"""

from collections import Counter
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.assignment import Arm, Stage
from controller.core import carryover, policy, ratio, rollout, safety
from controller.core.advance import advanced, exposed_ms, improbable, measured_gain
from controller.core.belief import Believed, banned, believe, theta_at
from controller.core.drift import faded, losing
from controller.core.durations import DAY_MS, HOUR_MS
from controller.core.estimate import MIN_BUCKETS, Changes
from controller.core.evidence import deal_changes, live_evidence, remembered, trial_sums, watched
from controller.core.experiment import (
    Choice,
    Experiment,
    Statistics,
    all_on_control,
    banning,
    baseline,
    carrying,
    issue,
    moved,
    tuned,
)
from controller.core.faults import events_served, fault
from controller.core.goal import TOLERANCE
from controller.core.looks import looked
from controller.core.plan import Plan
from controller.core.rollout import BESIDE, FROZEN, OTHERS, TESTS, Deal
from controller.core.soundness import alike, followed_on, told, verified
from controller.core.windows import Quality

Outcome = Literal["dealt", "kept", "no_data", "backlog", "frozen"]

NOTHING = "none (what is not near a vector that failed is believed to break a guardrail)"  # instead of reasons
SWING = 0.5  # of a limit, that a vector may be beyond it in some hours of a day
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

    experiment: Experiment
    outcome: Outcome
    why: str
    deal: Deal  # to be published
    changes: Changes | None = None
    tripped: tuple[safety.Crossing, ...] = ()


def decide(
    plan: Plan, experiment: Experiment, seen: Statistics, now_ms: int, rng: np.random.Generator, act: bool
) -> tuple[Experiment, Decision]:
    """Decide on the window that ends at `seen.end_ms`.

    Args:
        plan: the study.
        experiment: as the decision before, or a window sealed since, has left it.
        seen: the sums up to the window's end, and what else is known of it.
        now_ms: the daemon's clock, for the table.
        rng: the decision's randomness.
        act: False for the older windows of a backlog: their evidence counts, but only the newest publishes and
            only on what was published in it may a stage advance. A freeze does not wait for it: no vector may be
            left on traffic that nobody judges.
    """
    plan, deal = tuned(plan, experiment.carry), experiment.deals[experiment.carry.deal]
    verdict = _judged(plan, _observed(plan, experiment, seen, deal), seen, deal, rng, act)
    experiment, table = verdict.experiment, None
    froze = verdict.outcome == "frozen" and verdict.deal.id != deal.id
    if act or froze:
        experiment, table = issue(plan, experiment, verdict.deal, now_ms)
    return experiment, Decision(
        seen.end_ms, verdict.outcome, verdict.why, table, verdict.changes, deal, verdict.tripped
    )


def _observed(plan: Plan, experiment: Experiment, seen: Statistics, deal: Deal) -> Experiment:
    """The state that knows the window, of a backlog too, and whether the deal's vectors carried traffic in it."""
    carry = experiment.carry
    events = events_served(experiment, seen, deal)
    window = [cell for (end, _), cell in sorted(seen.cells.items()) if end == seen.end_ms]
    everyone = sum(int(cell.events.sum()) for cell in window)
    by_arm = np.bincount(deal.buckets, weights=events, minlength=len(deal.arms))
    own = _belongs(deal, carry.stage) and len(deal.arms) > 1  # a table of another stage shows nothing of this one
    exposed = own and bool((by_arm > 0).all()) and events.sum() >= EXPOSED * everyone
    started = seen.end_ms - plan.window.length_ms if carry.started_ms is None else carry.started_ms
    experiment = carrying(
        remembered(experiment, seen.end_ms, window),
        started_ms=started,
        decided_through_ms=seen.end_ms,
        exposed_windows=carry.exposed_windows + int(exposed),
    )
    return looked(plan, watched(plan, experiment, seen.cells), seen.cells)


def _judged(
    plan: Plan, experiment: Experiment, seen: Statistics, deal: Deal, rng: np.random.Generator, act: bool
) -> _Verdict:
    if experiment.carry.stage in FROZEN:
        return _Verdict(experiment, "frozen", experiment.carry.reason, _all_control(plan, experiment))
    found = fault(plan, experiment, seen, deal)
    if found:
        people = ratio.People(experiment.people.past)
        experiment = moved(msgspec.structs.replace(experiment, people=people), "paused", found, seen.end_ms)
        return _Verdict(experiment, "frozen", found, _all_control(plan, experiment))
    people = ratio.remembered(experiment.people, ratio.counted(experiment.people, seen.units, deal))
    experiment = msgspec.structs.replace(experiment, people=people)
    if not act:
        return _Verdict(experiment, "backlog", "a newer window is decided on", deal)
    if not any(end == seen.end_ms for end, _ in seen.cells):
        return _Verdict(experiment, "no_data", f"{_uncounted(seen.quality)}: the last deal goes on", deal)
    return _followed(plan, experiment, seen, deal, rng)


def _uncounted(rows: Quality) -> str:
    """What became of the events of a window without sums."""
    kinds = {
        "served without a table (version 0)": rows.fallback,
        "served by an unknown version": rows.unknown_version,
        "misattributed": rows.misattributed,
    }
    found = [f"{count} {kind}" for kind, count in kinds.items() if count]
    return f"no event of the window counts, {', '.join(found)}" if found else "no event in the window"


def _followed(plan: Plan, experiment: Experiment, seen: Statistics, deal: Deal, rng: np.random.Generator) -> _Verdict:
    """What follows from data that can be trusted."""
    stage = experiment.carry.stage
    experiment = followed_on(plan, experiment, seen, deal)
    if stage == "verify":
        experiment = verified(plan, experiment, seen)
        if experiment.carry.stage != "explore":
            return _verifying(plan, experiment, rng)
    stay = plan.stay_windows * (carryover.LONGER if experiment.carry.notice else 1)
    stays = 0 if experiment.carry.recheck else -(seen.end_ms // plan.window.length_ms) % stay  # windows; 0: none longer
    live = live_evidence(plan, experiment, seen.cells)
    changes = next((e.changes for e in live if e.deal == deal.id), None)
    believed = believe(plan, experiment, live, (seen.end_ms - (experiment.carry.started_ms or 0)) / HOUR_MS)
    crossed, tripped = _crossed(plan, experiment, seen, deal, believed)
    experiment = _given_up(plan, experiment, seen, deal, tripped)
    experiment = carrying(experiment, hypers=believed.hypers, pick=_pick(plan, experiment, believed, rng))
    # What a first window says, the next one must say too.
    if not crossed or tripped or len(experiment.looks.windows) > 1:
        experiment = advanced(plan, experiment, seen, believed)
    turned = tripped or experiment.carry.stage != stage
    if experiment.carry.stage in FROZEN:
        return _Verdict(experiment, "frozen", experiment.carry.reason, _all_control(plan, experiment), changes)
    if experiment.carry.stage == "explore":
        experiment, following, why = _explored(plan, experiment, deal, believed, rng, stays)
    else:
        experiment, following, beside = _tested(plan, experiment, deal, believed, rng, stays)
        why = _progress(plan, experiment, seen) + beside
    outcome: Outcome = "kept" if following.id == deal.id else "dealt"
    said = [experiment.carry.reason if turned else why, experiment.carry.notice]
    return _Verdict(experiment, outcome, "; ".join(filter(None, said)), following, changes, tripped)


def _verifying(plan: Plan, experiment: Experiment, rng: np.random.Generator) -> _Verdict:
    """The A/A stage goes on, or has found the pipeline broken."""
    if experiment.carry.stage in FROZEN:
        return _Verdict(experiment, "frozen", experiment.carry.reason, _all_control(plan, experiment))
    experiment, deal = alike(plan, experiment, rng)
    return _Verdict(experiment, "dealt", f"A/A, every arm serves the baseline: {told(experiment.carry.noise)}", deal)


def _all_control(plan: Plan, experiment: Experiment) -> Deal:
    """The current deal where it is all control already, else a new one."""
    deal = experiment.deals[experiment.carry.deal]
    if len(deal.arms) == 1:
        return deal
    return all_on_control(plan, experiment)


def _crossed(
    plan: Plan, experiment: Experiment, seen: Statistics, deal: Deal, believed: Believed
) -> tuple[tuple[safety.Crossing, ...], tuple[safety.Crossing, ...]]:
    """Guardrails that the candidate's sequence has crossed, and those of them that no single bad hour can explain.

    Exploring arms are judged by the posterior instead.
    """
    trial, cell = experiment.trial, trial_sums(experiment, seen.cells)
    if not _on_trial(experiment, deal) or trial is None or cell is None or not plan.guardrails:
        return (), ()
    changes = deal_changes(plan, trial, cell)
    alpha = plan.safety.stop_alpha / (2 + len(plan.rollout.ramp_shares))  # confirm, each share, hold: a sequence each
    eased = _eased(plan, experiment, trial, believed, seen.end_ms)
    found = safety.crossings(eased, plan.metrics, changes, alpha)
    kept = safety.lasting(found, eased, plan.metrics, changes, alpha, experiment.looks)
    limits = {(r.metric, r.limit): rail.limit for r, rail in zip(eased, plan.guardrails, strict=True)}

    def named(crossings: tuple[safety.Crossing, ...]) -> tuple[safety.Crossing, ...]:
        return tuple(msgspec.structs.replace(one, limit=limits[one.metric, one.limit]) for one in crossings)

    return named(found), named(kept)


def _eased(
    plan: Plan, experiment: Experiment, trial: Deal, believed: Believed, end_ms: int
) -> tuple[safety.Guardrail, ...]:
    """The guardrails that stop a test: a vector beyond a limit by `TOLERANCE` counts as within, as for a pick.

    Effects swing with the hour, and a limit is one of a day. So until the test has had a day, a vector of which the
    belief, which knows the other hours, says that it keeps every limit may be beyond one by `SWING` of it. What is
    delayed the belief knows nothing of.
    """
    looks = experiment.looks
    begun_ms = looks.windows[0].end_ms - plan.window.length_ms if looks.windows else end_ms
    whole = bool(looks.older) or end_ms - begun_ms >= DAY_MS  # of what is not remembered any more nobody knows how long
    trusted = not whole and improbable(plan, trial.arms[1].theta, believed) is None
    delayed = {metric.name for metric in plan.metrics if metric.response == "delayed"}
    return tuple(rail.eased(SWING if trusted and rail.metric not in delayed else TOLERANCE) for rail in plan.guardrails)


def _on_trial(experiment: Experiment, deal: Deal) -> bool:
    """Whether the deal serves the candidate: after a choice the deal of the one before goes on for a window."""
    candidate = experiment.carry.candidate
    return candidate is not None and candidate.arm in deal.names


def _given_up(
    plan: Plan, experiment: Experiment, seen: Statistics, deal: Deal, tripped: tuple[safety.Crossing, ...]
) -> Experiment:
    """Back in explore where the candidate has crossed a guardrail, no longer gains what it did, or surely loses."""
    if tripped:
        return _stopped(experiment, deal, tripped, seen.end_ms)
    if not (_belongs(deal, experiment.carry.stage) and _on_trial(experiment, deal)):
        return experiment
    if why := faded(plan, experiment, seen, deal):  # not banned: it was not at fault
        return moved(experiment, "explore", why, seen.end_ms, candidate=None)
    if why := losing(plan, experiment, seen, deal):
        vector = deal.arms[1].theta
        return moved(experiment, "explore", why, seen.end_ms, candidate=None, banned=banning(experiment.carry, vector))
    return experiment


def _stopped(experiment: Experiment, deal: Deal, tripped: tuple[safety.Crossing, ...], at_ms: int) -> Experiment:
    worst = tripped[0]
    vector = deal.arms[worst.arm]
    reason = (
        f"guardrail: {vector.arm} changes {worst.metric} by {worst.change:+.2%} +- {worst.radius:.2%}, "
        f"the limit is {worst.limit:+.2%}"
    )
    return moved(experiment, "explore", reason, at_ms, candidate=None, banned=banning(experiment.carry, vector.theta))


def _pick(plan: Plan, experiment: Experiment, believed: Believed, rng: np.random.Generator) -> Choice | None:
    if believed.unmeasured:  # by what is believed before any evidence of it, anything might keep a guardrail
        return None
    pick = policy.recommend(
        believed.posterior,
        believed.goal,
        believed.groups,
        believed.hour,
        candidates=believed.earlier,
        rng=rng,
        shares=believed.shares,
        banned=banned(plan, experiment, believed),
    )
    if pick is None:
        return None
    figures = (pick.gain_mean, pick.gain_sd, pick.p_feasible, pick.p_better, pick.regret)
    # What is no number cannot be recorded, nor promoted.
    theta = theta_at(plan, believed.space, believed.groups, pick.unit)
    return Choice(theta, *figures) if np.isfinite(figures).all() else None


def _explored(
    plan: Plan, experiment: Experiment, deal: Deal, believed: Believed, rng: np.random.Generator, stays: int
) -> tuple[Experiment, Deal, str]:
    """A new deal of vectors worth trying, where one is due, and what is known by now."""
    carry, traffic = experiment.carry, plan.traffic
    if stays and deal.stage == "explore" and len(deal.arms) > 1:
        return experiment, deal, f"the vectors stay{_longer(stays)}; {_known(carry.pick, believed.unmeasured)}"
    found, why = _proposed(plan, experiment, believed, traffic.explore_arms, rng)
    # Where bans leave room for fewer vectors, each still has its own share.
    share = traffic.explore_share * len(found) / traffic.explore_arms
    buckets = rollout.shuffled(plan.buckets, max(len(found), 1), share, rng)
    deal = Deal(carry.deals + 1, "explore", (baseline(plan), *found), buckets, experiment.history)
    experiment = carrying(experiment, arms=carry.arms + len(found))
    return experiment, deal, f"vectors dealt: {why}; {_known(carry.pick, believed.unmeasured)}"


def _longer(windows: int) -> str:
    return f" for {windows} more window{'s' if windows > 1 else ''}"


def _proposed(
    plan: Plan, experiment: Experiment, believed: Believed, arms: int, rng: np.random.Generator
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
        banned=banned(plan, experiment, believed),
        rng=rng,
        shares=believed.shares,
    )
    found = [
        Arm(f"e{experiment.carry.arms + k + 1}", "explore", theta_at(plan, believed.space, believed.groups, unit))
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
    plan: Plan, experiment: Experiment, deal: Deal, believed: Believed, rng: np.random.Generator, stays: int
) -> tuple[Experiment, Deal, str]:
    """The candidate beside control at the stage's share, with vectors worth trying beside where there is room."""
    experiment, trial = _on_with(plan, experiment, deal)
    carry, traffic = experiment.carry, plan.traffic
    if stays and deal.trial == trial.id and len(deal.arms) > len(trial.arms):
        return experiment, deal, f"; the vectors beside it stay{_longer(stays)}"
    room = int((trial.buckets == OTHERS).sum())
    arms = round(room / plan.buckets * traffic.explore_arms / traffic.explore_share)  # each with its share in explore
    arms = min(arms, room // MIN_BUCKETS)  # of one arm with fewer buckets the whole deal would say nothing
    if arms:
        found, why = _proposed(plan, experiment, believed, arms, rng)
        experiment = carrying(experiment, arms=carry.arms + len(found))
        return experiment, rollout.joined(trial, carry.deals + 1, found, arms, rng), f"; beside it {why}"
    alone = deal.trial == trial.id and len(deal.arms) == len(trial.arms)
    return experiment, deal if alone else rollout.joined(trial, carry.deals + 1, (), 0, rng), ""


def _on_with(plan: Plan, experiment: Experiment, deal: Deal) -> tuple[Experiment, Deal]:
    """The stage's trial: the one that the deal goes on with where it is that one already, else a new one."""
    carry, shares, most = experiment.carry, plan.rollout.ramp_shares, plan.traffic.max_share_at_risk
    share = {
        "confirm": plan.traffic.confirm_share,
        "ramp": shares[min(carry.ramp_step, len(shares) - 1)],  # the plan may have got fewer steps meanwhile
        "hold": shares[-1],
    }[carry.stage]
    assert carry.candidate is not None  # these stages are entered with a candidate
    arm = Arm(carry.candidate.arm, "candidate" if carry.stage == "confirm" else "promoted", carry.candidate.theta)
    beside = min(most * BESIDE, plan.traffic.explore_share)
    arm_of = rollout.nested(plan.buckets, share, plan.seed, arm.arm, rollout.room_beside(share, beside))
    old = experiment.trial
    if (
        old is not None
        and deal.trial == old.id
        and _belongs(old, carry.stage)
        and old.arms[1:] == (arm,)
        and np.array_equal(old.buckets, arm_of)
    ):
        return experiment, old
    trial = Deal(carry.deals + 1, carry.stage, (baseline(plan), arm), arm_of, _past(experiment, deal), carry.deals + 1)
    return msgspec.structs.replace(experiment, trial=trial, tried=None, sample=None), trial


def keeps_test(plan: Plan, experiment: Experiment) -> bool:
    """Whether the next decision goes on with the test that runs: with other shares it begins anew."""
    carry = experiment.carry
    if carry.candidate is None or carry.stage not in TESTS:
        return False
    return _on_with(plan, experiment, experiment.deals[carry.deal])[1] is experiment.trial


def _past(experiment: Experiment, deal: Deal) -> NDArray[np.float64] | None:
    """The buckets' past for a test that follows `deal`: from before the vector had any of them, or none.

    The shares of a ramp hold each other's buckets, so they share the past of the confirm test. After anything but
    exploring, the newest past would already hold what the vector does.
    """
    if deal.stage == "explore":
        return experiment.history if len(deal.arms) > 1 else None
    return deal.history


def _belongs(deal: Deal, stage: Stage) -> bool:
    """Whether a deal was made for the stage: a ramp that is complete is held with the very deal it ended with."""
    return deal.stage == stage or (deal.stage, stage) == ("ramp", "hold")


def _progress(plan: Plan, experiment: Experiment, seen: Statistics) -> str:
    """How far a test is: "c145 at 40%, 7.0 h of traffic, gain +4.10% +- 0.90%"."""
    trial, cell = experiment.trial, trial_sums(experiment, seen.cells)
    assert trial is not None  # a test is one of a candidate
    hours = exposed_ms(plan, experiment.carry) / HOUR_MS
    text = f"{trial.arms[1].arm} at {np.mean(trial.buckets == 1):.0%}, {hours:.1f} h of traffic"
    if cell is None:
        return text
    gain, sd = measured_gain(plan, trial, cell)
    return f"{text}, gain {gain:+.2%} +- {sd:.2%}"
