"""How the measurement of `nas` goes on where it stopped: results by name in a folder, computed by several processes."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks._nas_scale import Scale
from nas.prepare import opened
from nas.rows import Parts

T = TypeVar("T")
A = TypeVar("A")
DATA = "data"  # the prepared rows, in the measurement's folder


class Bench(msgspec.Struct, frozen=True, eq=False):
    """What every task is given. Validation rows of `parts` are those with labels: a network is chosen by nothing else."""

    scale: Scale
    folder: Path
    parts: Parts


def bench(scale: Scale, folder: Path) -> Bench:
    """Of a folder whose data were prepared."""
    parts = opened(folder / DATA)
    train = parts.train.take(slice(0, scale.rows)) if scale.rows < len(parts.train) else parts.train
    return Bench(scale, folder, msgspec.structs.replace(parts, train=train, valid=parts.valid.observed()))


class OutOfTime(Exception):
    """The minutes of this call are over; the same command goes on."""


class Stage:
    """Computes each named result once. A worker computes with one thread; all share a GPU where there is one."""

    def __init__(self, context: Bench, minutes: float, console: Console, pool: ProcessPoolExecutor | None) -> None:
        self.bench, self.until, self.console, self.pool = context, time.monotonic() + 60 * minutes, console, pool

    def each(
        self, title: str, kind: type[T], compute: Callable[[Bench, A], T], tasks: Mapping[str, A]
    ) -> dict[str, T]:
        """`compute` of every task, found or computed, in the order of the tasks.

        Raises:
            OutOfTime: some are to be computed and there is no time left; what had begun is finished and kept.
        """
        missing = {name: task for name, task in tasks.items() if not self._path(name).exists()}
        with Progress(console=self.console, transient=True) as progress:
            bar = progress.add_task(title, total=len(tasks), completed=len(tasks) - len(missing))
            for name, found in self._computed(compute, missing):
                _write(self._path(name), msgspec.json.encode(found))
                progress.advance(bar)
        if any(not self._path(name).exists() for name in tasks):
            raise OutOfTime
        return {name: msgspec.json.decode(self._path(name).read_bytes(), type=kind) for name in tasks}

    def _path(self, name: str) -> Path:
        return self.bench.folder / f"{name}.json"

    def _computed(self, compute: Callable[[Bench, A], T], tasks: Mapping[str, A]) -> Iterator[tuple[str, T]]:
        """Results as they come, until the time is over."""
        if self.pool is None:
            for name, task in tasks.items():
                if time.monotonic() > self.until:
                    return
                yield name, compute(self.bench, task)
            return
        futures: dict[Future[T], str] = {}
        if time.monotonic() < self.until:
            futures = {self.pool.submit(_in_worker, compute, task): name for name, task in tasks.items()}
        for future in as_completed(futures):
            if not future.cancelled():
                yield futures[future], future.result()
            if time.monotonic() > self.until:
                for waiting in futures:
                    waiting.cancel()


@contextmanager
def workers(count: int, scale: Scale, folder: Path) -> Iterator[ProcessPoolExecutor | None]:
    """A pool of that many processes; none for one, which computes here."""
    if count <= 1:
        yield None
        return
    with ProcessPoolExecutor(
        count, get_context("spawn"), initializer=_start_worker, initargs=(scale, folder)
    ) as pool:
        yield pool


_WORKER: dict[str, Bench] = {}  # of a worker process


def _start_worker(scale: Scale, folder: Path) -> None:
    torch.set_num_threads(1)
    _WORKER["bench"] = bench(scale, folder)


def _in_worker(compute: Callable[[Bench, Any], T], task: Any) -> T:
    return compute(_WORKER["bench"], task)


def _write(path: Path, data: bytes) -> None:
    path.with_suffix(".part").write_bytes(data)
    path.with_suffix(".part").replace(path)
