"""What decisions carry from one to the next, and the records that every decision is made from.

Notation: A arms (control first), B buckets, G groups (0 = all traffic, k = segment k), M metrics, W weights.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller import assignment
from controller.assignment import ALL, CONTROL, Arm, Assignment, Stage, UnitHash
from controller.core.estimate import Changes, relative_changes
from controller.core.plan import Plan
from controller.core.kernel import Hyper
from controller.core.rollout import Deal, all_control
from controller.core.windows import Cell, Quality

HOUR_MS = 3_600_000
MAX_DEALS = 168  # older deals have faded from the posterior: a week of hourly ones bounds state and cost

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
    exposed_windows: int = 0  # windows with traffic on every arm under the current deal
    claim_through_ms: int | None = None  # end of the confirm sample once it is complete
    ramp_step: int = 0
    candidate: Vector | None = None
    banned: tuple[Theta, ...] = ()
    awaiting_approval: bool = False
    hypers: tuple[Hyper, ...] | None = None
    pick: Choice | None = None


class Evidence(msgspec.Struct, frozen=True, eq=False):
    """One deal's relative changes, as the posterior sees them."""

    deal: int
    hour: float  # mid time of the deal, hours since the study's first window
    thetas: tuple[Theta, ...]  # A - 1
    changes: Changes


class Control(msgspec.Struct, frozen=True, eq=False):
    """The decision state. Only `carry` is chosen; the rest follows from tables and sums."""

    carry: Carry
    deals: dict[int, Deal]
    versions: dict[int, int]  # version -> deal
    replaced_ms: dict[int, int]  # version -> when another took its place
    totals: dict[int, Cell]  # deal -> sums of its sealed windows
    spans: dict[int, tuple[int, int]]  # deal -> ends of its first and last window with events
    evidence: tuple[Evidence, ...]  # of deals whose windows are all sealed
    units: NDArray[np.int64]  # (B,) distinct sampled units, summed over the windows decided on


class Statistics(msgspec.Struct, frozen=True, eq=False):
    """What one decision saw: all unsealed sums up to a window's end, and that window's units and quality."""

    end_ms: int
    cells: dict[tuple[int, int], Cell]
    units: NDArray[np.int64]  # (B,)
    quality: Quality
    rejected: int  # rows refused since the last decision


def baseline(plan: Plan) -> Arm:
    """Control: every weight at its baseline."""
    return Arm(CONTROL, "control", {ALL: tuple(weight.baseline for weight in plan.weights)})


def initial(plan: Plan) -> Control:
    """The state before anything was seen: one deal, every bucket on control."""
    return Control(
        carry=Carry(deal=1, deals=1),
        deals={1: all_control(1, "explore", baseline(plan), plan.buckets)},
        versions={},
        replaced_ms={},
        totals={},
        spans={},
        evidence=(),
        units=np.zeros(plan.buckets, np.int64),
    )


def issue(plan: Plan, control: Control, deal: Deal, now_ms: int) -> tuple[Control, bytes]:
    """Make the next table, of `deal`; returns the state that knows it and the table's bytes."""
    carry = control.carry
    started = carry.decided_through_ms > 0 or now_ms > 0
    version = max(carry.version + 1, carry.epoch * assignment.VERSIONS_PER_EPOCH + 1)
    carry = msgspec.structs.replace(
        carry,
        version=version,
        published_ms=now_ms,
        valid_until_ms=now_ms + plan.window.validity_ms if started else None,
        deal=deal.id,
        deals=max(carry.deals, deal.id),
        exposed_windows=carry.exposed_windows if deal.id == carry.deal else 0,
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
            fallback=carry.candidate.arm if carry.stage == "hold" and carry.candidate else CONTROL,
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


def tables(control: Control) -> dict[int, tuple[tuple[str, ...], NDArray[np.int16]]]:
    """version -> (arm names, bucket to arm), for attributing events."""
    return {v: (control.deals[d].names, control.deals[d].buckets) for v, d in control.versions.items()}


def fold(plan: Plan, control: Control, end_ms: int, cells: dict[int, Cell]) -> Control:
    """Add a sealed window's sums (version -> cell) to its deals, and let go of deals that no event can reach any more."""
    totals = dict(control.totals)
    for version in sorted(cells.keys() & control.versions.keys()):
        deal = control.versions[version]
        totals[deal] = _plus(totals.get(deal), cells[version])
    carry = msgspec.structs.replace(control.carry, sealed_through_ms=end_ms)
    control = msgspec.structs.replace(control, carry=carry, totals=totals)
    # A client may serve a replaced table for `validity`: later exposures cannot echo it.
    gone = {v for v, at in control.replaced_ms.items() if at + plan.window.validity_ms <= end_ms}
    return _retire(plan, control, gone) if gone else control


def live_evidence(
    plan: Plan, control: Control, cells: dict[tuple[int, int], Cell]
) -> tuple[Control, tuple[Evidence, ...]]:
    """Evidence of every deal that can still change, from sealed totals and unsealed cells; also updates the spans."""
    spans = dict(control.spans)
    for end, version in sorted(cells):
        if version in control.versions:
            deal = control.versions[version]
            first, last = spans.get(deal, (end, end))
            spans[deal] = (min(first, end), max(last, end))
    control = msgspec.structs.replace(control, spans=spans)
    sums = {deal: deal_sums(control, cells, deal) for deal in sorted(control.deals)}
    found = (_evidence(plan, control, deal, cell) for deal, cell in sums.items() if cell is not None)
    return control, tuple(e for e in found if e is not None)


def deal_sums(control: Control, cells: dict[tuple[int, int], Cell], deal: int) -> Cell | None:
    """A deal's sums: its sealed windows' and the given unsealed cells'; None where it has had no event.

    Cells of a version that is not known any more (served long after its table expired) are counted, not believed.
    """
    total = control.totals.get(deal)
    for key in sorted(cells):
        if control.versions.get(key[1]) == deal:
            total = _plus(total, cells[key])
    return total


def deal_changes(plan: Plan, deal: Deal, cell: Cell) -> Changes:
    """The relative changes of a deal's arms, from its sums."""
    names = tuple(component.name for component in plan.components)
    return relative_changes(plan.metrics, names, cell.sums, deal.buckets.astype(np.int64), len(deal.arms))


def _evidence(plan: Plan, control: Control, id_: int, cell: Cell) -> Evidence | None:
    deal = control.deals[id_]
    if len(deal.arms) < 2 or id_ not in control.spans:
        return None
    first, last = control.spans[id_]
    middle = (first + last - plan.window.length_ms) / 2
    hour = (middle - (control.carry.started_ms or first - plan.window.length_ms)) / HOUR_MS
    return Evidence(id_, hour, tuple(arm.theta for arm in deal.arms[1:]), deal_changes(plan, deal, cell))


def _plus(one: Cell | None, other: Cell) -> Cell:
    return other if one is None else Cell(one.sums + other.sums, one.events + other.events)


def _retire(plan: Plan, control: Control, gone: set[int]) -> Control:
    versions = {v: d for v, d in control.versions.items() if v not in gone}
    kept = set(versions.values()) | {control.carry.deal}
    ended = sorted(set(control.totals) - kept)
    last = (_evidence(plan, control, deal, control.totals[deal]) for deal in ended)
    return msgspec.structs.replace(
        control,
        versions=versions,
        replaced_ms={v: at for v, at in control.replaced_ms.items() if v not in gone},
        deals={d: deal for d, deal in control.deals.items() if d in kept},
        totals={d: cell for d, cell in control.totals.items() if d in kept},
        spans={d: span for d, span in control.spans.items() if d in kept},
        evidence=(control.evidence + tuple(e for e in last if e is not None))[-MAX_DEALS:],
    )
