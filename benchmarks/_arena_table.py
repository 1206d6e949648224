"""The arena's figures for people: one table of what was won, one of what it cost; a loss is shown as a loss.

"24 h on" is the mean score of all checks from the 24th hour on, "infeasible" the share of them whose pick is
beyond a limit.
"""

from collections.abc import Sequence

from rich.table import Table

from benchmarks._arena_report import Ahead, Line, Mean

WON = (
    "24 h",
    "{hours} h",
    "24 h on",
    "infeasible",
    "strict",
    "served",
    "regret",
    "feasible",
    "strict",
    "held",
    "from h",
    "regained",
)
COST = (
    "violating",
    "strict",
    "sum excess",
    "worst",
    "first 2 h",
    "promoted",
    "good",
    "claim bias",
    "own hours",
    "z",
    "cpu s",
    "max s",
)


def tables(made: Sequence[Line], compared: Sequence[Ahead], missing: dict[str, str], hours: int) -> tuple[Table, Table]:
    """What was won, and what it cost."""
    won = _table(
        f"true gain / best feasible gain by the closed form; {hours} h; mean +- standard error, clustered by run",
        [name.format(hours=hours) for name in WON],
        [(line, _won(line)) for line in made],
    )
    notes = [_said(a) for a in compared]
    won.caption = "\n".join([*notes, *(f"{name}: not run, {what}" for name, what in missing.items())]) or None
    cost = _table(
        "violations are shares of all traffic; worst: 99.9th percentile of arm-hours over the limit, "
        "the first two windows and those after a jump apart",
        COST,
        [(line, _cost(line)) for line in made],
    )
    return won, cost


def _table(title: str, columns: Sequence[str], rows: Sequence[tuple[Line, list[str]]]) -> Table:
    shown = Table(title=title)
    for name in ("world", "controller", "runs"):
        shown.add_column(name)
    for name in columns:
        shown.add_column(name, justify="right")
    before = None
    for line, cells in rows:
        if before not in (None, line.scenario):
            shown.add_section()
        before = line.scenario
        shown.add_row(line.scenario, line.controller, str(line.runs), *cells)
    return shown


def _won(line: Line) -> list[str]:
    figures = line.figures
    return [
        *(_figure(figures[name]) for name in ("score_24", "score_end", "score_later")),
        _percent(figures["infeasible_later"]),
        *(_figure(figures[name]) for name in ("strict_end", "served_end")),
        _points(figures["regret"], 2),
        *(_percent(figures[name]) for name in ("feasible_end", "strict_feasible_end", "held")),
        "-" if line.held_from_h is None else f"{line.held_from_h:.0f}",
        _percent(figures["regained"]),
    ]


def _cost(line: Line) -> list[str]:
    figures = line.figures
    return [
        *(_percent(figures[name], 1) for name in ("violating", "strict_violating")),
        _points(figures["excess"], 3),
        *(_points(value, 1) for value in (line.worst, line.worst_fresh)),
        *(_percent(figures[name]) for name in ("promoted", "promoted_good")),
        *(_points(figures[name], 2) for name in ("claim_bias", "claim_bias_then")),
        _figure(figures["claim_z"]),
        *(_level(figures[name]) for name in ("cpu_s", "cpu_max_s")),
    ]


def _said(a: Ahead) -> str:
    verb = "ahead of" if a.difference[0] >= 0 else "BEHIND"
    chosen = "on other seeds" if a.elsewhere else "by these runs"
    size = (abs(a.difference[0]), a.difference[1])
    return f"{a.scenario}: trimtab {verb} {a.peer}, the best peer {chosen}, by {_figure(size)}"


def _figure(value: Mean | None, digits: int = 2) -> str:
    return "-" if value is None else _with_error(value, 1, digits)


def _level(value: Mean | None) -> str:
    return "-" if value is None else f"{value[0]:.3f}"


def _points(value: Mean | None, digits: int) -> str:
    return "-" if value is None else _with_error(value, 100, digits) + " pp"


def _percent(value: Mean | None, digits: int = 0) -> str:
    return "-" if value is None else _with_error(value, 100, digits) + " %"


def _with_error(value: Mean, scale: float, digits: int) -> str:
    shown = f"{scale * value[0]:.{digits}f}"
    return shown if value[1] is None else f"{shown} +- {scale * value[1]:.{digits}f}"
