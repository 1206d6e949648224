"""Runs' scores as means with standard errors: a record for JSON, a table for people."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from rich.table import Table

from benchmarks._arena_run import TRIMTAB
from benchmarks._arena_scores import Scores

WORST = 0.999  # quantile of arm-hours
Mean = tuple[float, float]  # mean, standard error (NaN with one run)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A controller in a scenario; a figure is (mean, standard error).

    "all" is over the scenarios whose limits can be measured, "hard" over the others; each run counts as one draw.
    """

    scenario: str
    controller: str
    runs: int
    score_24: Mean | None
    score_end: Mean | None
    strict_end: Mean | None
    served_end: Mean | None
    feasible_end: Mean | None
    held: Mean | None
    held_from_h: float | None  # median
    regained: Mean | None
    violating: Mean | None
    excess: Mean | None
    worst: float  # 99.9th percentile of arm-hours' excess
    promoted: Mean | None
    cpu_s: Mean | None


class Ahead(msgspec.Struct, frozen=True):
    """Trimtab's score at the end minus a peer's, paired by (scenario, seed)."""

    scenario: str
    peer: str
    difference: Mean


def lines(scores: Sequence[Scores], hard: frozenset[str]) -> list[Line]:
    """A line per scenario and controller, and per controller one over all scenarios and one over the hard ones."""
    scenarios = list(dict.fromkeys(s.scenario for s in scores))
    controllers = list(dict.fromkeys(s.controller for s in scores))
    made = [
        _line(scenario, controller, [s for s in scores if s.scenario == scenario and s.controller == controller])
        for scenario in scenarios
        for controller in controllers
    ]
    made += [
        _line(group, controller, [s for s in scores if s.controller == controller and (s.scenario in hard) == own])
        for group, own in (("all", False), ("hard", True))
        for controller in controllers
    ]
    return [line for line in made if line.runs]


def ahead(scores: Sequence[Scores], hard: frozenset[str]) -> list[Ahead]:
    """Trimtab against the peer with the best mean score at the end, per scenario and over all but the hard ones."""
    found = []
    for scenario in [*dict.fromkeys(s.scenario for s in scores), "all"]:
        by: dict[str, dict[tuple[str, int], float]] = {}
        for s in scores:
            if s.score_end is not None and scenario in (s.scenario, "" if s.scenario in hard else "all"):
                by.setdefault(s.controller, {})[s.scenario, s.seed] = s.score_end
        own = by.pop(TRIMTAB, None)
        if own and by:
            best = max(by, key=lambda name: float(np.mean(list(by[name].values()))))
            pairs = [own[key] - by[best][key] for key in own.keys() & by[best].keys()]
            mean = _mean(sorted(pairs))
            found += [Ahead(scenario, best, mean)] if mean else []
    return found


def _line(scenario: str, controller: str, runs: list[Scores]) -> Line:
    def mean(figure: Callable[[Scores], float | None]) -> Mean | None:
        return _mean([value for value in map(figure, runs) if value is not None])

    held_from = [s.held_from_h for s in runs if s.held_from_h is not None]
    excesses = [excess for s in runs for excess in s.excesses]
    return Line(
        scenario=scenario,
        controller=controller,
        runs=len(runs),
        score_24=mean(lambda s: s.score_24),
        score_end=mean(lambda s: s.score_end),
        strict_end=mean(lambda s: s.strict_end),
        served_end=mean(lambda s: s.served_end),
        feasible_end=mean(lambda s: s.feasible_end),
        held=mean(lambda s: s.held),
        held_from_h=float(np.median(held_from)) if held_from else None,
        regained=mean(lambda s: s.regained),
        violating=mean(lambda s: s.violating),
        excess=mean(lambda s: s.excess),
        worst=float(np.quantile(excesses, WORST)) if excesses else 0.0,
        promoted=mean(lambda s: s.promoted),
        cpu_s=mean(lambda s: s.cpu_s),
    )


def _mean(values: Sequence[float]) -> Mean | None:
    if not values:
        return None
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return float(np.mean(values)), error


def table(made: Sequence[Line], compared: Sequence[Ahead], missing: dict[str, str], hours: int) -> Table:
    """Everything that was measured, a loss as a loss."""
    shown = Table(title=f"true gain / best feasible gain by the closed form; {hours} h; mean +- standard error")
    columns = (
        "world",
        "controller",
        "24 h",
        f"{hours} h",
        "no slack",
        "served",
        "feasible",
        "held",
        "from h",
        "regained",
    )
    for name in (*columns, "violating", "worst", "promoted", "cpu s"):
        shown.add_column(name, justify="left" if name in columns[:2] else "right")
    before = None
    for line in made:
        if before not in (None, line.scenario):
            shown.add_section()
        before = line.scenario
        shown.add_row(line.scenario, line.controller, *_cells(line))
    notes = [_said(a) for a in compared]
    notes += [f"{name}: not run, {what}" for name, what in missing.items()]
    shown.caption = "\n".join(notes) or None
    return shown


def _said(a: Ahead) -> str:
    verb = "ahead of" if a.difference[0] >= 0 else "BEHIND"
    return f"{a.scenario}: trimtab {verb} the best peer here, {a.peer}, by {_figure(a.difference, signed=False)}"


def _cells(line: Line) -> list[str]:
    scores = (line.score_24, line.score_end, line.strict_end, line.served_end)
    return [
        *map(_figure, scores),
        *(_percent(figure) for figure in (line.feasible_end, line.held)),
        "-" if line.held_from_h is None else f"{line.held_from_h:.0f}",
        _percent(line.regained),
        _percent(line.violating, 1),
        f"{line.worst * 100:.1f} pp",
        _percent(line.promoted),
        "-" if line.cpu_s is None else f"{line.cpu_s[0]:.3f}",
    ]


def _figure(value: Mean | None, *, signed: bool = True) -> str:
    if value is None:
        return "-"
    mean = value[0] if signed else abs(value[0])
    return f"{mean:.2f}" if np.isnan(value[1]) else f"{mean:.2f} +- {value[1]:.2f}"


def _percent(value: Mean | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value[0]:.{digits}%}"
