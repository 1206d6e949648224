"""What decisions carry from one to the next, and the records that every decision is made from.

Notation: A arms (control first), B buckets, G groups (0 = all traffic, k = segment k), M metrics, W weights.
"""

from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller import assignment
from controller.assignment import ALL, CONTROL, Arm, Assignment, Stage, UnitHash
from controller.core import late
from controller.core.aa import Noise
from controller.core.carryover import Carryover
from controller.core.estimate import Changes, relative_changes
from controller.core.kernel import Hyper
from controller.core.late import Late
from controller.core.plan import Plan
from controller.core.rollout import FROZEN, TESTS, Deal, all_control, check_move
from controller.core.sums import LIMIT
from controller.core.trend import Step
from controller.core.windows import Cell, Quality
from controller.core.worst import Looks

HOUR_MS = 3_600_000
MEMORY = 0.95  # of the buckets' history, a window: a trait is best told by the last day or so
MAX_DEALS = 168  # older deals have faded from the posterior: a week of hourly ones bounds state and cost
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
    objective: dict[str, float] | None = None  # the trade-off that an operator chose; None: the plan's objective
    recheck: bool = False  # the guardrails were changed in mid-study: the next decision judges the candidate by them
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
    changes: Changes


class Control(msgspec.Struct, frozen=True, eq=False):
    """The decision state. Only `carry` is chosen; the rest follows from tables and sums."""

    carry: Carry
    deals: dict[int, Deal]
    versions: dict[int, int]  # version -> deal
    replaced_ms: dict[int, int]  # version -> when another took its place
    totals: dict[int, Cell]  # deal -> sums of its sealed windows
    moments: dict[int, float]  # deal -> sum over those of events x the window's middle in hours since 1970
    trial: Deal | None  # the test of the candidate: it and control alone, however often the arms beside them change
    tried: Cell | None  # sums of the trial's sealed windows
    looks: Looks  # what each window of the trial says by itself
    sample: Cell | None  # sums that a confirm test is judged by: the trial's, through `claim_through_ms`, sealed
    evidence: tuple[Evidence, ...]  # of deals whose windows are all sealed
    units: NDArray[np.int64]  # (B,) distinct sampled units, summed over the windows decided on
    history: NDArray[np.float64]  # (G1, B, C) sums of the windows decided on, old ones fading
    late: Late  # how windows that are not sealed have changed until they were


class Statistics(msgspec.Struct, frozen=True, eq=False):
    """What one decision saw: all unsealed sums up to a window's end, and that window's units and quality."""

    end_ms: int
    cells: dict[tuple[int, int], Cell]
    units: NDArray[np.int64]  # (B,)
    quality: Quality
    rejected: int = 0  # rows refused since the last decision
    arrived: int = 0  # all rows since then


def tuned(plan: Plan, carry: Carry) -> Plan:
    """The plan with the objective that holds: the one that an operator chose, or its own."""
    return plan if carry.objective is None else msgspec.structs.replace(plan, objective=carry.objective)


def baseline(plan: Plan) -> Arm:
    """Control: every weight at its baseline."""
    return Arm(CONTROL, "control", {ALL: tuple(weight.baseline for weight in plan.weights)})


def initial(plan: Plan) -> Control:
    """The state before anything was seen: one deal, every bucket on control."""
    stage: Stage = "verify" if plan.rollout.verify_ms else "explore"
    return Control(
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
        units=np.zeros(plan.buckets, np.int64),
        history=np.zeros((1 + len(plan.segments), plan.buckets, len(plan.components))),
        late=late.nothing(len(plan.metrics)),
    )


def carrying(control: Control, **changes: object) -> Control:
    """The state with another carry."""
    return msgspec.structs.replace(control, carry=msgspec.structs.replace(control.carry, **changes))


def moved(control: Control, stage: Stage, reason: str, at_ms: int, **changes: object) -> Control:
    """The state in another stage, where everything is counted afresh; raises `IllegalMove` when it may not follow."""
    carry = control.carry
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
    return carrying(msgspec.structs.replace(control, sample=None), **(fresh | changes))


def banning(carry: Carry, *thetas: Theta) -> tuple[Theta, ...]:
    """The banned vectors with these, the newest last."""
    kept = [theta for theta in carry.banned if theta not in thetas]
    return (*kept, *thetas)[-MAX_BANNED:]


def issue(plan: Plan, control: Control, deal: Deal, now_ms: int) -> tuple[Control, bytes]:
    """Make the next table, of `deal`; returns the state that knows it and the table's bytes."""
    carry = control.carry
    same_test = deal.trial and deal.trial == control.deals[carry.deal].trial
    if deal.id != carry.deal and carry.stage in TESTS and not same_test:  # another test begins anew
        carry = msgspec.structs.replace(carry, exposed_windows=0, claim_through_ms=None)
        control = msgspec.structs.replace(control, sample=None)
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
            fallback=_fallback(carry, deal),
            arms=deal.arms,
            buckets=tuple(deal.buckets.tolist()),
        )
    )
    replaced = dict(control.replaced_ms)
    if control.carry.version in control.versions:
        replaced[control.carry.version] = now_ms
    return msgspec.structs.replace(
        control,
        carry=carry,
        deals={**control.deals, deal.id: deal},
        versions={**control.versions, version: deal.id},
        replaced_ms=replaced,
    ), table


def _fallback(carry: Carry, deal: Deal) -> str:
    """The arm that serves an expired table: the vector held, where the table has it, else control."""
    if carry.stage == "hold" and carry.candidate is not None and carry.candidate.arm in deal.names:
        return carry.candidate.arm
    return CONTROL


def tables(control: Control) -> dict[int, tuple[tuple[str, ...], NDArray[np.int16]]]:
    """version -> (arm names, bucket to arm), for attributing events."""
    return {v: (control.deals[d].names, control.deals[d].buckets) for v, d in control.versions.items()}


def fold(plan: Plan, control: Control, end_ms: int, cells: dict[int, Cell]) -> Control:
    """Add a sealed window's sums (version -> cell) to its deals; let go of deals that no event can reach any more."""
    totals, moments, tried = dict(control.totals), dict(control.moments), control.tried
    for version in sorted(cells.keys() & control.versions.keys()):
        deal = control.versions[version]
        tried = _plus(tried, cells[version]) if on_trial(control, version) else tried
        totals[deal] = _plus(totals.get(deal), cells[version])
        moments[deal] = moments.get(deal, 0.0) + _moment(plan, end_ms, cells[version])
    sample = _sample(control, end_ms, tried)
    control = _learnt(plan, control, end_ms, cells)
    carry = msgspec.structs.replace(control.carry, sealed_through_ms=end_ms)
    control = msgspec.structs.replace(control, carry=carry, totals=totals, moments=moments, tried=tried, sample=sample)
    # A client may serve a replaced table for `validity`: later exposures cannot echo it.
    gone = {v for v, at in control.replaced_ms.items() if at + plan.window.validity_ms <= end_ms}
    return _retire(plan, control, gone) if gone else control


def _sample(control: Control, end_ms: int, tried: Cell | None) -> Cell | None:
    """The confirm sample, once its last window is sealed: what is sealed after it does not count."""
    carry = control.carry
    if control.sample is not None or carry.claim_through_ms is None or end_ms < carry.claim_through_ms:
        return control.sample
    return tried if end_ms == carry.claim_through_ms else control.tried


def live_evidence(plan: Plan, control: Control, cells: dict[tuple[int, int], Cell]) -> tuple[Evidence, ...]:
    """Evidence of every deal that can still change, from sealed totals and unsealed cells."""
    moments = dict(control.moments)
    for (end, version), cell in sorted(cells.items()):
        if version in control.versions:
            deal = control.versions[version]
            moments[deal] = moments.get(deal, 0.0) + _moment(plan, end, cell)
    sums = {deal: deal_sums(control, cells, deal) for deal in sorted(control.deals)}
    found = (_evidence(plan, control, d, cell, moments[d]) for d, cell in sums.items() if cell is not None)
    return tuple(_foretold(plan, control, cells, e) for e in found if e is not None)


def _foretold(plan: Plan, control: Control, cells: dict[tuple[int, int], Cell], evidence: Evidence) -> Evidence:
    """The evidence as it is expected to be when all its windows are sealed."""
    ages = [
        (_age(plan, control, end), _totals(plan, cell))
        for (end, version), cell in sorted(cells.items())
        if control.versions.get(version) == evidence.deal
    ]
    if evidence.deal in control.totals:
        ages.append((-1, _totals(plan, control.totals[evidence.deal])))
    return msgspec.structs.replace(evidence, changes=late.foretold(control.late, evidence.changes, ages))


def watched(plan: Plan, control: Control, cells: dict[tuple[int, int], Cell]) -> Control:
    """The state that has looked at every open window, for what it will be found to have missed."""
    known = control.late
    for end in sorted({end for end, _ in cells}):
        served = _served(control, {version: cell for (e, version), cell in cells.items() if e == end})
        if served is not None:
            deal, cell = served
            known = late.looked(
                known,
                end,
                deal.id,
                _age(plan, control, end),
                _totals(plan, cell),
                partial(deal_changes, plan, deal, cell),
            )
    return msgspec.structs.replace(control, late=known)


def _learnt(plan: Plan, control: Control, end_ms: int, cells: dict[int, Cell]) -> Control:
    served = _served(control, cells)
    if served is None:
        return control
    deal, cell = served
    changes = partial(deal_changes, plan, deal, cell)
    known = late.sealed(control.late, end_ms, deal.id, _totals(plan, cell), changes)
    return msgspec.structs.replace(control, late=known)


def _served(control: Control, cells: dict[int, Cell]) -> tuple[Deal, Cell] | None:
    """The deal that served most of a window (version -> cell), and its sums there."""
    by_deal: dict[int, Cell] = {}
    for version in sorted(cells.keys() & control.versions.keys()):
        deal = control.versions[version]
        by_deal[deal] = _plus(by_deal.get(deal), cells[version])
    if not by_deal:
        return None
    most = max(by_deal, key=lambda deal: int(by_deal[deal].events.sum()))
    return control.deals[most], by_deal[most]


def _age(plan: Plan, control: Control, end_ms: int) -> int:
    """How old a window is, in steps of which at most `late.AGES` make the lateness."""
    steps = -(-plan.window.lateness_ms // (plan.window.length_ms * late.AGES))
    return max(control.carry.decided_through_ms - end_ms, 0) // (plan.window.length_ms * steps)


def _totals(plan: Plan, cell: Cell) -> NDArray[np.float64]:
    return late.totals(plan.metrics, tuple(component.name for component in plan.components), cell.sums)


def deal_sums(control: Control, cells: dict[tuple[int, int], Cell], deal: int) -> Cell | None:
    """A deal's sums: its sealed windows' and the given unsealed cells'; None where it has had no event.

    Cells of a version that is not known any more (served long after its table expired) are counted, not believed.
    """
    total = control.totals.get(deal)
    for key in sorted(cells):
        if control.versions.get(key[1]) == deal:
            total = _plus(total, cells[key])
    return total


def on_trial(control: Control, version: int) -> bool:
    """Whether a version's table went on with the test that is being made."""
    deal = control.deals.get(control.versions.get(version, 0))
    return control.trial is not None and deal is not None and deal.trial == control.trial.id


def trial_sums(control: Control, cells: dict[tuple[int, int], Cell]) -> Cell | None:
    """The trial's sums: its sealed windows' and the given unsealed cells'; None where it has had no event."""
    total = control.tried
    for key in sorted(cells):
        if on_trial(control, key[1]):
            total = _plus(total, cells[key])
    return total


def remembered(control: Control, cells: list[Cell]) -> Control:
    """The state whose history holds one more window: the sums that the buckets had in it, whatever their arm."""
    history = MEMORY * control.history
    for cell in cells:
        history = history + cell.sums
    return msgspec.structs.replace(control, history=history) if cells else control


def deal_changes(plan: Plan, deal: Deal, cell: Cell) -> Changes:
    """The relative changes of a deal's arms, from its sums."""
    names = tuple(component.name for component in plan.components)
    arm_of = deal.buckets.astype(np.int64)
    return relative_changes(plan.metrics, names, cell.sums, arm_of, len(deal.arms), deal.history)


def _evidence(plan: Plan, control: Control, id_: int, cell: Cell, moment: float) -> Evidence | None:
    deal, events = control.deals[id_], int(cell.events.sum())
    if len(deal.arms) < 2 or not events or deal.stage == "verify":  # the baseline says nothing of vectors
        return None
    hour = moment / events - (control.carry.started_ms or 0) / HOUR_MS
    return Evidence(id_, hour, tuple(arm.theta for arm in deal.arms[1:]), deal_changes(plan, deal, cell))


def _moment(plan: Plan, end_ms: int, cell: Cell) -> float:
    return int(cell.events.sum()) * (end_ms - plan.window.length_ms / 2) / HOUR_MS


def _plus(one: Cell | None, other: Cell) -> Cell:
    """Two cells' sums. Where they could wrap, both count half: a deal that is held for years, or impossible values.

    Ratios of sums, and how they vary between buckets, stay as they are; what comes later weighs more.
    """
    if one is None:
        return other
    if _peak(one) + _peak(other) <= LIMIT:
        return Cell(one.sums + other.sums, one.events + other.events)
    return Cell(one.sums // 2 + other.sums // 2, one.events + other.events)


def _peak(cell: Cell) -> int:
    """The largest sum of a bucket's component over the groups, in magnitude."""
    return int(np.abs(cell.sums).sum(axis=0).max(initial=0))


def _retire(plan: Plan, control: Control, gone: set[int]) -> Control:
    versions = {v: d for v, d in control.versions.items() if v not in gone}
    kept = set(versions.values()) | {control.carry.deal}
    ended = sorted(set(control.totals) - kept)
    last = (_evidence(plan, control, deal, control.totals[deal], control.moments[deal]) for deal in ended)
    return msgspec.structs.replace(
        control,
        versions=versions,
        replaced_ms={v: at for v, at in control.replaced_ms.items() if v not in gone},
        deals={d: deal for d, deal in control.deals.items() if d in kept},
        totals={d: cell for d, cell in control.totals.items() if d in kept},
        moments={d: moment for d, moment in control.moments.items() if d in kept},
        evidence=(control.evidence + tuple(e for e in last if e is not None))[-MAX_DEALS:],
    )
