"""One run: a scenario's traffic, hour by hour, against one controller.

Everyone gets the same audience, half of the traffic, the same arms and estimates, less the noise that the buckets' past
foretells. Sums are folded and evidence is made by the production code; Trimtab is the production decision, a peer a
`Tuner` whose vectors are dealt at random like Trimtab's.
An amount that arrives late is seen as far as it has arrived, hour by hour, until its window is sealed.
What is left out beside events: delays of minutes, the grace in which the table before still serves, the breaker.
"""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec
import numpy as np

from benchmarks._arena_ax import Ax
from benchmarks._arena_botorch import Qlognei, Scbo
from benchmarks._arena_optuna import OptunaTuner
from benchmarks._arena_peers import Coordinates, HyperZeroLike, Random, Static
from benchmarks._arena_protocol import Brief, Tuner, brief_of, history_of
from benchmarks._arena_vizier import Vizier
from controller.assignment import ALL, Arm
from controller.core import operate, rollout
from controller.core.decide import decide
from controller.core.evidence import fold, live_evidence, remembered, watched
from controller.core.experiment import Experiment, Statistics, Theta, baseline, carrying, initial, issue
from controller.core.plan import Plan
from controller.core.rollout import Deal
from controller.core.space import Space
from controller.core.step import seeded
from controller.core.windows import Cell, Quality
from controller.shell.fingerprint import single_threaded
from simulators.closed_loop import START_MS
from simulators.scenarios import Scenario
from simulators.study import study_of
from simulators.sums import arrivals, audience
from simulators.worlds import HOUR_MS, Floats

TRIMTAB = "trimtab"
# A peer and for how many windows it holds its vectors: the better of 1 and 3 by score at 72 h, on seeds 100 and 101 of
# quick, three and feed; `--cadence` tries another. SCBO was tried on quick, three and eight; qLogNEI, Ax and Vizier
# have 3 for their time, 1 was not tried: dealing anew every window takes them 2 to 11 s of a core a window.
PEERS: dict[str, tuple[Callable[[Brief], Tuner], int]] = {
    "random": (Random, 3),
    "static50": (Static, 3),
    "coordinates": (Coordinates, 3),
    "hyperzero-like": (HyperZeroLike, 1),
    "scbo": (Scbo, 1),
    "qlognei": (Qlognei, 3),
    "ax": (Ax, 3),
    "vizier": (Vizier, 3),
    "optuna-tpe": (lambda brief: OptunaTuner(brief, "tpe"), 3),
    "optuna-gp": (lambda brief: OptunaTuner(brief, "gp"), 3),
}
CONTROLLERS = (TRIMTAB, *PEERS)


class Claim(msgspec.Struct, frozen=True):
    """The gain that a vector showed in its confirm sample, with which it entered ramp."""

    theta: Theta
    gain: float
    sd: float
    sample: tuple[int, ...]  # the hours it was taken in


class Hour(msgspec.Struct, frozen=True):
    """What an hour was served with, and what was recommended at its end."""

    arms: tuple[tuple[float, Theta], ...]  # share of the buckets, vector
    recommended: Theta | None  # None: the baseline
    stage: str  # that served it
    cpu_s: float  # of the decision at its end
    claim: Claim | None = None  # of the vector that was promoted at its end


class Run(msgspec.Struct, frozen=True):
    """A controller's study of a scenario."""

    scenario: str
    controller: str
    seed: int
    hours: tuple[Hour, ...]


class Player(Protocol):
    """Turns what a settled window says into the state that holds the next table."""

    def turn(self, plan: Plan, experiment: Experiment, seen: Statistics, now_ms: int) -> Experiment:
        """Decide on the window that ends at `seen.end_ms` and issue a table."""
        ...

    def recommend(self, plan: Plan, experiment: Experiment, seen: Statistics) -> Theta | None:
        """The vector to be promoted now."""
        ...


class Trimtab:
    """The production decision."""

    def turn(self, plan: Plan, experiment: Experiment, seen: Statistics, now_ms: int) -> Experiment:
        """`decide`, with the randomness of the step."""
        return decide(plan, experiment, seen, now_ms, seeded(plan.seed)(seen.end_ms), True)[0]

    def recommend(self, plan: Plan, experiment: Experiment, seen: Statistics) -> Theta | None:
        """The pick of the last decision."""
        return experiment.carry.pick.theta if experiment.carry.pick else None


class Peer:
    """A tuner, whose vectors are dealt for `cadence` windows each."""

    def __init__(self, tuner: Tuner, cadence: int, seed: int) -> None:
        self.tuner, self.cadence = tuner, cadence
        self.held, self.rng = cadence, np.random.default_rng((seed, 7))

    def turn(self, plan: Plan, experiment: Experiment, seen: Statistics, now_ms: int) -> Experiment:
        """The same deal again, or the tuner's next one."""
        window = [cell for (end, _), cell in seen.cells.items() if end == seen.end_ms]
        experiment = carrying(remembered(experiment, seen.end_ms, window), decided_through_ms=seen.end_ms)
        experiment, deal = watched(plan, experiment, seen.cells), experiment.deals[experiment.carry.deal]
        if self.held >= self.cadence:
            history = history_of(plan, (*experiment.evidence, *live_evidence(plan, experiment, seen.cells)))
            deal, self.held = self._dealt(plan, experiment, self.tuner.propose(history)), 0
        self.held += 1
        return issue(plan, experiment, deal, now_ms)[0]

    def recommend(self, plan: Plan, experiment: Experiment, seen: Statistics) -> Theta | None:
        """The tuner's, for everyone."""
        history = history_of(plan, (*experiment.evidence, *live_evidence(plan, experiment, seen.cells)))
        unit = self.tuner.recommend(history)
        return None if unit is None else _theta(plan, unit)

    def _dealt(self, plan: Plan, experiment: Experiment, unit: Floats) -> Deal:
        id_ = experiment.carry.deals + 1
        arms = [Arm(f"p{id_}-{k}", "explore", _theta(plan, u)) for k, u in enumerate(unit)]
        buckets = rollout.shuffled(plan.buckets, len(arms), plan.traffic.explore_share, self.rng)
        return Deal(id_, "explore", (baseline(plan), *arms), buckets, experiment.history)


def player(name: str, plan: Plan, cadence: int | None = None) -> Player:
    """A controller by its name. Raises `Missing` when it needs what is not installed."""
    if name == TRIMTAB:
        return Trimtab()
    make, own = PEERS[name]
    return Peer(make(brief_of(plan)), cadence or own, plan.seed)


def run(scenario: Scenario, name: str, seed: int, hours: int, cadence: int | None = None) -> Run:
    """Let a controller tune a scenario. Raises `Missing` when it cannot run here."""
    with single_threaded():
        plan = study_of(scenario.world, seed).plan
        return Run(scenario.name, name, seed, tuple(hours_of(scenario, plan, player(name, plan, cadence), seed, hours)))


def hours_of(scenario: Scenario, plan: Plan, who: Player, seed: int, hours: int) -> Iterator[Hour]:
    """The hours of a run as they are played: whoever has seen enough may stop."""
    people = audience(scenario.world, seed, plan.salt)
    weights, components = (tuple(part.name for part in parts) for parts in (plan.weights, plan.components))
    experiment, _ = operate.begin(plan, initial(plan), 1, START_MS)
    coming: dict[tuple[int, int], tuple[Cell, ...]] = {}  # (window end, version) -> as arrived, by hours since then
    for hour in range(hours):
        begin_ms = START_MS + hour * plan.window.length_ms
        deal, stage = experiment.deals[experiment.carry.deal], experiment.carry.stage
        end_ms = begin_ms + plan.window.length_ms
        coming[end_ms, experiment.carry.version] = arrivals(
            scenario.at(hour),
            people,
            deal,
            weights,
            components,
            begin_ms,
            late=scenario.late,
            wild=hour in scenario.bad_hours,
        )
        cells = {key: ages[min((end_ms - key[0]) // HOUR_MS, len(ages) - 1)] for key, ages in coming.items()}
        seen = _statistics(plan, cells, end_ms, cells[end_ms, experiment.carry.version])
        started = time.process_time()
        before, experiment = experiment, who.turn(plan, experiment, seen, end_ms + plan.window.grace_ms)
        recommended = who.recommend(plan, experiment, seen)
        cpu_s = time.process_time() - started
        yield Hour(_shares(deal), recommended, stage, cpu_s, _claim(plan, before, experiment, hour))
        experiment, cells = _sealed(plan, experiment, cells, end_ms + plan.window.grace_ms)
        coming = {key: coming[key] for key in cells}


def _claim(plan: Plan, before: Experiment, after: Experiment, hour: int) -> Claim | None:
    """What the decision after an hour claimed when it began a ramp."""
    carry, vector = before.carry, before.carry.candidate
    if (carry.stage, after.carry.stage) != ("confirm", "ramp"):
        return None
    if vector is None or not after.carry.shares:
        return None
    begin, end = (
        (ms - START_MS) // plan.window.length_ms for ms in (carry.stage_since_ms, carry.claim_through_ms or 0)
    )
    sample = tuple(range(int(begin), min(int(end), hour + 1)))
    return Claim(vector.theta, after.carry.shares[0].gain, after.carry.shares[0].se, sample)


def _statistics(plan: Plan, cells: dict[tuple[int, int], Cell], end_ms: int, newest: Cell) -> Statistics:
    """All unsealed sums; units are not simulated, so none is counted."""
    events = int(newest.events.sum())
    quality = Quality(accepted=events)
    return Statistics(end_ms, dict(cells), np.zeros(plan.buckets, np.int64), quality, 0, events)


def _sealed(
    plan: Plan, experiment: Experiment, cells: dict[tuple[int, int], Cell], now_ms: int
) -> tuple[Experiment, dict[tuple[int, int], Cell]]:
    """Fold the windows whose lateness has passed, as the step does after its decisions."""
    for end in sorted({end for end, _ in cells if end + plan.window.lateness_ms <= now_ms}):
        experiment = fold(plan, experiment, end, {version: cell for (e, version), cell in cells.items() if e == end})
        cells = {key: cell for key, cell in cells.items() if key[0] != end}
    return experiment, cells


def _shares(deal: Deal) -> tuple[tuple[float, Theta], ...]:
    share = np.bincount(deal.buckets, minlength=len(deal.arms)) / len(deal.buckets)
    return tuple((float(s), arm.theta) for s, arm in zip(share, deal.arms, strict=True))


def _theta(plan: Plan, unit: Floats) -> Theta:
    theta = tuple(float(w) for w in Space(plan.weights).to_theta(unit))
    return dict.fromkeys((ALL, *plan.segments), theta)
