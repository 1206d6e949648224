"""Decision: CPU seconds of one decision of a wide study, after three days and after thirty.

Claims, on one core: 12 metrics, 20 weights, 3 segments and 72 windows of 16 arms take under 5 s; 30 days of them under
10 s. The past is made up (a smooth response with noise); the newest window goes through the whole decision, from its
sums to the next table. A decision starts from the hyperparameters of the one before, as it does in a study.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from controller.assignment import ALL, Arm
from controller.core.belief import believe
from controller.core.decide import decide
from controller.core.estimate import Changes, Metric
from controller.core.events import Component
from controller.core.evidence import remembered
from controller.core.experiment import Evidence, Experiment, Statistics, Theta, baseline, carrying, initial, issue
from controller.core.plan import Plan
from controller.core.rollout import Deal, RolloutPlan, TrafficPlan, shuffled
from controller.core.safety import Guardrail, SafetyPlan
from controller.core.space import Space, Weight
from controller.core.windows import Cell, Quality, WindowPlan
from controller.shell.fingerprint import single_threaded

T = TypeVar("T")

HOUR_MS = 3_600_000
METRICS, WEIGHTS, SEGMENTS, ARMS, BUCKETS = 12, 20, 3, 16, 1000
LIMITS_S = {72: 5.0, 720: 10.0}  # windows: CPU seconds that are claimed
SE = 0.01  # of a change in one segment of one deal


class Measure(msgspec.Struct, frozen=True):
    """One decision."""

    windows: int
    rows: int  # that its posterior is conditioned on
    believe_s: float
    decide_s: float  # all of it
    claim_s: float


def main(argv: Sequence[str]) -> int:
    """Measure and print; status 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks decision", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    with single_threaded():
        measures = [measure(plan(), windows) for windows in LIMITS_S]
    if options.json:
        print(msgspec.json.encode(measures).decode())
    else:
        _print(measures)
    return int(any(m.decide_s > m.claim_s for m in measures))


def plan() -> Plan:
    """A wide study: every metric but the first has a guardrail."""
    names = [f"m{i}" for i in range(METRICS)]
    return Plan(
        study="wide",
        seed=1,
        form="linear",
        salt="wide:",
        buckets=BUCKETS,
        window=WindowPlan(HOUR_MS, 300_000, 6 * HOUR_MS, 6 * HOUR_MS, 3 * HOUR_MS),
        segments=tuple(f"s{k}" for k in range(SEGMENTS)),
        components=(Component("views"), *(Component(name) for name in names)),
        weights=tuple(Weight(f"w{j}", -1.0, 1.0, 0.0) for j in range(WEIGHTS)),
        metrics=tuple(Metric(name, name, "views") for name in names),
        objective={names[0]: 1.0},
        guardrails=tuple(Guardrail(name, min_change=-0.02) for name in names[1:]),
        traffic=TrafficPlan(explore_arms=ARMS, explore_share=0.32),
        rollout=RolloutPlan(10**4 * HOUR_MS, 10**4 * HOUR_MS, 24 * HOUR_MS, 6 * HOUR_MS),
        safety=SafetyPlan(),
    )


def measure(study: Plan, windows: int) -> Measure:
    """The decision after so many windows, and the belief within it."""
    experiment, seen = past(study, windows)
    earlier = msgspec.structs.replace(experiment, evidence=experiment.evidence[:-1])
    experiment = carrying(experiment, hypers=believe(study, earlier, (), windows - 1.0).hypers)
    believe_s, believed = _timed(lambda: believe(study, experiment, (), float(windows)))
    decide_s, _ = _timed(lambda: decide(study, experiment, seen, seen.end_ms, np.random.default_rng(3), True))
    return Measure(windows, believed.posterior.rows, believe_s, decide_s, LIMITS_S[windows])


def past(study: Plan, windows: int) -> tuple[Experiment, Statistics]:
    """The state after so many windows of exploration, and the sums of the newest one."""
    rng = np.random.default_rng((2, windows))
    evidence = tuple(told(study, hour, rng) for hour in range(windows - 1))
    cell = _window(study, rng)
    experiment = remembered(msgspec.structs.replace(initial(study), evidence=evidence), windows * HOUR_MS, [cell])
    arms = [Arm(f"e{a}", "explore", theta) for a, theta in enumerate(_vectors(study, rng))]
    deal = Deal(windows, "explore", (baseline(study), *arms), shuffled(BUCKETS, ARMS, 0.32, rng), experiment.history)
    experiment, _ = issue(study, carrying(experiment, started_ms=0, arms=ARMS * windows), deal, windows * HOUR_MS)
    cells = {(windows * HOUR_MS, experiment.carry.version): cell}
    events = int(cell.events.sum())
    return experiment, Statistics(windows * HOUR_MS, cells, np.zeros(BUCKETS, np.int64), Quality(events), 0, events)


def told(study: Plan, hour: int, rng: np.random.Generator) -> Evidence:
    """What a deal of new vectors said: one direction of the space pays and another costs."""
    thetas = _vectors(study, rng)
    unit = Space(study.weights).to_unit(np.array([theta[ALL] for theta in thetas])) - 0.5
    response = 0.1 * unit[:, :4].sum(axis=1) - 0.1 * (unit**2).sum(axis=1)
    change = np.stack([response * np.cos(m) for m in range(METRICS)])[:, None] + SE * rng.standard_normal(
        (METRICS, SEGMENTS + 1, ARMS)
    )
    noise = np.broadcast_to(SE**2 * (np.eye(ARMS) + 0.2), (METRICS, SEGMENTS + 1, ARMS, ARMS))
    level = np.ones((METRICS, SEGMENTS + 1))
    clusters = np.full((SEGMENTS + 1, ARMS + 1), BUCKETS // ARMS)
    return Evidence(hour, hour + 0.5, thetas, Changes(change, noise, level, 0.01 * level, clusters))


def _vectors(study: Plan, rng: np.random.Generator) -> tuple[Theta, ...]:
    theta = np.clip(0.3 * rng.standard_normal((ARMS, WEIGHTS)), -1.0, 1.0)
    return tuple(dict.fromkeys((ALL, *study.segments), tuple(float(w) for w in row)) for row in theta)


def _window(study: Plan, rng: np.random.Generator) -> Cell:
    events: NDArray[np.int64] = rng.poisson(60.0, (SEGMENTS + 1, BUCKETS))
    counts = rng.poisson(events[..., None] * 10.0, (*events.shape, len(study.components)))
    return Cell(counts * 1_000_000, events)


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.process_time()
    done = work()
    return time.process_time() - started, done


def _print(measures: list[Measure]) -> None:
    table = Table(
        title=f"{METRICS} metrics, {WEIGHTS} weights, {SEGMENTS} segments, {ARMS} arms; CPU seconds, one core"
    )
    for name in ("windows", "rows", "belief", "decision", "claimed", "share of the claim"):
        table.add_column(name, justify="right")
    for m in measures:
        figures = (f"{m.believe_s:.1f}", f"{m.decide_s:.1f}", f"under {m.claim_s:.0f}", f"{m.decide_s / m.claim_s:.0%}")
        table.add_row(str(m.windows), str(m.rows), *figures)
    Console().print(table)
