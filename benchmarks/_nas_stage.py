"""Measurements that go on where they stopped: results by name in a folder, computed by several processes."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import torch
from rich.console import Console
from rich.progress import Progress

from nas.processes import processes

C = TypeVar("C")  # what every task is given
T = TypeVar("T")
A = TypeVar("A")


class OutOfTime(Exception):
    """The minutes of this call are over; the same command goes on."""


class Stage(Generic[C]):
    """Computes each named result once. A worker computes with one thread; all share a GPU where there is one."""

    def __init__(
        self, bench: C, folder: Path, minutes: float, console: Console, pool: ProcessPoolExecutor | None
    ) -> None:
        self.bench, self.folder, self.console, self.pool = bench, folder, console, pool
        self.until = time.monotonic() + 60 * minutes
        self.begun: dict[str, Future[Any]] = {}

    def ahead(self, compute: Callable[[C, A], object], tasks: Mapping[str, A]) -> None:
        """Let free workers begin with what is wanted later."""
        if self.pool is not None and self._in_time():
            for name, task in tasks.items():
                if name not in self.begun and not self._path(name).exists():
                    self.begun[name] = self.pool.submit(_in_worker, compute, task, self._path(name))

    def each(self, title: str, kind: type[T], compute: Callable[[C, A], T], tasks: Mapping[str, A]) -> dict[str, T]:
        """`compute` of every task, found or computed, in the order of the tasks.

        Raises:
            OutOfTime: some are to be computed and there is no time left; what had begun is finished and kept.
        """
        self.ahead(compute, tasks)
        with Progress(console=self.console, transient=True) as progress:
            bar = progress.add_task(title, total=len(tasks))
            for name, task in tasks.items():
                self._finish(name, compute, task)
                progress.advance(bar)
        return {name: msgspec.json.decode(self._path(name).read_bytes(), type=kind) for name in tasks}

    def _finish(self, name: str, compute: Callable[[C, A], T], task: A) -> None:
        """Compute a result, or wait for the worker that does."""
        if name in self.begun:
            self._wait(self.begun[name])
        elif not self._path(name).exists():
            if not self._in_time():
                raise OutOfTime
            _write(self._path(name), compute(self.bench, task))

    def _wait(self, future: Future[None]) -> None:
        """At the end of the time nothing more begins; what runs is waited for, so that nothing is lost."""
        try:
            future.result(max(0.0, self.until - time.monotonic()))
        except FutureTimeout:
            running = [each for each in self.begun.values() if not each.cancel()]
            for each in running:
                each.result()
            raise OutOfTime from None

    def _in_time(self) -> bool:
        return time.monotonic() < self.until

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def workers(count: int, opened: Callable[[], object]) -> AbstractContextManager[ProcessPoolExecutor | None]:
    """A pool of that many processes, each of which opens what tasks are given; none for one, which computes here."""
    return processes(count, partial(_start_worker, opened))


_WORKER: dict[str, object] = {}  # of a worker process


def _start_worker(opened: Callable[[], object]) -> None:
    torch.set_num_threads(1)
    _WORKER["bench"] = opened()


def _in_worker(compute: Callable[[Any, Any], object], task: Any, path: Path) -> None:
    _write(path, compute(_WORKER["bench"], task))


def _write(path: Path, found: object) -> None:
    path.with_suffix(".part").write_bytes(msgspec.json.encode(found))
    path.with_suffix(".part").replace(path)
