"""A measured error rate beside what is allowed, and how runs are spread over processes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec
import numpy as np
from rich.table import Table

from simulators.worlds import Floats

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


class Spread(Protocol):
    """Does the same work for many jobs, in their order, perhaps in several processes."""

    def __call__(self, work: Callable[[Job], Outcome], jobs: Sequence[Job], title: str) -> list[Outcome]:
        """The outcomes, in the order of the jobs."""
        ...


class Figure(msgspec.Struct, frozen=True):
    """One measured value."""

    case: str
    what: str
    value: float
    error: float | None  # standard error
    n: int
    asked: str = ""
    holds: bool | None = None  # None: nothing is asked, or there are too few runs to tell


def share(case: str, what: str, hit: Sequence[bool], *, most: float = 1.0, least: float = 0.0) -> Figure:
    """The share of independent runs in which something happened; it is to lie between `least` and `most`.

    Of so few runs that a single one would break what is asked, nothing is said.
    """
    n, value = len(hit), float(np.mean(hit)) if len(hit) else np.nan
    error = float(np.sqrt(value * (1.0 - value) / n)) if n else None
    if (least, most) == (0.0, 1.0):
        return Figure(case, what, value, error, n)
    asked = f">= {least:.1%}" if least > 0.0 else f"<= {most:.2%}"
    if n * (1.0 - least if least > 0.0 else most) < 1.0:
        return Figure(case, what, value, error, n, f"{asked}, too few to tell")
    return Figure(case, what, value, error, n, asked, bool(least <= value <= most))


def clustered(hit: Floats, run: Floats) -> tuple[float, float]:
    """Share of rows (n,) that are hit, and its standard error with runs (n,) as clusters."""
    _, which = np.unique(run, return_inverse=True)
    n, hits = np.bincount(which), np.bincount(which, weights=hit)
    value = float(hits.sum() / n.sum())
    scale = len(n) / max(len(n) - 1, 1)
    return value, float(np.sqrt(scale * np.sum((hits - value * n) ** 2)) / n.sum())


def table(title: str, figures: Iterable[Figure]) -> Table:
    """The figures of a claim."""
    made = Table(title=title)
    for column in ("case", "what", "value", "s.e.", "n", "asked", "holds"):
        made.add_column(column, justify="left" if column in ("case", "what") else "right")
    for f in figures:
        error = "" if f.error is None else f"{f.error:.4f}"
        holds = "" if f.holds is None else ("yes" if f.holds else "NO")
        made.add_row(f.case, f.what, f"{f.value:.4f}", error, str(f.n), f.asked, holds)
    return made
