"""Whether a vector that is served for long still gains what it gained: its newest windows beside the ones before.

While vectors change at every deal the posterior sees the world change (`jump`). In confirm, ramp and hold one vector
is served, and its trial's sums grow: what the newest windows say drowns in what was. So they are judged by themselves.
"""

import math

from controller.core.advance import measured_gain
from controller.core.evidence import trial_sums, unsealed_trial_sums
from controller.core.experiment import Experiment, Statistics
from controller.core.plan import Plan
from controller.core.rollout import Deal
from controller.core.windows import Cell

RECENT = 6  # windows; fewer where windows are sealed sooner
LOST = 0.5  # of the gain before, that counts as a change: effects swing with the hour of the day
SURE = 4.5  # standard errors beyond that: 30 days of hourly looks at one vector cry wolf in .25 % of studies

Gain = tuple[float, float]  # of the objective, and its standard error


def faded(plan: Plan, experiment: Experiment, seen: Statistics, deal: Deal) -> str | None:
    """Why the deal's vector is to be given up, or None.

    No single window decides: a bad hour is no change of the world, so the loss must show without any one of them too.
    """
    ends = sorted({end for end, _ in seen.cells if end > seen.end_ms - RECENT * plan.window.length_ms})
    trial = experiment.trial
    if trial is None or deal.trial != trial.id or len(ends) < 2:
        return None
    older = {key: cell for key, cell in seen.cells.items() if key[0] < ends[0]}
    before = _gain(plan, trial, trial_sums(experiment, older))
    newest = _newest(plan, experiment, seen, trial, ends)
    if before is None or newest is None or not _lost(before, newest):
        return None
    for left_out in ends:
        some = _newest(plan, experiment, seen, trial, [end for end in ends if end != left_out])
        if some is None or not _lost(before, some):
            return None
    return (
        f"the world has changed: {deal.arms[1].arm} gains {newest[0]:+.2%} +- {newest[1]:.2%} in the last {len(ends)} "
        f"windows, {before[0]:+.2%} +- {before[1]:.2%} before"
    )


def losing(plan: Plan, experiment: Experiment, seen: Statistics, deal: Deal) -> str | None:
    """Why the deal's vector, which surely loses, is given up before its test is over; or None.

    As little as above does a single window decide.
    """
    trial = experiment.trial
    ends = sorted({end for end, _ in seen.cells})
    if trial is None or deal.trial != trial.id or len(experiment.looks.windows) < 2:
        return None
    whole = _gain(plan, trial, trial_sums(experiment, seen.cells))
    if whole is None or not _negative(whole):
        return None
    for left_out in ends:
        rest = {key: cell for key, cell in seen.cells.items() if key[0] != left_out}
        some = _gain(plan, trial, trial_sums(experiment, rest))
        if some is None or not _negative(some):
            return None
    return f"{deal.arms[1].arm} surely loses: {whole[0]:+.2%} +- {whole[1]:.2%}"


def _newest(plan: Plan, experiment: Experiment, seen: Statistics, deal: Deal, ends: list[int]) -> Gain | None:
    cells = {key: cell for key, cell in seen.cells.items() if key[0] in ends}
    return _gain(plan, deal, unsealed_trial_sums(experiment, cells))


def _gain(plan: Plan, deal: Deal, cell: Cell | None) -> Gain | None:
    return None if cell is None else measured_gain(plan, deal, cell)


def _negative(found: Gain) -> bool:
    gain, se = found
    return gain < -SURE * se


def _lost(before: Gain, after: Gain) -> bool:
    """Both share the buckets' traits: their difference is surer than that of independent parts, as it is taken for."""
    (was, was_se), (now, now_se) = before, after
    # What is no number says nothing.
    return was - now - LOST * max(was, 0.0) > SURE * math.hypot(was_se, now_se)
