"""How often 95 % intervals hold the truth, per metric and tail, with runs as clusters.

Each run drifts in a way of its own, else all runs of a world would share one error of what is to come.

| interval | of | truth |
|---|---|---|
| settled | a deal's estimate when it was first used, with what is still to come foretold | its own hour |
| sealed | the same deal's after the last amendment | its own hour |
| posterior | the belief in the vectors that are dealt next and in the pick, when they are chosen | that moment |
| ahead | the belief in their mean over the coming day, by which they are chosen | the next 24 hours |

Deals are those that Trimtab's own studies explored with, each for one window: a test is judged by its sequence.
"""

from itertools import product

import msgspec
import numpy as np
from scipy import stats

from benchmarks._arena_run import Hour, Trimtab, hours_of
from benchmarks._arena_worlds import SCENARIOS, of_run
from benchmarks._calibration_figures import Figure, Spread, clustered
from controller.core.belief import believe, judged_metrics, points
from controller.core.durations import HOUR_MS
from controller.core.evidence import live_evidence
from controller.core.experiment import Evidence, Experiment, Statistics, Theta, carrying
from controller.core.plan import Plan
from controller.core.policy import AHEAD_H
from controller.shell.fingerprint import single_threaded
from simulators.scenarios import Scenario, drifted
from simulators.study import study_of
from simulators.truth import truth
from simulators.worlds import Floats, World, true_change

WORLDS, RUNS, HOURS = ("three", "feed", "late", "heavy"), 12, 36
BELIEF_EVERY_H, FROM_H = 3, 2  # a belief costs as much as a decision
LEVEL, LOW, HIGH = 0.95, 0.93, 0.97
KINDS = ("settled", "sealed", "posterior dealt", "posterior pick", "ahead dealt", "ahead pick")


class Errors(msgspec.Struct, frozen=True, eq=False):
    """Errors over standard errors of a run, by kind: (n, M)."""

    scenario: str
    seed: int
    z: dict[str, Floats]


class Watcher(Trimtab):
    """The production decision, which keeps what it was made from."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.hour = scenario, 0
        self.settled: dict[int, tuple[int, Evidence]] = {}  # deal -> hour that it served, its evidence then
        self.sealed: dict[int, Evidence] = {}
        self.tests: set[int] = set()
        self.z: dict[str, list[Floats]] = {kind: [] for kind in KINDS}

    def turn(self, plan: Plan, experiment: Experiment, seen: Statistics, now_ms: int) -> Experiment:
        """Decide, and look at what the decision had."""
        after = super().turn(plan, experiment, seen, now_ms)
        live = live_evidence(plan, after, seen.cells)
        for evidence in live:
            self.settled.setdefault(evidence.deal, (self.hour, evidence))
        self.sealed |= {e.deal: e for e in (*live, *after.evidence)}
        served = experiment.deals[experiment.carry.deal]
        if after.carry.deal == served.id or served.stage != "explore":
            self.tests.add(served.id)
        if self.hour % BELIEF_EVERY_H == FROM_H:
            self._believed(plan, carrying(after, hypers=experiment.carry.hypers), live, seen.end_ms)
        self.hour += 1
        return after

    def _believed(self, plan: Plan, experiment: Experiment, live: tuple[Evidence, ...], end_ms: int) -> None:
        at = (end_ms - (experiment.carry.started_ms or 0)) / HOUR_MS
        believed = believe(plan, experiment, live, at)
        dealt = [arm.theta for arm in experiment.deals[experiment.carry.deal].arms[1:]]
        picked = [experiment.carry.pick.theta] if experiment.carry.pick else []
        for name, thetas in (("dealt", dealt), ("pick", picked)):
            if thetas and len(believed.groups) == 1:
                unit = np.concatenate([points(plan, believed.space, believed.groups, theta) for theta in thetas])
                now = true_change(_world(self.scenario, at), _stacked(thetas))[:, judged_metrics(plan)]
                then = truth(self.scenario, self.hour + 1, thetas, seen=self.hour)[:, judged_metrics(plan)]
                for kind, true, span_h in (("posterior", now, 0.0), ("ahead", then, AHEAD_H)):
                    mean, sd = believed.posterior.mean_sd(unit, believed.groups[0], at, span_h)
                    self.z[f"{kind} {name}"].append((mean.T - true) / sd.T)

    def errors(self, seed: int, metrics: int) -> Errors:
        """All that was seen, of deals that served one window and are sealed."""
        for deal, (hour, first) in self.settled.items():
            if deal not in self.tests and hour + 7 < self.hour:  # a lateness of six hours
                true = true_change(self.scenario.at(hour), _stacked(first.thetas))
                for kind, evidence in (("settled", first), ("sealed", self.sealed[deal])):
                    self.z[kind].append(standardised(evidence, true))
        none = [np.zeros((0, metrics))]
        return Errors(self.scenario.name, seed, {kind: np.concatenate(z or none) for kind, z in self.z.items()})


def measured(runs: int | None, spread: Spread) -> list[Figure]:
    """Coverage in every world."""
    jobs = list(product(WORLDS, range(runs or RUNS)))
    found = spread(watched, jobs, "intervals")
    figures = []
    for name in WORLDS:
        world, mine = SCENARIOS[name].world, [errors for errors in found if errors.scenario == name]
        for kind in KINDS:
            figures += coverage(world, kind, mine)
    return figures


def watched(job: tuple[str, int]) -> Errors:
    """Play a study and keep the errors of everything it believed."""
    name, seed = job
    scenario = of_run(name, seed)
    with single_threaded():
        plan = study_of(scenario.world, seed).plan
        watcher = Watcher(scenario)
        hours: list[Hour] = list(hours_of(scenario, plan, watcher, seed, HOURS))
    assert len(hours) == HOURS
    return watcher.errors(seed, len(plan.metrics))


def coverage(world: World, kind: str, found: list[Errors]) -> list[Figure]:
    """A metric's coverage, and what lies below and above its interval."""
    z, run = np.concatenate([e.z[kind] for e in found]), np.concatenate([[e.seed] * len(e.z[kind]) for e in found])
    edge, figures = stats.norm.isf((1.0 - LEVEL) / 2.0), []
    for m, metric in enumerate(_judged(world) if kind not in KINDS[:2] else [metric.name for metric in world.metrics]):
        known = np.isfinite(z[:, m])
        if not known.any():
            continue
        error, cluster = z[known, m], run[known]
        value, se = clustered((np.abs(error) <= edge).astype(np.float64), cluster)
        low, high = (float(np.mean(tail > edge)) for tail in (-error, error))
        asked, holds = f"{LOW:.0%} to {HIGH:.0%}", bool(LOW <= value <= HIGH)
        what = f"{metric}: coverage ({low:.1%} too low, {high:.1%} too high)"
        figures.append(Figure(f"{world.name}, {kind}", what, value, se, len(error), asked, holds))
    return figures


def _judged(world: World) -> list[str]:
    plan = study_of(world).plan
    return [plan.metrics[m].name for m in judged_metrics(plan)]


def standardised(evidence: Evidence, true: Floats) -> Floats:
    """(A-1, M) errors over standard errors, of all traffic."""
    changes, metrics = evidence.changes, true.shape[-1]
    variance = np.diagonal(changes.covariance[:metrics, 0], axis1=1, axis2=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((changes.change[:metrics, 0].T - true) / np.sqrt(variance.T))


def _world(scenario: Scenario, hour: float) -> World:
    """The world as it answers at a moment."""
    return scenario.world if scenario.drift is None else drifted(scenario.world, scenario.drift, hour)


def _stacked(thetas: tuple[Theta, ...] | list[Theta]) -> dict[str, Floats]:
    return {name: np.array([theta[name] for theta in thetas]) for name in thetas[0]}
