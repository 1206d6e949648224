"""What the evidence says: from deals' relative changes to a posterior that the policy can ask.

Notation: G' groups with weights of their own (one, or each segment that has traffic), M metrics, d free weights,
n rows.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.assignment import ALL
from controller.core import jump, offline, outliers, parts, posterior
from controller.core.durations import HOUR_MS
from controller.core.estimate import Changes, usable
from controller.core.evidence import live_evidence, traffic
from controller.core.experiment import Evidence, Experiment, Theta
from controller.core.goal import Goal, goal_of
from controller.core.kernel import STEPS, Hyper
from controller.core.learn import EXPOSURES, RESPONSE, Scale
from controller.core.plan import MAX_ROWS, Plan
from controller.core.posterior import Observations
from controller.core.space import Space
from controller.core.windows import Cell

Floats = NDArray[np.float64]

REFIT_WINDOWS = 3  # hyperparameters change slowly: each process is fitted anew every so many windows, in turns
UNFITTED_ROWS = 24  # of a process, up to which they are the prior's, or s is larger: fitted to fewer, too sure
FEW_ROWS = 80  # below which each window changes them
ROUNDING = 1e-9  # that a weight at its bound may lie outside the cube
NO_INFORMATION = 1e6  # variance of a change that says nothing, so that metrics can share rows


class Believed(msgspec.Struct, frozen=True, eq=False):
    """The posterior with what was needed to ask it."""

    posterior: posterior.Posterior
    hypers: tuple[Hyper, ...]
    space: Space
    goal: Goal
    groups: tuple[int, ...]  # G'
    hour: float  # from which on what is chosen is to be good, for a day (`policy.AHEAD_H`)
    earlier: Floats  # (k, G', d) vectors that were dealt, newest last; those that lie in the cube
    shares: Floats  # (M, G') what each group makes of each metric; the rest to 1 keeps the baseline
    unmeasured: tuple[str, ...]  # judged metrics that no deal has told anything of


def believe(plan: Plan, experiment: Experiment, live: tuple[Evidence, ...], hour: float) -> Believed:
    """Fit the metrics' processes to all evidence and condition them on it.

    `hour`: now, in hours since the study's first window.
    """
    space = Space(plan.weights)
    groups = _groups(plan, experiment)
    judged, evidence = judged_metrics(plan), (*experiment.evidence, *live)
    apart = _shown(plan, experiment)
    learnt = processes(plan, apart=apart)
    observations = _rows(plan, space, groups, learnt, evidence)
    base = space.baseline_unit
    window = round(hour * HOUR_MS / plan.window.length_ms)
    factors = tuple(tuple(learnt.index(place) for place in _places(plan, m, apart)) for m in judged)
    process = _process(observations, base, experiment.carry.hypers, window, scales(plan, learnt), factors)
    if plan.offline:
        named = {plan.metrics[m].name: own[-1] for m, own in zip(judged, factors, strict=True)}
        process = offline.informed(process, _predicted(plan, space, named, len(learnt)))
    process = msgspec.structs.replace(process, traffic=traffic(plan, experiment, STEPS))
    thetas = [theta for e in evidence[-MAX_ROWS:] for theta in e.thetas][-MAX_ROWS:]
    dealt = np.array([points(plan, space, groups, theta) for theta in thetas]).reshape(-1, len(groups), space.d)
    inside = ((dealt >= -ROUNDING) & (dealt <= 1.0 + ROUNDING)).all(axis=(1, 2))  # of bounds that may have changed
    return Believed(
        posterior=process,
        hypers=process.hypers,
        space=space,
        goal=goal_of(
            tuple(plan.metrics[m] for m in judged),
            plan.objective,
            tuple(g for g in plan.guardrails if g.metric in {plan.metrics[m].name for m in judged}),
        ),
        groups=groups,
        hour=hour,
        earlier=dealt[inside],
        shares=_shares(plan, experiment, groups, judged),
        unmeasured=_unmeasured(plan, judged, process.factors, observations) if evidence else (),
    )


def believe_decided(plan: Plan, experiment: Experiment, cells: dict[tuple[int, int], Cell]) -> Believed:
    """The belief as of the newest decision. `cells`: unsealed sums, of which those of the windows decided on count."""
    through_ms = experiment.carry.decided_through_ms
    seen = {key: cell for key, cell in cells.items() if key[0] <= through_ms}
    hour = (through_ms - (experiment.carry.started_ms or 0)) / HOUR_MS
    return believe(plan, experiment, live_evidence(plan, experiment, seen), hour)


def _unmeasured(
    plan: Plan, judged: list[int], factors: tuple[tuple[int, ...], ...], observations: Observations
) -> tuple[str, ...]:
    known = [len(rows) > 0 for rows in _told(observations)]
    silent = [plan.metrics[m].name for m, own in zip(judged, factors, strict=True) if not all(known[p] for p in own)]
    return tuple(name for name in silent if name in plan.tested)


def _told(observations: Observations) -> list[NDArray[np.intp]]:
    """(P,) the rows that say anything of each process."""
    return [np.flatnonzero(np.diagonal(noise) < NO_INFORMATION) for noise in observations.noise]


def judged_metrics(plan: Plan) -> list[int]:
    """The metrics that have a process, by index: those that an objective or a guardrail names.

    A delayed metric cannot answer to arms that change every hour: it is judged where a deal stays.
    """
    named = plan.tested.union(*plan.objectives.values())
    return [m for m, metric in enumerate(plan.metrics) if metric.response == "immediate" and metric.name in named]


def processes(plan: Plan, *, apart: bool = True) -> list[int]:
    """What has a process, by its place in `parts.measured`: each judged metric, or the factors it is taken apart in."""
    return sorted({place for m in judged_metrics(plan) for place in _places(plan, m, apart)})


def _places(plan: Plan, m: int, apart: bool) -> tuple[int, ...]:
    return parts.parts(plan.metrics, m) if apart else (m,)


def _shown(plan: Plan, experiment: Experiment) -> bool:
    """Whether the events have the exposures that metrics are taken apart by: without them metrics stay whole."""
    component = parts.exposures(plan.metrics)
    return component is not None and bool(experiment.history[..., plan.component_names.index(component)].any())


def scales(plan: Plan, places: list[int]) -> tuple[Scale, ...]:
    """How large the changes of processes (places in `parts.measured`) are held to be before any is seen."""
    return tuple(EXPOSURES if parts.is_exposures(plan.metrics, place) else RESPONSE for place in places)


def _process(
    observations: Observations,
    base: Floats,
    previous: tuple[Hyper, ...] | None,
    window: int,
    priors: tuple[Scale, ...],
    factors: tuple[tuple[int, ...], ...],
) -> posterior.Posterior:
    """The processes, with what lone bad hours say left out and a jump, if there was one, known.

    `window`: how many there were since the study's start.
    """
    begin = posterior.start(base, priors, previous)
    settled = begin == previous and observations.rows >= FEW_ROWS
    few = {p: rows for p, rows in enumerate(_told(observations)) if len(rows) <= UNFITTED_ROWS}
    due = [p not in few and (not settled or (window + p) % REFIT_WINDOWS == 0) for p in range(len(begin))]
    begin = posterior.unfitted(observations, base, begin, priors, few)
    observations = outliers.discounted(observations, base, begin)
    fitted = posterior.fit(observations, base, previous, priors, due)
    fitted = tuple(begin[p] if p in few else new for p, new in enumerate(fitted))
    calm = posterior.condition(observations, base, jump.settled(fitted, observations.hour), factors)
    hypers = jump.revised(calm)
    return calm if hypers == calm.hypers else posterior.condition(observations, base, hypers, factors)


def _groups(plan: Plan, experiment: Experiment) -> tuple[int, ...]:
    """The groups that choose for themselves; a segment without any traffic yet is served with the baseline."""
    segments = range(1, len(plan.segments) + 1)
    return tuple(k for k in segments if experiment.history[k].any()) or tuple(segments) or (0,)


def _shares(plan: Plan, experiment: Experiment, groups: tuple[int, ...], judged: list[int]) -> Floats:
    """(M, G') what each group makes of each metric: its part of the numerator in the windows decided on.

    A metric's relative change in all traffic is the sum of the groups' by these. What is missing to 1 is traffic of no
    group, which keeps the baseline. Metrics differ: who watches most need not be who clicks most.
    """
    numerators = [plan.component_names.index(plan.metrics[m].numerator) for m in judged]
    sums = np.abs(experiment.history.sum(axis=1))[:, numerators].T  # (M, G1)
    parts = (sums / np.maximum(sums.sum(axis=1, keepdims=True), 1.0))[:, list(groups)]
    return np.where(parts.any(axis=1, keepdims=True), parts, 1.0 / len(groups))


def points(plan: Plan, space: Space, groups: tuple[int, ...], theta: Theta) -> Floats:
    """A vector's points in the cube, (G', d)."""
    names = (ALL, *plan.segments)
    return space.to_unit(np.array([theta.get(names[group], theta[ALL]) for group in groups]))


def banned(plan: Plan, experiment: Experiment, believed: Believed) -> Floats:
    """(b, G', d) the vectors that were stopped or not confirmed."""
    found = [points(plan, believed.space, believed.groups, theta) for theta in experiment.carry.banned]
    return np.array(found).reshape(-1, len(believed.groups), believed.space.d)


def theta_at(plan: Plan, space: Space, groups: tuple[int, ...], unit: Floats) -> Theta:
    """The vector at points (G', d) of the groups; all other units are served with the baseline."""
    baseline = tuple(w.baseline for w in plan.weights)
    names = (ALL, *plan.segments)
    chosen = (tuple(float(w) for w in theta) for theta in space.to_theta(unit))
    return dict.fromkeys(names, baseline) | dict(zip((names[group] for group in groups), chosen, strict=True))


def _rows(
    plan: Plan, space: Space, groups: tuple[int, ...], learnt: list[int], evidence: tuple[Evidence, ...]
) -> Observations:
    """The newest usable evidence, oldest first."""
    rows: list[Observations] = []
    taken = 0
    for e in reversed(evidence):
        if taken >= MAX_ROWS:
            break
        unit = np.array([points(plan, space, groups, theta) for theta in e.thetas])  # (a, G', d)
        for k, group in enumerate(groups):
            change, covariance, known = _said(e.changes, learnt, group)
            if known:
                a = len(unit)
                rows.append(Observations(unit[:, k], np.full(a, group), np.full(a, e.hour), change, covariance))
                taken += a
    return posterior.join(rows[::-1]) if rows else _nothing(len(learnt), space.d)


def _predicted(plan: Plan, space: Space, index: dict[str, int], processes: int) -> Observations:
    """What was predicted before the study, as evidence on all traffic from its first hour.

    `index`: of each metric the process that it is said of: of one that is taken apart its last factor, the response
    per exposure. Two metrics may say it of one: their mean by precision.
    """
    thetas = list(dict.fromkeys(p.theta for p in plan.offline))
    change, variance = np.zeros((processes, len(thetas))), np.full((processes, len(thetas)), NO_INFORMATION)
    for p in plan.offline:
        if p.metric in index:
            place = index[p.metric], thetas.index(p.theta)
            known = variance[place]
            part = known / (known + p.se**2) if known < NO_INFORMATION else 1.0
            change[place] += part * (p.change - change[place])
            variance[place] = part * p.se**2
    noise = variance[:, :, None] * np.eye(len(thetas))
    nowhen = np.zeros(len(thetas))
    return Observations(space.to_unit(np.array(thetas)), nowhen.astype(np.int64), nowhen, change, noise)


def _nothing(processes: int, d: int) -> Observations:
    none = np.zeros(0)
    return Observations(
        np.zeros((0, d)), none.astype(np.int64), none, np.zeros((processes, 0)), np.zeros((processes, 0, 0))
    )


def _said(changes: Changes, learnt: list[int], group: int) -> tuple[Floats, Floats, bool]:
    """What is learnt from, (P, a), and its covariance; what is too noisy yet says nothing."""
    change, covariance = changes.change[learnt, group].copy(), changes.covariance[learnt, group].copy()
    known = usable(changes, group)[learnt]
    change[~known] = 0.0
    covariance[~known] = NO_INFORMATION * np.eye(change.shape[1])
    return change, covariance, bool(known.any())
