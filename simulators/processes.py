"""A product in one process or in several, each of which sends its own partitions."""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

import msgspec
from prometheus_client import CollectorRegistry, start_http_server

from controller.assignment import encode
from controller.serving import Client, wall_clock_ms
from controller.serving_metrics import ServingCollector
from controller.shell import publisher
from controller.shell.config import Study, load
from controller.shell.connections import password
from simulators import produce
from simulators.catalog import product_named
from simulators.closed_loop import START_MS
from simulators.events import Delivery
from simulators.faults import parse
from simulators.feed.scenario import FeedScenario
from simulators.kinds import AnyScenario
from simulators.produce import NoAnswer, Product, Progress
from simulators.serving import fixed_table
from simulators.sinks import ArrowKafkaSink, ColumnSink, KafkaSink, Sink, SinkFailed, created, file_sink
from simulators.study import study_of
from simulators.worlds import HOUR_MS

POLL_S = 0.5  # how often the table is read besides its announcements
NEW_PARTITIONS = 4
_LOOK_S = 1.0  # between looks at whether a process has died


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be produced; every process makes the rest from it.

    Without a `study` there is no daemon: files, under a table that stands still.
    """

    world: str
    study: str | None = None  # its file
    out: str | None = None  # files instead of Kafka
    realtime: bool = False
    hours: int = 72
    start_ms: int | None = None  # hour 0 of the world and its faults; None: `closed_loop.START_MS`
    events_per_hour: float | None = None  # the world's
    events_per_record: int = 20
    arrow: bool = False  # records to Kafka are Arrow streams
    seed: int = 0
    partitions: int | None = None  # of files (1), and of a topic that is made new (4)
    wait_s: float = 120.0
    listen: tuple[str, int] | None = None  # where the first process shows its serving client's metrics
    faults: tuple[str, ...] = ()


def scenario_of(job: Job) -> AnyScenario:
    """The world asked for, at the volume asked for."""
    scenario = product_named(job.world)
    if job.events_per_hour is None:
        return scenario
    if isinstance(scenario, FeedScenario):
        feed = msgspec.structs.replace(scenario.world, events_per_hour=job.events_per_hour)
        return msgspec.structs.replace(scenario, world=feed)
    world, later = (
        each and msgspec.structs.replace(each, events_per_hour=job.events_per_hour)
        for each in (scenario.world, scenario.later)
    )
    return msgspec.structs.replace(scenario, world=world, later=later)


def run(job: Job, processes: int, watch: Callable[[Progress], None]) -> None:
    """Produce it all.

    Raises `NoAnswer`, `SinkFailed` or `ValueError`; of several processes `ProcessFailed`, with what one of them met.
    """
    start_ms = time.time_ns() // 1_000_000 if job.realtime else job.start_ms
    if start_ms is not None:  # hour 0 is the same for all
        job = msgspec.structs.replace(job, start_ms=start_ms // HOUR_MS * HOUR_MS)
    if processes == 1:
        work(job, 0, 1, watch)
    else:
        if job.out is not None:
            _files(job, 0, 1).close()  # refuses those that exist before any process starts
        _together(job, processes, watch)


def work(job: Job, process: int, processes: int, watch: Callable[[Progress], None]) -> None:
    """Produce the partitions of one process."""
    study = study_of(scenario_of(job).world, job.seed) if job.study is None else load(job.study)
    sink, mine = _sink(job, study, process, processes)
    try:
        product = Product(
            study.plan,
            scenario_of(job),
            sink,
            job.seed,
            events_per_record=1 if job.out else job.events_per_record,
            delivery=Delivery(),
            faults=[parse(text, scenario_of(job).world) for text in job.faults],
            mine=mine,
            start_ms=START_MS if job.start_ms is None else job.start_ms,
        )
        if process == 0 and job.study is None and job.out not in (None, "-"):
            _write_table(job, study)
        _drive(job, study, product, watch, job.listen if process == 0 else None)
    finally:
        sink.close()


def _drive(
    job: Job, study: Study, product: Product, watch: Callable[[Progress], None], listen: tuple[str, int] | None
) -> None:
    windows = -(-job.hours * HOUR_MS // study.plan.window.length_ms)
    if job.study is None:
        produce.written(study.plan, product, fixed_table(study.plan, job.seed), job.start_ms, windows, watch)
        return
    redis = publisher.connect(study.redis.url, password(os.environ, "redis"), study.redis.tls)
    baseline = {weight.name: weight.baseline for weight in scenario_of(job).world.weights}
    reached_ms = [0]  # by the traffic: the daemon's clock in lockstep

    def tell(progress: Progress) -> None:
        reached_ms[:] = [progress.through_ms]
        watch(progress)

    clock = wall_clock_ms if job.realtime else lambda: reached_ms[0]
    with Client(study.plan.study, redis, baseline, form=study.plan.form, poll_s=POLL_S, clock=clock) as tables:
        if listen is not None:
            _show_metrics(tables, *listen)
        try:
            if job.realtime:
                produce.realtime(product, tables, time.time_ns() // 1_000_000 + job.hours * HOUR_MS, tell)
            else:
                produce.lockstep(study.plan, product, tables, job.start_ms, windows, job.wait_s, tell)
        except NoAnswer as error:
            unread = tables.status()
            if unread.connected or unread.last_error is None:
                raise
            raise NoAnswer(f"Redis at {study.redis.url} does not answer: {unread.last_error}") from error


def _show_metrics(client: Client, host: str, port: int) -> None:
    registry = CollectorRegistry()
    registry.register(ServingCollector(client))
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port}: {error.strerror}; give another --listen") from error


def _sink(job: Job, study: Study, process: int, processes: int) -> tuple[Sink | ColumnSink, Sequence[int]]:
    if job.out is not None:
        sink = _files(job, process, processes)
        return sink, range(process, sink.partitions, processes)
    kafka = KafkaSink(study.kafka, job.partitions or NEW_PARTITIONS, password(os.environ, "kafka"))
    mine = range(process, kafka.partitions, processes)
    return ArrowKafkaSink(kafka, job.events_per_record) if job.arrow else kafka, mine


def _files(job: Job, process: int, processes: int) -> Sink | ColumnSink:
    partitions = 1 if job.out == "-" else job.partitions or 1
    return file_sink(str(job.out), partitions, range(process, partitions, processes))


def _write_table(job: Job, study: Study) -> None:
    """The table that the files' events were served by, beside them; the same one may lie there already."""
    whole, table = Path(str(job.out)), encode(fixed_table(study.plan, job.seed))
    path = whole.with_name(f"{whole.name.partition('.')[0]}.table.json")
    if path.exists() and path.read_bytes() == table:
        return
    with created(path) as file:
        file.write(table)


class ProcessFailed(Exception):
    """One of several processes did not reach its end; the others were stopped."""


Told = tuple[int, Progress | str | None]  # process; how far it is, why it failed, or None at its end


def _together(job: Job, processes: int, watch: Callable[[Progress], None]) -> None:
    spawn = get_context("spawn")
    told: Queue[Told] = spawn.Queue()
    workers = [spawn.Process(target=_child, args=(job, i, processes, told), daemon=True) for i in range(processes)]
    for worker in workers:
        worker.start()
    latest: dict[int, Progress] = {}
    running = set(range(processes))
    try:
        while running:
            process, news = _next(told, lambda: {i: workers[i].exitcode for i in running if workers[i].exitcode})
            if isinstance(news, str):
                raise ProcessFailed(f"process {process}: {news}")
            if news is None:
                running.discard(process)
            else:
                latest[process] = news
                if len(latest) == processes:
                    watch(_summed(list(latest.values())))
    finally:
        for i, worker in enumerate(workers):
            if i in running:
                worker.terminate()
            worker.join()


def _next(told: "Queue[Told]", died: Callable[[], Mapping[int, int | None]]) -> Told:
    """The next news of any process; of one that has died, by its exit status, when there is none."""
    while True:
        try:
            return told.get(timeout=_LOOK_S)
        except Empty:
            for process, status in died().items():
                return process, f"ended with status {status}"


def _child(job: Job, process: int, processes: int, told: "Queue[Told]") -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(job, process, processes, lambda progress: told.put((process, progress)))
    except (NoAnswer, SinkFailed, ValueError) as error:
        told.put((process, str(error)))
    except KeyboardInterrupt:
        pass
    else:
        told.put((process, None))


def _end_with_parent() -> None:
    """What has lost the process that watches it would send on with nobody to stop it."""
    parent = parent_process()
    assert parent is not None  # this is one of several
    parent.join()
    os._exit(1)


def _summed(each: Sequence[Progress]) -> Progress:
    slowest = min(each, key=lambda progress: progress.through_ms)
    return Progress(
        slowest.through_ms,
        sum(progress.events for progress in each),
        slowest.table,
        max(progress.waited_s for progress in each),
        slowest.awaited,
    )
