"""What the sums of windows say: kept by deal and by trial until nothing more can come, and turned into changes.

Notation as in `control`.
"""

from collections.abc import Iterable
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core import late
from controller.core.control import Control, Evidence, ended_ms
from controller.core.durations import DAY_MS, HOUR_MS
from controller.core.estimate import Changes, Served, by_past, relative_changes
from controller.core.parts import measured
from controller.core.plan import Plan
from controller.core.rollout import Deal
from controller.core.sums import LIMIT
from controller.core.windows import Cell

MEMORY = 0.95  # of the buckets' history, a window: a trait is best told by the last day or so
MAX_DEALS = 168  # older deals have faded from the posterior: a week of hourly ones bounds state and cost
MAX_NUMBERS = 2**23  # in their covariances (64 MiB of the checkpoint): more than the belief can take


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
    gone = {v for v, ended in ended_ms(plan, control).items() if ended <= end_ms}  # what is to come begins later
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
    """The state after a look at every open window: when one is sealed, its looks are compared with the end (`late`)."""
    known = control.late
    for end in sorted({end for end, _ in cells}):
        most = _served_most(control, {version: cell for (e, version), cell in cells.items() if e == end})
        if most is not None:
            deal, cell = most
            known = late.looked(
                known,
                end,
                deal.id,
                _age(plan, control, end),
                _totals(plan, cell),
                partial(measured_changes, plan, deal, cell),
            )
    return msgspec.structs.replace(control, late=known)


def _learnt(plan: Plan, control: Control, end_ms: int, cells: dict[int, Cell]) -> Control:
    most = _served_most(control, cells)
    if most is None:
        return control
    deal, cell = most
    changes = partial(measured_changes, plan, deal, cell)
    known = late.sealed(control.late, end_ms, deal.id, _totals(plan, cell), changes)
    return msgspec.structs.replace(control, late=known)


def _served_most(control: Control, cells: dict[int, Cell]) -> tuple[Deal, Cell] | None:
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
    return late.totals(measured(plan.metrics), plan.component_names, cell.sums)


def deal_sums(control: Control, cells: dict[tuple[int, int], Cell], deal: int) -> Cell | None:
    """A deal's sums: its sealed windows' and the given unsealed cells'; None where it has had no event.

    Cells of a version that is not known any more (served long after its table expired) are counted, not believed.
    """
    return _added(control.totals.get(deal), _cells_of(control, cells, deal))


def unsealed_deal_sums(control: Control, cells: dict[tuple[int, int], Cell], deal: int) -> Cell | None:
    """The same of the given cells alone."""
    return _added(None, _cells_of(control, cells, deal))


def _cells_of(control: Control, cells: dict[tuple[int, int], Cell], deal: int) -> list[Cell]:
    return [cells[key] for key in sorted(cells) if control.versions.get(key[1]) == deal]


def on_trial(control: Control, version: int) -> bool:
    """Whether a version's table went on with the test that is being made."""
    deal = control.deals.get(control.versions.get(version, 0))
    return control.trial is not None and deal is not None and deal.trial == control.trial.id


def trial_sums(control: Control, cells: dict[tuple[int, int], Cell]) -> Cell | None:
    """The trial's sums: its sealed windows' and the given unsealed cells'; None where it has had no event."""
    return _added(control.tried, _cells_on_trial(control, cells))


def unsealed_trial_sums(control: Control, cells: dict[tuple[int, int], Cell]) -> Cell | None:
    """The same of the given cells alone."""
    return _added(None, _cells_on_trial(control, cells))


def _cells_on_trial(control: Control, cells: dict[tuple[int, int], Cell]) -> list[Cell]:
    return [cells[key] for key in sorted(cells) if on_trial(control, key[1])]


def remembered(control: Control, end_ms: int, cells: list[Cell]) -> Control:
    """The state that holds one more window: what the buckets had in it, whatever their arm, and how busy it was."""
    if not cells:
        return control
    history = MEMORY * control.history
    for cell in cells:
        history = history + cell.sums
    volume = {end: events for end, events in control.volume.items() if end > end_ms - DAY_MS}
    volume[end_ms] = sum(int(cell.events.sum()) for cell in cells)
    return msgspec.structs.replace(control, history=history, volume=volume)


def traffic(plan: Plan, control: Control, parts: int) -> tuple[float, ...]:
    """Shares of the coming day's traffic in so many equal parts of it: those of the last day.

    A part that had no window (the study began in it, or there was an outage) has the mean of the others.
    """
    if not sum(control.volume.values()):
        return (1.0 / parts,) * parts
    ends = np.array(sorted(control.volume))
    events = np.cumsum([0, *(control.volume[end] for end in ends)])
    windows = np.arange(len(events))
    at = np.stack((ends - plan.window.length_ms, ends), axis=1).ravel()  # between two windows neither grows
    edges = control.carry.decided_through_ms - DAY_MS + np.linspace(0.0, DAY_MS, parts + 1)
    had, seen = (np.diff(np.interp(edges, at, np.repeat(n, 2)[1:-1])) for n in (events, windows))
    rate = np.where(seen > 0.0, had / np.where(seen > 0.0, seen, 1.0), events[-1] / windows[-1])
    return tuple((rate / rate.sum()).tolist())


def served(deal: Deal, cell: Cell) -> Served:
    """What a deal did, by its sums."""
    return Served(cell.sums, deal.buckets.astype(np.int64), len(deal.arms), deal.history)


def deal_changes(plan: Plan, deal: Deal, cell: Cell) -> Changes:
    """The relative changes of a deal's arms, from its sums."""
    return relative_changes(plan.metrics, plan.component_names, served(deal, cell))


def measured_changes(plan: Plan, deal: Deal, cell: Cell) -> Changes:
    """The same of all that the belief is made from: the metrics, then their parts (`parts.measured`), rare ones too."""
    metrics, names, did = measured(plan.metrics), plan.component_names, served(deal, cell)
    return by_past(relative_changes(metrics, names, did), metrics, names, did)


def _evidence(plan: Plan, control: Control, id_: int, cell: Cell, moment: float) -> Evidence | None:
    deal, events = control.deals[id_], int(cell.events.sum())
    if len(deal.arms) < 2 or not events or deal.stage == "verify":  # the baseline says nothing of vectors
        return None
    hour = moment / events - (control.carry.started_ms or 0) / HOUR_MS
    return Evidence(id_, hour, tuple(arm.theta for arm in deal.arms[1:]), measured_changes(plan, deal, cell))


def _moment(plan: Plan, end_ms: int, cell: Cell) -> float:
    return int(cell.events.sum()) * (end_ms - plan.window.length_ms / 2) / HOUR_MS


def _added(total: Cell | None, cells: Iterable[Cell]) -> Cell | None:
    for cell in cells:
        total = _plus(total, cell)
    return total


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
        evidence=_held((*control.evidence, *(e for e in last if e is not None))),
    )


def _held(evidence: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    """The newest deals: what is asked of the belief (`plan.MAX_ROWS`) is far less, but many arms make large ones."""
    evidence = evidence[-MAX_DEALS:]
    numbers = np.cumsum([e.changes.covariance.size for e in reversed(evidence)])
    return evidence[-max(int(np.searchsorted(numbers, MAX_NUMBERS, side="right")), 1) :]
