"""Throughput: events per second for decode + windows on one core, beside a naive loop over the same events.

Claims: 400,000 JSON events per second and 8x the naive loop (`json.loads` per event, a dict of sums); 5 million from
Arrow batches. With --kafka the same is fed from a real broker, with either client: TRIMTAB_TEST_KAFKA, or one that the
tests' scripts start. Repetitions are interleaved, so that a busy machine slows both sides; medians are printed. Before
anything is measured, both sides must come to the same sums, to the bit.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import _stream
from benchmarks._naive import Naive, Sums
from benchmarks._stream import EVENTS, NOW_MS, PARTITIONS, PLAN, Polled, Stream
from controller.core.windows import Batch, PartBatch, WindowsState, ingest, initial, seal
from controller.shell.connections import Kafka
from controller.shell.records import decode_records
from controller.shell.sources import Fetched, Source
from simulators.arguments import positive

NAIVE = "naive loop, JSON"
_IDLE_S = 30.0  # a broker that brings nothing for so long has failed
Client = Literal["kafka-python", "confluent"]


class Form(NamedTuple):
    """How events are laid out: `per_poll` is about what a fetch of 16 MB holds, and at most 50,000 records."""

    name: str
    form: Literal["json", "arrow"]
    per_record: int
    per_poll: int


FORMS = (
    Form("JSON, 1 event a record", "json", 1, 50_000),
    Form("JSON lines, 100 events a record", "json", 100, 80_000),
    Form("Arrow, 10,000 events a record", "arrow", 10_000, 200_000),
    Form("Arrow, 100 events a record", "arrow", 100, 200_000),
)


PER_SECOND = {FORMS[0].name: 400_000, FORMS[2].name: 5_000_000}  # events that are claimed
TIMES_NAIVE = 8.0  # likewise, of FORMS[0]


class Measure(msgspec.Struct, frozen=True):
    """One line. Rates are events per second; `ratio` is the median over rounds of rate / the naive loop's rate."""

    what: str
    per_second: float | None
    per_cpu_second: float | None  # by the processor time of this process, which a busy machine changes less
    ratio: float | None
    note: str = ""


class Timing(NamedTuple):
    """What one pass over the stream took."""

    wall_s: float
    cpu_s: float


def main(argv: Sequence[str]) -> int:
    """Measure and print; status 1 where a claim does not hold, or no broker can be had: a line says so."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks throughput", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--events", type=positive, default=400_000)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--kafka", action="store_true", help="also feed from a real broker")
    options = parser.parse_args(argv)
    stream = _stream.made(options.events)
    measures = in_process(stream, options.rounds)
    if options.kafka:
        measures += from_kafka(stream, measures[0].per_second or 1.0)
    if options.json:
        print(msgspec.json.encode(measures).decode())
    else:
        _print(measures, stream)
    return int(bool(missed(measures)) or any(measure.per_second is None for measure in measures))


def missed(measures: Sequence[Measure]) -> list[str]:
    """What is slower than is claimed."""
    of = {measure.what: measure for measure in measures}
    found = [
        f"{what}: {claimed:,} events/s" for what, claimed in PER_SECOND.items() if (of[what].per_second or 0) < claimed
    ]
    times_naive = of[FORMS[0].name].ratio or 0.0
    return found + ([f"{FORMS[0].name}: {TIMES_NAIVE:.0f} x naive"] if times_naive < TIMES_NAIVE else [])


def in_process(stream: Stream, rounds: int) -> list[Measure]:
    """Every form through the decoder and the windows, the naive loop in turn with them."""
    polls = {form: _stream.polls(stream, form.form, form.per_record, form.per_poll) for form in FORMS}
    _check_sums(stream, polls)
    works: dict[str, Callable[[], object]] = {NAIVE: lambda: _naive(stream, polls[FORMS[0]])}
    for form in FORMS:
        works[f"{form.name}: decode alone"] = lambda given=polls[form]: [_decoded(polled) for polled in given]  # type: ignore[misc]  # mypy infers no lambda with a default
        works[form.name] = lambda given=polls[form]: _windows(given, stream)  # type: ignore[misc]  # as above
    timings: dict[str, list[Timing]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            timings[name].append(_timed(work))
    return [_measure(name, timings[name], timings[NAIVE], len(stream.lines)) for name in works]


def from_kafka(stream: Stream, naive: float) -> list[Measure]:
    """The same events through a broker, one and 100 a record, by both clients."""
    with _broker() as (bootstrap, missing):
        if bootstrap is None:
            return [Measure("from Kafka", None, None, None, missing)]
        return [
            _consumed(form, client, topic, bootstrap, stream, naive)
            for form in FORMS
            for topic in [_produced(bootstrap, form, stream)]
            for client in ("kafka-python", "confluent")
        ]


def _decoded(polled: Sequence[Fetched]) -> Batch:
    parts = []
    for part in polled:
        decoded = decode_records(part.records, EVENTS)
        rejected = Counter(row.reason for row in decoded.rejected)
        parts.append(PartBatch(part.partition, decoded.events, dict(rejected), part.next_offset))
    return Batch(tuple(parts))


def _windows(polls: Sequence[Polled], stream: Stream) -> WindowsState:
    state = initial()
    for polled in polls:
        state = _taken(state, polled, stream)
    return state


def _taken(state: WindowsState, polled: Sequence[Fetched], stream: Stream) -> WindowsState:
    state, _ = ingest(PLAN, EVENTS, state, _decoded(polled), stream.tables, NOW_MS, "wall")
    return seal(PLAN, state, frozenset())[0]


def _naive(stream: Stream, polls: Sequence[Polled]) -> Naive:
    naive = Naive(PLAN, EVENTS, stream.tables, NOW_MS)
    for polled in polls:
        naive.take(polled)
    return naive


def _check_sums(stream: Stream, polls: dict[Form, list[Polled]]) -> None:
    """Raises `AssertionError` when the windows and the naive loop disagree in a bit."""
    naive = _naive(stream, polls[FORMS[0]])
    if naive.counts != {"accepted": len(stream.lines)}:
        raise AssertionError(f"the naive loop did not accept every event: {naive.counts}")
    for form, given in polls.items():
        if _sums(_windows(given, stream)) != naive.sums:
            raise AssertionError(f"{form.name}: the sums are not those of the naive loop")


def _sums(state: WindowsState) -> Sums:
    sums: Sums = {}
    for (end, version), cell in state.cells.items():
        for segment, bucket in zip(*np.nonzero(cell.events), strict=True):
            row = [*cell.sums[segment, bucket].tolist(), int(cell.events[segment, bucket])]
            sums[end, version, int(segment), int(bucket)] = row
    return sums


def _timed(work: Callable[[], object]) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def _measure(what: str, timings: list[Timing], naive: list[Timing], events: int) -> Measure:
    return Measure(
        what,
        round(events / statistics.median(timing.wall_s for timing in timings)),
        round(events / statistics.median(timing.cpu_s for timing in timings)),
        round(statistics.median(n.wall_s / t.wall_s for n, t in zip(naive, timings, strict=True)), 2),
    )


@contextmanager
def _broker() -> Iterator[tuple[str | None, str]]:
    """The address of a broker, or why there is none."""
    given = os.environ.get("TRIMTAB_TEST_KAFKA")
    if given:
        yield given, ""
        return
    try:
        from tests.services import kafka_broker  # only in a checkout
    except ImportError:
        yield None, "no broker: set TRIMTAB_TEST_KAFKA=host:port"
        return
    missing = kafka_broker.missing()
    if missing:
        yield None, f"no broker: set TRIMTAB_TEST_KAFKA=host:port, or: {missing}"
        return
    with tempfile.TemporaryDirectory() as directory:
        broker = kafka_broker.KafkaBroker(Path(directory) / "kafka")
        broker.start()
        try:
            yield broker.bootstrap, ""
        finally:
            broker.stop()


def _produced(bootstrap: str, form: Form, stream: Stream) -> str:
    """A new topic with all events."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    from controller.shell.sources import ARROW

    topic = f"throughput-{uuid4().hex[:12]}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        made.result()
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 50, "batch.size": 1 << 20, "message.max.bytes": 4 << 20}
    )
    headers: list[Any] = [("content-type", ARROW)] if form.form == "arrow" else []
    for polled in _stream.polls(stream, form.form, form.per_record, form.per_poll):
        for part in polled:
            for record in part.records:
                producer.produce(topic, record.value, partition=part.partition, headers=headers)
            producer.poll(0)
        producer.flush()
    return topic


def _consumed(form: Form, client: Client, topic: str, bootstrap: str, stream: Stream, naive: float) -> Measure:
    """Read the topic from its beginning, decode, add up."""
    source = _source(client, bootstrap, topic)
    try:
        source.start(None, "earliest")
        timing = _timed(lambda: _drain(source, stream))
    finally:
        source.close()
    events = len(stream.lines)
    rate = events / timing.wall_s
    return Measure(
        f"{form.name}, from Kafka by {client}",
        round(rate),
        round(events / timing.cpu_s),
        round(rate / naive, 2),
    )


def _drain(source: Source, stream: Stream) -> None:
    state, accepted, waited_since = initial(), 0, time.monotonic()
    while accepted < len(stream.lines):
        polled = source.poll(0.5)
        if polled.parts:
            state = _taken(state, polled.parts, stream)
            accepted = sum(quality.accepted for quality in state.quality.values())
            waited_since = time.monotonic()
        elif time.monotonic() - waited_since > _IDLE_S:
            raise TimeoutError(f"{accepted} of {len(stream.lines)} events came: {source.health()}")


def _source(client: Client, bootstrap: str, topic: str) -> Source:
    from controller.shell.sources_confluent import ConfluentSource
    from controller.shell.sources_kafka import KafkaSource

    kind: type[KafkaSource] | type[ConfluentSource] = KafkaSource if client == "kafka-python" else ConfluentSource
    return kind(Kafka(bootstrap, topic, client=client), window_ms=PLAN.length_ms, idle_after_s=None)


def _print(measures: list[Measure], stream: Stream) -> None:
    size = sum(map(len, stream.lines)) / len(stream.lines)
    title = f"{len(stream.lines):,} events of {size:.0f} bytes as JSON; decode + windows, one core"
    table = Table("what", "events/s", "events/cpu-s", "x naive", "note", title=title)
    for column in table.columns[1:4]:
        column.justify = "right"
    for row in measures:
        rates = ["-" if rate is None else f"{rate:,.0f}" for rate in (row.per_second, row.per_cpu_second)]
        table.add_row(row.what, *rates, "-" if row.ratio is None else f"{row.ratio:.1f}", row.note)
    table.caption = (
        "From Kafka: one pass; processor time is that of all threads of this process, not the broker's\n"
        f"not as claimed: {', '.join(missed(measures)) or 'nothing'}"
    )
    Console(width=150).print(table)
