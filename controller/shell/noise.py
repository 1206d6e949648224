"""How much of the objective's noise each of its terms brings, from what a study's journal has seen."""

import msgspec
import numpy as np

from controller.core.control import deal_sums
from controller.core.estimate import combined_noise
from controller.core.plan import Plan
from controller.core.step import State
from controller.shell.config import Study
from controller.shell.journal import Journal
from controller.shell.journal_file import JournalError
from controller.shell.recorder import restored


class Noise(msgspec.Struct, frozen=True):
    """Of the newest deal that has vectors and traffic, on average over them."""

    deal: int
    events: int  # that it has had
    se: float  # standard error of the objective's relative change
    share: dict[str, float]  # metric of the objective -> its part of the variance; below 0 where it cancels others


def objective_noise(study: Study) -> Noise | str:
    """From the journal's newest state; else why it is not known."""
    if not study.journal.exists():
        return "there is no journal yet; it is told once a first deal has had traffic"
    try:
        with Journal.read_only(study.journal) as journal, journal.snapshot():
            state = restored(journal)
    except JournalError as error:
        return str(error)
    if state is None or state.control.history.shape[1:] != (study.plan.buckets, len(study.plan.components)):
        return "the journal is not of this study file's metrics and buckets"
    return _noise(study.plan, state) or "no deal has had traffic yet"


def _noise(plan: Plan, state: State) -> Noise | None:
    metrics = tuple(metric for metric in plan.metrics if metric.name in plan.objective)
    coefficients = np.array([plan.objective[metric.name] for metric in metrics])
    components = tuple(component.name for component in plan.components)
    for id_, deal in sorted(state.control.deals.items(), reverse=True):
        cell = deal_sums(state.control, state.windows.cells, id_)
        if cell is None or len(deal.arms) < 2:
            continue
        arm_of = deal.buckets.astype(np.int64)
        terms = combined_noise(coefficients, metrics, components, cell.sums, arm_of, len(deal.arms), deal.history)
        if np.isfinite(terms).all():
            whole, parts = float(terms.sum(axis=0).mean()), terms.mean(axis=1).tolist()
            share = {metric.name: part / whole for metric, part in zip(metrics, parts, strict=True)}
            return Noise(id_, int(cell.events.sum()), float(np.sqrt(whole)), share)
    return None


def told(noise: Noise | str) -> str:
    """For people."""
    if isinstance(noise, str):
        return f"the objective's noise by term is not known: {noise}"
    parts = ", ".join(f"{name} {share:.0%}" for name, share in noise.share.items())
    return (
        f"the objective's noise: {parts} (deal {noise.deal}, {noise.events} events: a vector's gain +- {noise.se:.2%})"
    )
