"""What a closed loop looks like to a person: a live view on a terminal, a line a window elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from controller.core.decide import Decision
from controller.core.experiment import Carry, Choice
from controller.core.plan import Plan
from controller.shell.effects import Z95
from controller.shell.story import spread
from simulators.closed_loop import START_MS, Turn
from simulators.kinds import AnyScenario, AnyWorld, over_time, true_changes
from simulators.report import vector_line
from simulators.worlds import gain, margins


class View(Protocol):
    """Shows turns as they come."""

    def __call__(self, turn: Turn) -> None:
        """Show one."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class Silent:
    """Shows nothing."""

    def __call__(self, turn: Turn) -> None:
        """Show nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Lines(Silent):
    """A line a window, for logs and pipes."""

    def __init__(self, plan: Plan, windows: int, write: Callable[[str], None]) -> None:
        self._plan, self._windows, self._write = plan, windows, write

    def __call__(self, turn: Turn) -> None:
        """Write a line for each window that was decided on."""
        for decision in turn.info.decisions:
            carry = turn.state.experiment.carry
            number = window_number(self._plan, decision)
            best = "no vector is known to be better yet" if carry.pick is None else expected(carry.pick)
            self._write(
                f"window {number:>3}/{self._windows}  {carry.stage:<8} {turn.events:>10,} events  {best}"
                f"  ({decision.why})"
            )


class Screen:
    """The live view."""

    def __init__(self, plan: Plan, product: AnyWorld | AnyScenario, windows: int, console: Console) -> None:
        self._plan, self._scenario, self._windows = plan, over_time(product), windows
        self._live = Live(console=console, refresh_per_second=8, transient=False)
        self._started_s = time.monotonic()

    def __call__(self, turn: Turn) -> None:
        """Draw the newest window."""
        for decision in turn.info.decisions[-1:]:
            self._live.update(self._drawn(turn, decision))

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.__exit__(kind, error, at)

    def _drawn(self, turn: Turn, decision: Decision) -> Group:
        carry = turn.state.experiment.carry
        number = window_number(self._plan, decision)
        spent_s = time.monotonic() - self._started_s
        head = Text.assemble(
            (f" {self._scenario.name} ", "reverse"),
            f"  window {number} of {self._windows}   stage ",
            (carry.stage, "bold"),
            f"   table {carry.version}   {turn.events:,} events in {spent_s:.0f} s",
        )
        bar = ProgressBar(total=self._windows, completed=number, width=80)
        return Group(head, bar, Text(f" {decision.why}", style="dim"), self._arms(decision), *self._best(carry, number))

    def _arms(self, decision: Decision) -> Table:
        """Every arm's estimated change against control, with its 95 % interval."""
        metrics = self._plan.metrics
        table = Table("arm", "buckets", *(self._heading(metric.name) for metric in metrics), box=None, pad_edge=True)
        table.caption = "change and half of its 95 % interval"
        if decision.changes is None:
            return table
        buckets = np.bincount(decision.deal.buckets, minlength=len(decision.deal.arms))
        for a, arm in enumerate(decision.deal.arms[1:]):
            y = decision.changes.change[:, 0, a]
            sd = np.sqrt(decision.changes.covariance[:, 0, a, a])
            cells = [_interval(self._plan, m.name, y[i], sd[i]) for i, m in enumerate(metrics)]
            table.add_row(arm.arm, str(buckets[a + 1]), *cells)
        return table

    def _heading(self, metric: str) -> str:
        limits = [f"{'>=' if g.sign > 0 else '<='} {g.limit:+.1%}" for g in self._plan.guardrails if g.metric == metric]
        return " ".join([metric, *limits])

    def _best(self, carry: Carry, hour: int) -> list[Text]:
        choice, world = carry.pick, self._scenario.world
        if choice is None:
            return [Text(" no vector is known to be better yet")]
        change = true_changes(self._scenario, hour, [choice.theta], seen=hour - 1)[0]
        room = margins(world, change)
        told = f" in truth: gain {float(gain(world, change)):+.2%}, room under the guardrails " + ", ".join(
            f"{g.metric} {m:+.2%}" for g, m in zip(world.guardrails, room.tolist(), strict=True)
        )
        return [
            Text(f" best so far: {vector_line(world, choice.theta)}", style="bold"),
            Text(f" expected: {expected(choice)}"),
            Text(told, style="green" if (room >= 0).all() else "red"),
        ]


def expected(choice: Choice) -> str:
    """What the posterior expects of a vector."""
    return (
        f"gain {spread(choice.gain_mean, choice.gain_sd)}, P(better) {choice.p_better:.0%}, "
        f"P(guardrails kept) {choice.p_feasible:.0%}"
    )


def window_number(plan: Plan, decision: Decision) -> int:
    """1 for the first window of a closed loop."""
    length = plan.window.length_ms
    return (decision.end_ms - START_MS // length * length) // length


def _interval(plan: Plan, metric: str, y: float, sd: float) -> Text:
    if not np.isfinite(y):
        return Text("-")
    broken = any(g.sign * (y - g.limit) + Z95 * sd < 0 for g in plan.guardrails if g.metric == metric)
    return Text(f"{y:+.1%} +-{Z95 * sd:.1%}", style="red" if broken else "")
