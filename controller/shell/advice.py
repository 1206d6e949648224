"""What a study's journal says about its own metrics: whose noise the objective has, which denominators move.

Notation: M metrics, A arms (control first).
"""

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from controller.core.estimate import BUCKETS, Metric, combined_noise, relative_changes, usable
from controller.core.evidence import deal_sums, served
from controller.core.plan import Plan
from controller.core.rollout import Deal
from controller.core.step import State
from controller.core.windows import Cell
from controller.shell.config import Study
from controller.shell.journal import Journal
from controller.shell.journal_file import JournalError
from controller.shell.recorder import restored

MOVED_ALPHA = 0.01  # P(a denominator is said to move that does not), over all that one check looks at
MOVED_LEAST = 0.001  # less is not worth a word


class Noise(msgspec.Struct, frozen=True):
    """Of the newest deal that has vectors and traffic, on average over them."""

    deal: int
    events: int  # that it has had
    se: float  # standard error of the objective's relative change
    share: dict[str, float]  # metric of the objective -> its part of the variance; below 0 where it cancels others


class Moved(msgspec.Struct, frozen=True):
    """A ratio whose denominator the weights move: the vector that moved it most, and the metric to look at beside."""

    metric: str
    denominator: str
    arm: str
    change: float  # of the denominator per bucket
    se: float
    offered: str  # the numerator per bucket, as the study file would say it


class Advice(msgspec.Struct, frozen=True):
    """`unknown`: why nothing is known yet, "" when it is."""

    noise: Noise | None = None
    moved: tuple[Moved, ...] = ()
    unknown: str = ""


def advice(study: Study) -> Advice:
    """From the journal's newest state: deals whose sums it still holds."""
    if not study.journal.exists():
        return Advice(unknown="there is no journal yet; they are told once a first deal has had traffic")
    try:
        with Journal.read_only(study.journal) as journal, journal.snapshot():
            state = restored(journal)
    except JournalError as error:
        return Advice(unknown=str(error))
    if state is None or state.experiment.history.shape[1:] != (study.plan.buckets, len(study.plan.components)):
        return Advice(unknown="the journal is not of this study file's metrics and buckets")
    noise = next(_noises(study.plan, state), None)
    if noise is None:
        return Advice(unknown=_unmeasured(study.plan, state))
    return Advice(noise, tuple(_moved(study.plan, state)))


def _deals(state: State) -> Iterator[tuple[Deal, Cell]]:
    """Deals with vectors and traffic, the newest first."""
    for id_, deal in sorted(state.experiment.deals.items(), reverse=True):
        cell = deal_sums(state.experiment, state.windows.cells, id_)
        if cell is not None and len(deal.arms) > 1:
            yield deal, cell


def _unmeasured(plan: Plan, state: State) -> str:
    """Why no deal tells the objective's noise."""
    deals = list(_deals(state))
    if not deals:
        return "no deal has had traffic yet"
    metrics = _judged(plan)
    never = [m.name for m in metrics if not any(np.isfinite(_terms(plan, (m,), *deal)).all() for deal in deals)]
    if never:
        return f"no deal has measured {', '.join(never)} yet"
    return f"no deal has measured {', '.join(metric.name for metric in metrics)} together yet"


def _judged(plan: Plan) -> tuple[Metric, ...]:
    return tuple(metric for metric in plan.metrics if metric.name in plan.objective)


def _terms(plan: Plan, metrics: tuple[Metric, ...], deal: Deal, cell: Cell) -> NDArray[np.float64]:
    """(M, A-1) of `combined_noise`."""
    coefficients = np.array([plan.objective[metric.name] for metric in metrics])
    return combined_noise(coefficients, metrics, plan.component_names, served(deal, cell))


def _noises(plan: Plan, state: State) -> Iterator[Noise]:
    metrics = _judged(plan)
    for deal, cell in _deals(state):
        terms = _terms(plan, metrics, deal, cell)
        if np.isfinite(terms).all():
            whole, parts = float(terms.sum(axis=0).mean()), terms.mean(axis=1).tolist()
            share = {metric.name: part / whole for metric, part in zip(metrics, parts, strict=True)}
            yield Noise(deal.id, int(cell.events.sum()), float(np.sqrt(whole)), share)


def _moved(plan: Plan, state: State) -> Iterator[Moved]:
    """Denominators that surely moved, by their largest move; the error is shared out over all that is looked at."""
    found = list(_denominators(plan, state))
    bar = -float(ndtri(MOVED_ALPHA / (2 * max(len(found), 1))))
    sure = [m for m in found if abs(m.change) > max(bar * m.se, MOVED_LEAST)]
    for metric in plan.metrics:
        own = [m for m in sure if m.metric == metric.name]
        if own:
            yield max(own, key=lambda m: abs(m.change))


def _denominators(plan: Plan, state: State) -> Iterator[Moved]:
    """What every arm did to every ratio's denominator per bucket."""
    ratios = tuple(metric for metric in plan.metrics if metric.denominator != BUCKETS)
    totals = tuple(Metric(metric.name, metric.denominator, BUCKETS) for metric in ratios)
    for deal, cell in _deals(state) if ratios else ():
        changes = relative_changes(totals, plan.component_names, served(deal, cell))
        se = np.sqrt(np.diagonal(changes.covariance[:, 0], axis1=1, axis2=2))  # (M, A-1)
        for m in np.flatnonzero(usable(changes)).tolist():
            for a, arm in enumerate(deal.arms[1:]):
                change = float(changes.change[m, 0, a])
                yield Moved(ratios[m].name, ratios[m].denominator, arm.arm, change, float(se[m, a]), _offer(ratios[m]))


def _offer(metric: Metric) -> str:
    return f'{metric.numerator}_per_bucket = {{ numerator = "{metric.numerator}", denominator = "{BUCKETS}" }}'


def told(found: Advice) -> list[str]:
    """For people."""
    if found.noise is None:
        return [f"the objective's noise by term, and what moves denominators, is not known: {found.unknown}"]
    noise = found.noise
    parts = ", ".join(f"{name} {share:.0%}" for name, share in noise.share.items())
    return [
        f"the objective's noise: {parts} (deal {noise.deal}, {noise.events} events: a vector's gain +- {noise.se:.2%})",
        *(
            f"the weights move what {m.metric} is divided by: {m.denominator} per bucket {m.change:+.2%} +- {m.se:.2%} "
            f"under {m.arm}; look at {m.offered} instead, or beside it"
            for m in found.moved
        ),
    ]
