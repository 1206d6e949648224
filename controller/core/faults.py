"""Why a window's data cannot be trusted: what freezes a study until an operator has looked."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from controller.core import ratio, safety
from controller.core.experiment import Experiment, Statistics
from controller.core.plan import Plan
from controller.core.rollout import Deal

MAX_CAUSES = 3  # reasons that are named, the most frequent first


def fault(plan: Plan, experiment: Experiment, seen: Statistics, deal: Deal) -> str | None:
    """Why the window that ends at `seen.end_ms` cannot be trusted, or None. `deal`: the one that is dealt."""
    return (
        _misattribution(plan, seen)
        or _impossible(plan, seen)
        or _silence(experiment, seen, deal)
        or _ratio(plan, experiment, seen, deal)
    )


def events_served(experiment: Experiment, seen: Statistics, deal: Deal) -> NDArray[np.int64]:
    """(B,) accepted events of the window that the deal served."""
    events = np.zeros(len(deal.buckets), np.int64)
    for (end, version), cell in seen.cells.items():
        if end == seen.end_ms and experiment.versions.get(version) == deal.id:
            events += cell.events.sum(axis=0)
    return events


def _misattribution(plan: Plan, seen: Statistics) -> str | None:
    wrong, attributed = seen.quality.misattributed, seen.quality.accepted + seen.quality.misattributed
    if not safety.excessive(wrong, attributed, plan.safety.misattributed_share):
        return None
    return f"misattribution: {wrong} of {attributed} events name another arm than their bucket's"


def _impossible(plan: Plan, seen: Statistics) -> str | None:
    if not safety.excessive(seen.rejected, seen.arrived, plan.safety.rejected_share):
        return None
    refused = f"{seen.rejected} of {seen.arrived} events since the last decision were rejected"
    return f"impossible values: {refused}{by_cause(seen.reasons)}"


def by_cause(reasons: Mapping[str, int]) -> str:
    """Why rows were refused, to end a sentence: ": no_version 3990, future 10"."""
    most = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:MAX_CAUSES]
    return f": {', '.join(f'{reason} {rows}' for reason, rows in most)}" if most else ""


def _silence(experiment: Experiment, seen: Statistics, deal: Deal) -> str | None:
    silent = safety.silent_arm(events_served(experiment, seen, deal), deal.buckets, len(deal.arms))
    if silent is None:
        return None
    return f"missing data: arm {deal.arms[silent].arm} has no event in the window, while the others have"


def _ratio(plan: Plan, experiment: Experiment, seen: Statistics, deal: Deal) -> str | None:
    found = ratio.mismatch(experiment.people, ratio.counted(experiment.people, seen.units, deal))
    if found.p >= plan.safety.srm_alpha:
        return None
    how_many = f"{abs(found.difference):.1%} {'more' if found.difference > 0 else 'fewer'}"
    why = f"than its buckets' past and the other arms foretell, p = {found.p:.1g}"
    return f"sample ratio mismatch: {found.arm} has {how_many} people {found.span} {why}"
