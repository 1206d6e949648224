"""What each window of a candidate's test says by itself."""

import msgspec
import numpy as np

from controller.core import late
from controller.core.evidence import deal_changes, unsealed_trial_sums
from controller.core.experiment import Experiment
from controller.core.plan import Plan
from controller.core.windows import Cell
from controller.core.worst import Look, Looks

REMEMBERED = 96  # windows at least; of a vector that is held for long, older ones weigh little


def looked(plan: Plan, experiment: Experiment, cells: dict[tuple[int, int], Cell]) -> Experiment:
    """The state that knows every window of its test: the open ones as they are now, the others as they were last."""
    if experiment.trial is None:
        return experiment
    open_ = {end: look for end in sorted({end for end, _ in cells}) if (look := _look(plan, experiment, cells, end))}
    before = experiment.looks if experiment.looks.trial == experiment.trial.id else Looks(experiment.trial.id)
    kept = tuple(look for look in before.windows if look.end_ms not in open_)
    windows = tuple(sorted((*kept, *open_.values()), key=lambda look: look.end_ms))
    looks = msgspec.structs.replace(before, windows=windows).newest(_remembered(plan))
    return msgspec.structs.replace(experiment, looks=looks)


def _remembered(plan: Plan) -> int:
    """Every window of a confirm test, twice as many where some are no exposure, until the test is judged."""
    test_ms = plan.rollout.confirm_ms + plan.window.lateness_ms
    return max(REMEMBERED, 2 * -(-test_ms // plan.window.length_ms))


def _look(plan: Plan, experiment: Experiment, cells: dict[tuple[int, int], Cell], end_ms: int) -> Look | None:
    """One window; None where the test was not served in it, or nothing can be told of some metric."""
    cell = unsealed_trial_sums(experiment, {key: cell for key, cell in cells.items() if key[0] == end_ms})
    if cell is None or experiment.trial is None:
        return None
    found = deal_changes(plan, experiment.trial, cell)
    change, se = found.change[:, 0, 0], np.sqrt(found.covariance[:, 0, 0, 0])
    weight, _ = late.totals(plan.metrics, plan.component_names, cell.sums[:, experiment.trial.buckets == 0])
    weight = np.where(np.isfinite(change), weight, 0.0)
    return Look(end_ms, *(tuple(np.nan_to_num(row).tolist()) for row in (change, weight, se)))
