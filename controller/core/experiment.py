"""The experiment that a study runs: what decisions carry from one to the next, and what each is made from.

Notation: A arms (control first), B buckets, G groups (0 = all traffic, k = segment k), M metrics, W weights.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller import assignment
from controller.assignment import ALL, CONTROL, Arm, Assignment, Stage, UnitHash
from controller.core import late
from controller.core.aa import Noise
from controller.core.carryover import Carryover
from controller.core.estimate import Changes
from controller.core.kernel import Hyper
from controller.core.late import Late
from controller.core.parts import measured
from controller.core.plan import Plan
from controller.core.ratio import People
from controller.core.rollout import FROZEN, TESTS, Deal, all_control, check_move
from controller.core.trend import Step
from controller.core.windows import Cell, Quality, Tables
from controller.core.worst import Looks

MAX_BANNED = 32  # the newest: every entry of the ledger holds them, and the world may have changed since the others

Theta = dict[str, tuple[float, ...]]  # segment -> W weights; always has `all`


class Vector(msgspec.Struct, frozen=True):
    """A named weight vector."""

    arm: str
    theta: Theta


class Choice(msgspec.Struct, frozen=True):
    """The vector to be promoted if the study ended now, with what the posterior expects of it."""

    theta: Theta
    gain_mean: float
    gain_sd: float
    p_feasible: float
    p_better: float
    regret: float  # expected gain of the best feasible vector over this one


class Carry(msgspec.Struct, frozen=True, kw_only=True):
    """The small part of the state that is not derived from sums and tables: recorded whole with every ledger entry."""

    stage: Stage = "explore"
    stage_since_ms: int = 0
    before: Stage = "explore"  # the stage that paused or rolled_back left
    reason: str = "the study begins"
    epoch: int = 0
    version: int = 0  # the last table's
    published_ms: int = 0  # the last table's
    valid_until_ms: int | None = None  # the last table's
    deal: int = 0  # the last table's
    deals: int = 0  # dealt so far; the next deal's id is one more
    arms: int = 0  # named so far
    started_ms: int | None = None  # start of the first window that was decided on
    decided_through_ms: int = 0
    sealed_through_ms: int = 0
    exposed_windows: int = 0  # windows that the stage's vectors carried traffic in; of a test: the current deal's
    claim_through_ms: int | None = None  # end of the confirm sample once it is complete
    ramp_step: int = 0
    candidate: Vector | None = None
    banned: tuple[Theta, ...] = ()
    awaiting_approval: bool = False
    breaks: int = 0  # windows in which the breaker tripped, none of them `breaker.FORGIVEN` from the one before
    broke_ms: int = 0  # end of the last of them
    objective: dict[str, float] | None = None  # the trade-off that an operator chose; None: the plan's objective
    recheck: bool = False  # the goal or the bounds were changed: the next decision judges the candidate, and deals anew
    hypers: tuple[Hyper, ...] | None = None
    pick: Choice | None = None
    shares: tuple[Step, ...] = ()  # what the candidate gained at each share so far, its confirm sample first
    noise: tuple[Noise, ...] = ()  # how well each metric can be measured, as the A/A stage found
    carryover: Carryover = Carryover()
    notice: str = ""  # what people should know of the experiment itself: what surely carries over from deal to deal


class Evidence(msgspec.Struct, frozen=True, eq=False):
    """One deal's relative changes, as the posterior sees them."""

    deal: int
    hour: float  # when its events were, on average, in hours since the study's first window
    thetas: tuple[Theta, ...]  # A - 1
    changes: Changes  # of `parts.measured`: the plan's metrics first


class Experiment(msgspec.Struct, frozen=True, eq=False):
    """The experiment so far. Only `carry` is chosen; the rest follows from tables and sums."""

    carry: Carry
    deals: dict[int, Deal]
    versions: dict[int, int]  # version -> deal
    replaced_ms: dict[int, int]  # version -> when another took its place; 0: before any event, so none that has a time
    totals: dict[int, Cell]  # deal -> sums of its sealed windows
    moments: dict[int, float]  # deal -> sum over those of events x the window's middle in hours since 1970
    trial: Deal | None  # the test of the candidate: it and control alone, however often the arms beside them change
    tried: Cell | None  # sums of the trial's sealed windows
    looks: Looks  # what each window of the trial says by itself
    sample: Cell | None  # sums that a confirm test is judged by: the trial's, through `claim_through_ms`, sealed
    evidence: tuple[Evidence, ...]  # of deals whose windows are all sealed
    people: People  # who came in the windows decided on, by bucket
    history: NDArray[np.float64]  # (G1, B, C) sums of the windows decided on, old ones fading
    late: Late  # how windows that are not sealed have changed until they were
    volume: dict[int, int] = {}  # end of each window with traffic of the last day -> its events


class Statistics(msgspec.Struct, frozen=True, eq=False):
    """What one decision saw: all unsealed sums up to a window's end, and that window's units and quality."""

    end_ms: int
    cells: dict[tuple[int, int], Cell]
    units: NDArray[np.int64]  # (B,)
    quality: Quality
    rejected: int = 0  # rows refused since the last decision
    arrived: int = 0  # all rows since then
    reasons: dict[str, int] = {}  # the refused rows by reason; none in a ledger of before they were kept


def tuned(plan: Plan, carry: Carry) -> Plan:
    """The plan with the objective that holds: the one that an operator chose, or its own."""
    return plan if carry.objective is None else msgspec.structs.replace(plan, objective=carry.objective)


def baseline(plan: Plan) -> Arm:
    """Control: every weight at its baseline."""
    return Arm(CONTROL, "control", {ALL: tuple(weight.baseline for weight in plan.weights)})


def initial(plan: Plan) -> Experiment:
    """The state before anything was seen: one deal, every bucket on control."""
    stage: Stage = "verify" if plan.rollout.verify_ms else "explore"
    return Experiment(
        carry=Carry(stage=stage, deal=1, deals=1),
        deals={1: all_control(1, stage, baseline(plan), plan.buckets)},
        versions={},
        replaced_ms={},
        totals={},
        moments={},
        trial=None,
        tried=None,
        looks=Looks(),
        sample=None,
        evidence=(),
        people=People(np.zeros(plan.buckets)),
        history=np.zeros((1 + len(plan.segments), plan.buckets, len(plan.components))),
        late=late.nothing(len(measured(plan.metrics))),
    )


def all_on_control(plan: Plan, experiment: Experiment) -> Deal:
    """A new deal with every bucket on control."""
    return all_control(experiment.carry.deals + 1, experiment.carry.stage, baseline(plan), plan.buckets)


def carrying(experiment: Experiment, **changes: object) -> Experiment:
    """The state with another carry."""
    return msgspec.structs.replace(experiment, carry=msgspec.structs.replace(experiment.carry, **changes))


def moved(experiment: Experiment, stage: Stage, reason: str, at_ms: int, **changes: object) -> Experiment:
    """The state in another stage, where everything is counted afresh; raises `IllegalMove` when it may not follow."""
    carry = experiment.carry
    check_move(carry.stage, stage)
    fresh: dict[str, object] = {
        "stage": stage,
        "stage_since_ms": at_ms,
        "before": carry.before if carry.stage in FROZEN else carry.stage,
        "reason": reason,
        "exposed_windows": 0,
        "claim_through_ms": None,
        "awaiting_approval": False,
        "ramp_step": 0,
        "shares": carry.shares if (carry.stage, stage) == ("confirm", "ramp") else (),
    }
    return carrying(msgspec.structs.replace(experiment, sample=None), **(fresh | changes))


def banning(carry: Carry, *thetas: Theta) -> tuple[Theta, ...]:
    """The banned vectors with these, the newest last."""
    kept = [theta for theta in carry.banned if theta not in thetas]
    return (*kept, *thetas)[-MAX_BANNED:]


def _in_order(plan: Plan, arm: Arm) -> Arm:
    """Its segments as the study file has them: those of a vector that was read back from the ledger are sorted."""
    theta = {name: arm.theta[name] for name in (ALL, *plan.segments) if name in arm.theta}
    return msgspec.structs.replace(arm, theta=theta)


def issue(plan: Plan, experiment: Experiment, deal: Deal, now_ms: int) -> tuple[Experiment, bytes]:
    """Make the next table, of `deal`; returns the state that knows it and the table's bytes."""
    carry = experiment.carry
    same_test = deal.trial and deal.trial == experiment.deals[carry.deal].trial
    if deal.id != carry.deal and carry.stage in TESTS and not same_test:  # another test begins anew
        carry = msgspec.structs.replace(carry, exposed_windows=0, claim_through_ms=None)
        experiment = msgspec.structs.replace(experiment, sample=None)
    started = carry.decided_through_ms > 0 or now_ms > 0
    version = max(carry.version + 1, carry.epoch * assignment.VERSIONS_PER_EPOCH + 1)
    carry = msgspec.structs.replace(
        carry,
        version=version,
        published_ms=now_ms,
        valid_until_ms=now_ms + plan.window.validity_ms if started else None,
        deal=deal.id,
        deals=max(carry.deals, deal.id),
    )
    table = assignment.encode(
        Assignment(
            study=plan.study,
            version=version,
            epoch=carry.epoch,
            stage=carry.stage,
            published_ms=now_ms,
            decided_through_ms=carry.decided_through_ms,
            valid_until_ms=carry.valid_until_ms,
            unit_hash=UnitHash(plan.salt, plan.buckets),
            form=plan.form,
            weights=tuple(weight.name for weight in plan.weights),
            fallback=fallback(carry, deal),
            arms=tuple(_in_order(plan, arm) for arm in deal.arms),
            buckets=tuple(deal.buckets.tolist()),
        )
    )
    replaced = {v: at or now_ms for v, at in experiment.replaced_ms.items()}
    if experiment.carry.version in experiment.versions:
        replaced[experiment.carry.version] = now_ms
    return msgspec.structs.replace(
        experiment,
        carry=carry,
        deals={**experiment.deals, deal.id: deal},
        versions={**experiment.versions, version: deal.id},
        replaced_ms=replaced,
    ), table


def fallback(carry: Carry, deal: Deal) -> str:
    """The arm that serves an expired table: the vector held, where the table has it, else control."""
    if carry.stage == "hold" and carry.candidate is not None and carry.candidate.arm in deal.names:
        return carry.candidate.arm
    return CONTROL


def tables(experiment: Experiment) -> Tables:
    """What events are attributed by."""
    return {v: (experiment.deals[d].names, experiment.deals[d].buckets) for v, d in experiment.versions.items()}


def ended_ms(plan: Plan, experiment: Experiment) -> dict[int, int]:
    """version -> time from which on its table cannot have served: a client may serve a replaced one for `validity`."""
    return {v: at + plan.window.validity_ms for v, at in experiment.replaced_ms.items() if at}
