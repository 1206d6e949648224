"""Events from Kafka by kafka-python: partitions assigned by hand, offsets kept by the caller."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, LogTruncationError, NoOffsetForPartitionError, OffsetOutOfRangeError

from controller.shell.connections import Kafka, no_offsets, no_topic
from controller.shell.kafka_diagnosis import diagnosed, unreached
from controller.shell.kafka_python import RECONNECT, client_options, connect, said, topic_id, unread
from controller.shell.sources import (
    ARROW,
    At,
    Fetched,
    OffsetLost,
    Poll,
    Record,
    SourceUnavailable,
    TopicReplaced,
    resolve,
    same,
)
from controller.shell.sources_standing import LEADERS_S, Newest, Standing

_ANSWER_MS: Final = 2_000  # an end offset that takes longer counts as no answer
_CLOSE_MS: Final = 2_000
_RETRY_S: Final = 1.0
_LOG_APPEND_TIME: Final = 1  # the timestamp is the broker's; 0: the producer's
_FETCH: Final = {
    "fetch_max_wait_ms": 100,  # a question about end offsets waits behind a fetch that waits
    "fetch_max_bytes": 16 << 20,
    "max_partition_fetch_bytes": 4 << 20,
    "max_poll_records": 50_000,  # the default of 500 costs more than the records
    "check_crcs": True,
    "isolation_level": "read_committed",  # of the end offsets too
}
_NEVER_BY_ITSELF: Final = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",  # an offset out of range is an error, never a silent jump
    "allow_auto_create_topics": False,
}


class KafkaSource:
    """`Source` on one topic.

    Args:
        kafka: address, topic and login.
        password: of `kafka.username`.
        window_ms: how old the newest record of a poll must be for the rest to count as a backlog.
        idle_after_s: see `Standing`; None on the events clock.
        answer_s: how long `start` waits for a broker.
        refresh_s: how often new partitions are looked for.
        monotonic: a clock for durations, in seconds.
        now_ms: the wall clock.
    """

    def __init__(
        self,
        kafka: Kafka,
        *,
        password: str | None = None,
        window_ms: int,
        idle_after_s: float | None,
        answer_s: float = 10.0,
        refresh_s: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._kafka = kafka
        self._options = {**client_options(kafka, password), **_FETCH, **_NEVER_BY_ITSELF, **RECONNECT}
        self._options["metadata_max_age_ms"] = int(min(refresh_s, LEADERS_S) * 1000)
        self._window_ms = window_ms
        self._idle_after_s = idle_after_s
        self._answer_s = answer_s
        self._monotonic = monotonic
        self._now_ms = now_ms
        self._consumer: Any = None
        self.log = ""
        self._standing = Standing({}, idle_after_s, monotonic)

    def start(self, offsets: Mapping[int, int] | None, at: At, log: str = "") -> dict[int, int]:
        """See `Source.start`."""
        self.close()
        self.log = log
        positions = self._open(offsets, at)
        self._standing = Standing(positions, self._idle_after_s, self._monotonic)
        return positions

    def poll(self, timeout_s: float) -> Poll:
        """See `Source.poll`."""
        parts: tuple[Fetched, ...] = ()
        newest = Newest()
        if self._consumer is None:
            self._reopen(timeout_s)
        if self._consumer is not None and self._standing.due():
            self._ask()  # before a fetch, which leaves no client when it fails: the lag is true all the same
        if self._consumer is not None:
            parts, newest = self._fetch(timeout_s)
        backlog = bool(parts) and self._standing.backlog(newest, self._window_ms, self._now_ms())
        return Poll(parts, self._standing.idle(), backlog, self._standing.behind())

    def health(self) -> str | None:
        """See `Source.health`."""
        return self._standing.health()

    def caught_up(self) -> bool:
        """See `Source.caught_up`."""
        if self._consumer is None:
            return False
        try:
            self._discover()
        except KafkaError as error:
            self._standing.silent(self._silence(error))
            return False
        self._ask()
        return self._standing.at_end()

    def close(self) -> None:
        """See `Source.close`."""
        if self._consumer is not None:
            self._consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)
            self._consumer = None

    def _open(self, offsets: Mapping[int, int] | None, at: At) -> dict[int, int]:
        """Connect, resolve, assign and seek; leaves no connection behind when it fails."""
        try:
            consumer = connect(KafkaConsumer, self._options, self._answer_s)
        except KafkaError as error:
            raise SourceUnavailable(
                f"no Kafka broker is of use within {self._answer_s:g} s: {diagnosed(self._kafka)}"
            ) from error
        try:
            positions = self._resolve(consumer, offsets, at)
            consumer.assign([self._at(partition) for partition in positions])
            for partition, offset in positions.items():
                consumer.seek(self._at(partition), offset)
        except KafkaError as error:
            consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)
            raise SourceUnavailable(f"Kafka at {self._kafka.bootstrap}: {said(error)}") from error
        except (SourceUnavailable, TopicReplaced, OffsetLost):
            consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)
            raise
        self._consumer = consumer
        return positions

    def _resolve(self, consumer: Any, offsets: Mapping[int, int] | None, at: At) -> dict[int, int]:
        partitions = consumer.partitions_for_topic(self._kafka.topic)
        if not partitions:
            raise SourceUnavailable(no_topic(self._kafka, self._kafka.topic))
        log = same(self.log, topic_id(consumer, self._kafka.topic))
        topic = [self._at(partition) for partition in sorted(partitions)]
        wait_ms = int(self._answer_s * 1000)
        earliest = _by_partition(consumer.beginning_offsets(topic, timeout_ms=wait_ms))
        latest = _by_partition(consumer.end_offsets(topic, timeout_ms=wait_ms))
        positions = resolve(offsets, at, earliest, latest)
        self.log = log
        return positions

    def _reopen(self, timeout_s: float) -> None:
        """Connect anew where the last client failed; the reason of a failure is kept for `health`."""
        try:
            self._open(self._standing.positions, "earliest")
        except SourceUnavailable as error:
            self._standing.silent(str(error))
            time.sleep(min(timeout_s, _RETRY_S))

    def _fetch(self, timeout_s: float) -> tuple[tuple[Fetched, ...], Newest]:
        """What came of each partition whose position moved, and the newest timestamp in it."""
        try:
            self._discover()
            polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000))
            self.log = same(self.log, topic_id(self._consumer, self._kafka.topic))
            positions = {partition: self._position(partition) for partition in sorted(self._standing.positions)}
        except (OffsetOutOfRangeError, LogTruncationError, NoOffsetForPartitionError) as error:
            raise self._lost(error) from error
        except KafkaError as error:
            # A client that raised (a bad checksum, say) may never go on, so a new one takes over at the positions.
            self._standing.failed(f"Kafka at {self._kafka.bootstrap}{unread(self._consumer, error)}")
            self.close()
            time.sleep(min(timeout_s, _RETRY_S))
            return (), Newest()
        ends = (records[-1] for records in polled.values())
        newest = max((Newest(r.timestamp, r.timestamp_type == _LOG_APPEND_TIME) for r in ends), default=Newest())
        return tuple(self._moved(positions, polled)), newest  # nothing can fail from here on, halfway through

    def _position(self, partition: int) -> int | None:
        """The client's position, which is beyond markers and gaps that hold no record."""
        position: int | None = self._consumer.position(self._at(partition), timeout_ms=0)
        return position

    def _moved(self, positions: Mapping[int, int | None], polled: Mapping[Any, list[Any]]) -> Iterator[Fetched]:
        for partition, position in positions.items():
            if position is not None and position != self._standing.positions[partition]:
                self._standing.advance(partition, position)
                records = polled.get(self._at(partition), [])
                yield Fetched(partition, [_record(record) for record in records], position)

    def _discover(self) -> None:
        """Take up partitions that were added to the topic, at their beginning."""
        known = self._standing.positions
        new = self._consumer.partitions_for_topic(self._kafka.topic) - known.keys()
        if not new:
            return
        added = [self._at(partition) for partition in sorted(new)]
        earliest = _by_partition(self._consumer.beginning_offsets(added, timeout_ms=_ANSWER_MS))
        self._consumer.assign([self._at(partition) for partition in (*known, *earliest)])
        for partition, offset in earliest.items():
            self._consumer.seek(self._at(partition), offset)
            self._standing.advance(partition, offset)

    def _ask(self) -> None:
        try:
            ends = self._consumer.end_offsets(self._all(), timeout_ms=_ANSWER_MS)
        except KafkaError as error:
            self._standing.silent(self._silence(error))
        else:
            self._standing.answered(_by_partition(ends))

    def _silence(self, error: KafkaError) -> str:
        """Why no answer came. A topic that is gone has no leader to ask, until the client's time is up."""
        if unreached(self._kafka) is not None:
            return f"no broker answers at {self._kafka.bootstrap}: {said(error)}"
        with suppress(KafkaError):
            if not self._consumer.partitions_for_topic(self._kafka.topic):
                return no_topic(self._kafka, self._kafka.topic)
        return no_offsets(self._kafka, said(error))

    def _lost(self, error: KafkaError) -> OffsetLost:
        """Which partition's position is outside its log, and that log's bounds where they can be had."""
        earliest: dict[int, int] = {}
        latest: dict[int, int] = {}
        with suppress(KafkaError):  # the loss is certain, its bounds are only for the message
            earliest = _by_partition(self._consumer.beginning_offsets(self._all(), timeout_ms=_ANSWER_MS))
            latest = _by_partition(self._consumer.end_offsets(self._all(), timeout_ms=_ANSWER_MS))
        named = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        named = getattr(error, "divergent_offsets", named)
        partition = min((topic_partition.partition for topic_partition in named), default=0)
        asked = self._standing.positions.get(partition, 0)
        return OffsetLost(partition, asked, earliest.get(partition, -1), latest.get(partition, -1))

    def _all(self) -> list[Any]:
        return [self._at(partition) for partition in self._standing.positions]

    def _at(self, partition: int) -> Any:
        return TopicPartition(self._kafka.topic, partition)


def _record(record: Any) -> Record:
    return Record(record.offset, record.value or b"", bool(record.headers) and _says_arrow(record.headers))


def _says_arrow(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    """Whether a record's headers say that its value is an Arrow IPC stream."""
    return any(key == "content-type" and value == ARROW for key, value in headers)


def _by_partition(offsets: Mapping[Any, int]) -> dict[int, int]:
    return {topic_partition.partition: offset for topic_partition, offset in offsets.items()}
