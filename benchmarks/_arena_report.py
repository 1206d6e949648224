"""Runs' scores as means with standard errors, a record for JSON.

A run is one draw: everything within it (its hours, arms, promotions) is first made one figure, so standard errors are
clustered by run. Over several worlds a mean is that of the worlds' means, its error made from the runs within them:
the worlds are given, not drawn.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from benchmarks._arena_run import TRIMTAB
from benchmarks._arena_scores import Scores

WORST = 0.999  # quantile of arm-hours, pooled over runs
RESAMPLED = 200  # times that runs are drawn again for a quantile's standard error
ALL, HARD = "all", "beyond noise"  # worlds whose limits can be measured, and the others
Mean = tuple[float, float | None]  # figure, standard error (None with one run of a world)


def _later(s: Scores) -> list[float]:
    """Scores of all checks from 24 h on: a peer whose pick is infeasible every third hour may end on a good one."""
    return [score for score in s.series[23:] if score is not None]


def _of_promotions(figure: Callable[[Scores], list[float]]) -> Callable[[Scores], float | None]:
    return lambda s: float(np.mean(figure(s))) if s.promotions else None


FIGURES: dict[str, Callable[[Scores], float | None]] = {
    **{
        name: (lambda s, name=name: getattr(s, name))  # type: ignore[misc]  # mypy infers no lambda with a default
        for name in (
            "score_24",
            "score_end",
            "strict_24",
            "strict_end",
            "served_24",
            "served_end",
            "regret",
            "feasible_end",
            "strict_feasible_end",
            "held",
            "regained",
            "violating",
            "excess",
            "strict_violating",
            "strict_excess",
            "promoted",
            "cpu_s",
            "cpu_max_s",
        )
    },
    "score_later": lambda s: float(np.mean(_later(s))) if _later(s) else None,
    "infeasible_later": lambda s: 1.0 - float(np.mean(s.feasible[23:])) if _later(s) else None,
    "promoted_good": _of_promotions(lambda s: [float(p.good) for p in s.promotions]),
    "claim_bias": _of_promotions(lambda s: [p.claimed - p.gain for p in s.promotions]),
    "claim_bias_then": _of_promotions(lambda s: [p.claimed - p.gain_then for p in s.promotions]),
    "claim_z": _of_promotions(lambda s: [(p.claimed - p.gain_then) / p.claimed_sd for p in s.promotions]),
}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A controller in a scenario, or over several (`ALL`, `HARD`)."""

    scenario: str
    controller: str
    runs: int
    figures: dict[str, Mean | None]  # by their names in FIGURES
    held_from_h: float | None  # median over runs, one that does not hold as never; None: most do not
    worst: Mean  # WORST quantile of arm-hours' violations, the fresh windows apart
    worst_fresh: Mean  # the same of the fresh windows


class Ahead(msgspec.Struct, frozen=True):
    """Trimtab's score at the end minus the best peer's, paired by (scenario, seed)."""

    scenario: str
    peer: str
    difference: Mean
    elsewhere: bool  # the peer was chosen on other seeds than those compared


def lines(scores: Sequence[Scores], hard: frozenset[str]) -> list[Line]:
    """A line per scenario and controller, and per controller one over all scenarios and one over the hard ones."""
    scenarios = list(dict.fromkeys(s.scenario for s in scores))
    controllers = list(dict.fromkeys(s.controller for s in scores))
    groups = {name: {name} for name in scenarios}
    groups |= {ALL: set(scenarios) - hard, HARD: set(scenarios) & hard}
    return [
        _line(group, controller, runs)
        for group, members in groups.items()
        for controller in controllers
        if (runs := [s for s in scores if s.scenario in members and s.controller == controller])
    ]


def best_peers(made: Sequence[Line]) -> dict[str, str]:
    """The peer with the best mean score at the end in every scenario (and group) of these lines."""
    best: dict[str, tuple[float, str]] = {}
    for line in made:
        figure = line.figures["score_end"]
        if line.controller != TRIMTAB and figure is not None:
            best[line.scenario] = max(best.get(line.scenario, (-np.inf, "")), (figure[0], line.controller))
    return {scenario: peer for scenario, (_, peer) in best.items()}


def ahead(scores: Sequence[Scores], hard: frozenset[str], elsewhere: Mapping[str, str] | None = None) -> list[Ahead]:
    """Trimtab against the best peer, per scenario and over all but the hard ones.

    `elsewhere`: the best peers by other seeds; by these very runs where there are none, which favours the peer.
    """
    elsewhere, here = elsewhere or {}, best_peers(lines(scores, hard))
    end = {(s.controller, s.scenario, s.seed): s.score_end for s in scores if s.score_end is not None}
    found = []
    for scenario in [*dict.fromkeys(s.scenario for s in scores), ALL]:
        peer = elsewhere.get(scenario, here.get(scenario))
        pairs: dict[str, list[float]] = {}
        for (controller, name, seed), own in end.items():
            counted = name == scenario or (scenario == ALL and name not in hard)
            if controller == TRIMTAB and counted and peer and (peer, name, seed) in end:
                pairs.setdefault(name, []).append(own - end[peer, name, seed])
        if peer and pairs:
            found.append(Ahead(scenario, peer, _over_worlds(list(pairs.values())), scenario in elsewhere))
    return found


def _line(scenario: str, controller: str, runs: list[Scores]) -> Line:
    held_from = [s.held_from_h or np.inf for s in runs if s.held is not None]
    median = float(np.median(held_from)) if held_from else np.inf
    return Line(
        scenario=scenario,
        controller=controller,
        runs=len(runs),
        figures={name: mean(runs, figure) for name, figure in FIGURES.items()},
        held_from_h=median if np.isfinite(median) else None,
        worst=_worst([s.violations for s in runs]),
        worst_fresh=_worst([s.fresh_violations for s in runs]),
    )


def mean(runs: Sequence[Scores], figure: Callable[[Scores], float | None]) -> Mean | None:
    """A figure's mean over worlds of the means over runs; None where no run has it."""
    by_world: dict[str, list[float]] = {}
    for s in runs:
        if (value := figure(s)) is not None:
            by_world.setdefault(s.scenario, []).append(value)
    return _over_worlds(list(by_world.values())) if by_world else None


def _over_worlds(values: Sequence[Sequence[float]]) -> Mean:
    level = float(np.mean([np.mean(v) for v in values]))
    if min(map(len, values)) < 2:
        return level, None
    return level, float(np.sqrt(sum(np.var(v, ddof=1) / len(v) for v in values)) / len(values))


def _worst(by_run: Sequence[tuple[float, ...]]) -> Mean:
    """The quantile over all arm-hours, and its spread when whole runs are drawn again."""
    arrays = [np.array(violations) for violations in by_run if violations]
    if not arrays:
        return 0.0, None
    rng = np.random.default_rng(0)
    drawn = [
        np.quantile(np.concatenate([arrays[i] for i in rng.integers(0, len(arrays), len(arrays))]), WORST)
        for _ in range(RESAMPLED if len(arrays) > 1 else 0)
    ]
    error = float(np.std(drawn, ddof=1)) if drawn else None
    return float(np.quantile(np.concatenate(arrays), WORST)), error
