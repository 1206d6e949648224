"""What the sums of windows say: kept by deal and by trial until nothing more can come, and turned into changes.

Notation as in `experiment`.
"""

from collections.abc import Iterable
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core import late
from controller.core.durations import DAY_MS, HOUR_MS
from controller.core.estimate import Changes, Served, by_past, relative_changes
from controller.core.experiment import Evidence, Experiment, ended_ms
from controller.core.parts import measured
from controller.core.plan import Plan
from controller.core.rollout import Deal
from controller.core.sums import LIMIT
from controller.core.windows import Cell

MEMORY = 0.95  # of the buckets' history, a window: a trait is best told by the last day or so
MAX_DEALS = 168  # older deals have faded from the posterior: a week of hourly ones bounds state and cost
MAX_NUMBERS = 2**23  # in their covariances (64 MiB of the checkpoint): more than the belief can take


def fold(plan: Plan, experiment: Experiment, end_ms: int, cells: dict[int, Cell]) -> Experiment:
    """Add a sealed window's sums (version -> cell) to its deals; let go of deals that no event can reach any more."""
    totals, moments, tried = dict(experiment.totals), dict(experiment.moments), experiment.tried
    for version in sorted(cells.keys() & experiment.versions.keys()):
        deal = experiment.versions[version]
        tried = _plus(tried, cells[version]) if on_trial(experiment, version) else tried
        totals[deal] = _plus(totals.get(deal), cells[version])
        moments[deal] = moments.get(deal, 0.0) + _moment(plan, end_ms, cells[version])
    sample = _sample(experiment, end_ms, tried)
    experiment = _learnt(plan, experiment, end_ms, cells)
    carry = msgspec.structs.replace(experiment.carry, sealed_through_ms=end_ms)
    experiment = msgspec.structs.replace(
        experiment, carry=carry, totals=totals, moments=moments, tried=tried, sample=sample
    )
    gone = {v for v, ended in ended_ms(plan, experiment).items() if ended <= end_ms}  # what is to come begins later
    return _retire(plan, experiment, gone) if gone else experiment


def _sample(experiment: Experiment, end_ms: int, tried: Cell | None) -> Cell | None:
    """The confirm sample, once its last window is sealed: what is sealed after it does not count."""
    carry = experiment.carry
    if experiment.sample is not None or carry.claim_through_ms is None or end_ms < carry.claim_through_ms:
        return experiment.sample
    return tried if end_ms == carry.claim_through_ms else experiment.tried


def live_evidence(plan: Plan, experiment: Experiment, cells: dict[tuple[int, int], Cell]) -> tuple[Evidence, ...]:
    """Evidence of every deal that can still change, from sealed totals and unsealed cells."""
    moments = dict(experiment.moments)
    for (end, version), cell in sorted(cells.items()):
        if version in experiment.versions:
            deal = experiment.versions[version]
            moments[deal] = moments.get(deal, 0.0) + _moment(plan, end, cell)
    sums = {deal: deal_sums(experiment, cells, deal) for deal in sorted(experiment.deals)}
    found = (_evidence(plan, experiment, d, cell, moments[d]) for d, cell in sums.items() if cell is not None)
    return tuple(_foretold(plan, experiment, cells, e) for e in found if e is not None)


def _foretold(plan: Plan, experiment: Experiment, cells: dict[tuple[int, int], Cell], evidence: Evidence) -> Evidence:
    """The evidence as it is expected to be when all its windows are sealed."""
    ages = [
        (_age(plan, experiment, end), _totals(plan, cell))
        for (end, version), cell in sorted(cells.items())
        if experiment.versions.get(version) == evidence.deal
    ]
    if evidence.deal in experiment.totals:
        ages.append((-1, _totals(plan, experiment.totals[evidence.deal])))
    return msgspec.structs.replace(evidence, changes=late.foretold(experiment.late, evidence.changes, ages))


def watched(plan: Plan, experiment: Experiment, cells: dict[tuple[int, int], Cell]) -> Experiment:
    """The state after a look at every open window: when one is sealed, its looks are compared with the end (`late`)."""
    known = experiment.late
    for end in sorted({end for end, _ in cells}):
        most = _served_most(experiment, {version: cell for (e, version), cell in cells.items() if e == end})
        if most is not None:
            deal, cell = most
            known = late.looked(
                known,
                end,
                deal.id,
                _age(plan, experiment, end),
                _totals(plan, cell),
                partial(measured_changes, plan, deal, cell),
            )
    return msgspec.structs.replace(experiment, late=known)


def _learnt(plan: Plan, experiment: Experiment, end_ms: int, cells: dict[int, Cell]) -> Experiment:
    most = _served_most(experiment, cells)
    if most is None:
        return experiment
    deal, cell = most
    changes = partial(measured_changes, plan, deal, cell)
    known = late.sealed(experiment.late, end_ms, deal.id, _totals(plan, cell), changes)
    return msgspec.structs.replace(experiment, late=known)


def _served_most(experiment: Experiment, cells: dict[int, Cell]) -> tuple[Deal, Cell] | None:
    """The deal that served most of a window (version -> cell), and its sums there."""
    by_deal: dict[int, Cell] = {}
    for version in sorted(cells.keys() & experiment.versions.keys()):
        deal = experiment.versions[version]
        by_deal[deal] = _plus(by_deal.get(deal), cells[version])
    if not by_deal:
        return None
    most = max(by_deal, key=lambda deal: int(by_deal[deal].events.sum()))
    return experiment.deals[most], by_deal[most]


def _age(plan: Plan, experiment: Experiment, end_ms: int) -> int:
    """How old a window is, in steps of which at most `late.AGES` make the lateness."""
    steps = -(-plan.window.lateness_ms // (plan.window.length_ms * late.AGES))
    return max(experiment.carry.decided_through_ms - end_ms, 0) // (plan.window.length_ms * steps)


def _totals(plan: Plan, cell: Cell) -> NDArray[np.float64]:
    return late.totals(measured(plan.metrics), plan.component_names, cell.sums)


def deal_sums(experiment: Experiment, cells: dict[tuple[int, int], Cell], deal: int) -> Cell | None:
    """A deal's sums: its sealed windows' and the given unsealed cells'; None where it has had no event.

    Cells of a version that is not known any more (served long after its table expired) are counted, not believed.
    """
    return _added(experiment.totals.get(deal), _cells_of(experiment, cells, deal))


def unsealed_deal_sums(experiment: Experiment, cells: dict[tuple[int, int], Cell], deal: int) -> Cell | None:
    """The same of the given cells alone."""
    return _added(None, _cells_of(experiment, cells, deal))


def _cells_of(experiment: Experiment, cells: dict[tuple[int, int], Cell], deal: int) -> list[Cell]:
    return [cells[key] for key in sorted(cells) if experiment.versions.get(key[1]) == deal]


def on_trial(experiment: Experiment, version: int) -> bool:
    """Whether a version's table went on with the test that is being made."""
    deal = experiment.deals.get(experiment.versions.get(version, 0))
    return experiment.trial is not None and deal is not None and deal.trial == experiment.trial.id


def trial_sums(experiment: Experiment, cells: dict[tuple[int, int], Cell]) -> Cell | None:
    """The trial's sums: its sealed windows' and the given unsealed cells'; None where it has had no event."""
    return _added(experiment.tried, _cells_on_trial(experiment, cells))


def unsealed_trial_sums(experiment: Experiment, cells: dict[tuple[int, int], Cell]) -> Cell | None:
    """The same of the given cells alone."""
    return _added(None, _cells_on_trial(experiment, cells))


def _cells_on_trial(experiment: Experiment, cells: dict[tuple[int, int], Cell]) -> list[Cell]:
    return [cells[key] for key in sorted(cells) if on_trial(experiment, key[1])]


def remembered(experiment: Experiment, end_ms: int, cells: list[Cell]) -> Experiment:
    """The state that holds one more window: what the buckets had in it, whatever their arm, and how busy it was."""
    if not cells:
        return experiment
    history = MEMORY * experiment.history
    for cell in cells:
        history = history + cell.sums
    volume = {end: events for end, events in experiment.volume.items() if end > end_ms - DAY_MS}
    volume[end_ms] = sum(int(cell.events.sum()) for cell in cells)
    return msgspec.structs.replace(experiment, history=history, volume=volume)


def traffic(plan: Plan, experiment: Experiment, parts: int) -> tuple[float, ...]:
    """Shares of the coming day's traffic in so many equal parts of it: those of the last day.

    A part that had no window (the study began in it, or there was an outage) has the mean of the others.
    """
    if not sum(experiment.volume.values()):
        return (1.0 / parts,) * parts
    ends = np.array(sorted(experiment.volume))
    events = np.cumsum([0, *(experiment.volume[end] for end in ends)])
    windows = np.arange(len(events))
    at = np.stack((ends - plan.window.length_ms, ends), axis=1).ravel()  # between two windows neither grows
    edges = experiment.carry.decided_through_ms - DAY_MS + np.linspace(0.0, DAY_MS, parts + 1)
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


def _evidence(plan: Plan, experiment: Experiment, id_: int, cell: Cell, moment: float) -> Evidence | None:
    deal, events = experiment.deals[id_], int(cell.events.sum())
    if len(deal.arms) < 2 or not events or deal.stage == "verify":  # the baseline says nothing of vectors
        return None
    hour = moment / events - (experiment.carry.started_ms or 0) / HOUR_MS
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


def _retire(plan: Plan, experiment: Experiment, gone: set[int]) -> Experiment:
    versions = {v: d for v, d in experiment.versions.items() if v not in gone}
    kept = set(versions.values()) | {experiment.carry.deal}
    ended = sorted(set(experiment.totals) - kept)
    last = (_evidence(plan, experiment, deal, experiment.totals[deal], experiment.moments[deal]) for deal in ended)
    return msgspec.structs.replace(
        experiment,
        versions=versions,
        replaced_ms={v: at for v, at in experiment.replaced_ms.items() if v not in gone},
        deals={d: deal for d, deal in experiment.deals.items() if d in kept},
        totals={d: cell for d, cell in experiment.totals.items() if d in kept},
        moments={d: moment for d, moment in experiment.moments.items() if d in kept},
        evidence=_held((*experiment.evidence, *(e for e in last if e is not None))),
    )


def _held(evidence: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    """The newest deals: what is asked of the belief (`plan.MAX_ROWS`) is far less, but many arms make large ones."""
    evidence = evidence[-MAX_DEALS:]
    numbers = np.cumsum([e.changes.covariance.size for e in reversed(evidence)])
    return evidence[-max(int(np.searchsorted(numbers, MAX_NUMBERS, side="right")), 1) :]
