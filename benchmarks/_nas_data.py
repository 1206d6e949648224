"""The data of the measurement: the ranking log of the simulated short-video feed, prepared once in a folder.

Training rows are those that were shown, so that labels carry the serving ranker's choice and the feed's noise; what is
true of every candidate stands in the simulator's file of truths, and only measures read it.
"""

from functools import cache
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from pyarrow import parquet, schema

from benchmarks._nas_scale import Scale
from nas.layouts import ranking_log
from nas.prepare import Sources, opened, prepare
from nas.readers import Source
from nas.rows import Parts
from nas.splits import Split, hashed
from simulators.closed_loop import START_MS
from simulators.feed.crowd import feed_population
from simulators.feed.ranking_log import truth_path, write
from simulators.feed.shipped import FEEDS
from simulators.serving import fixed_table, served
from simulators.study import study_of
from simulators.worlds import HOUR_MS

DATA, LOG = "data", "log.parquet"  # the prepared rows and what they are of, in the measurement's folder
WORLD, SEED = "shortvideo", 11


class Bench(msgspec.Struct, frozen=True, eq=False):
    """What every task is given. Validation rows are those with labels: nothing else chooses a network."""

    scale: Scale
    folder: Path
    parts: Parts


def bench(scale: Scale, folder: Path) -> Bench:
    """Of a folder whose data were prepared."""
    parts = opened(folder / DATA)
    return Bench(scale, folder, msgspec.structs.replace(parts, valid=parts.valid.observed()))


def written(folder: Path, hours: int, requests_per_hour: float) -> Path:
    """The log as `trimtab simulate shortvideo --ranking-log` writes it, its truth beside; found again if there."""
    path = folder / LOG
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    feed = msgspec.structs.replace(FEEDS[WORLD], events_per_hour=requests_per_hour)
    plan = study_of(feed, SEED).plan
    people = feed_population(feed, SEED, plan.salt)
    table = served(feed, fixed_table(plan, SEED), START_MS)
    part = folder / "part.parquet"
    write(feed, people, table, (START_MS, START_MS + hours * HOUR_MS), part, lambda progress: None)
    truth_path(part).rename(truth_path(path))
    part.rename(path)
    return path


@cache
def people(folder: Path) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Every request of a folder's log as rows name it, in order, and the number of the person who made it."""
    requests, units = list[NDArray[np.uint64]](), list[NDArray[np.str_]]()
    log = parquet.ParquetFile(folder / LOG)
    for group in range(log.num_row_groups):
        table = log.read_row_group(group, ["request", "unit"])
        request, first = np.unique(hashed(table["request"]), return_index=True)
        requests.append(request)
        units.append(np.asarray(table["unit"].take(first).to_pylist(), np.str_))
    request, first = np.unique(np.concatenate(requests), return_index=True)
    return request, np.unique(np.concatenate(units)[first], return_inverse=True)[1]


def person_of(bench: Bench, request: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The number of the person who made each request."""
    known, person = people(bench.folder)
    return person[np.searchsorted(known, request)]


def prepared(folder: Path, hours: int, requests_per_hour: float, valid: float = 0.1) -> Parts:
    """The log split by time, a fifth of it the test, encoded below `folder`."""
    log = written(folder, hours, requests_per_hour)
    truth = truth_path(log)
    columns = schema(
        [*parquet.read_schema(log), *(f for f in parquet.read_schema(truth) if f.name.startswith("true_"))]
    )
    source = Source("ranking-log", (str(log),), truth=(str(truth),))
    return prepare(Sources(whole=source), ranking_log(columns), Split(by="time", valid=valid, test=0.2), folder / DATA)
