"""Events from Kafka by confluent-kafka (librdkafka): the faster client, an optional dependency."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from controller.shell.connections import Kafka
from controller.shell.sources import ARROW, At, Fetched, OffsetLost, Poll, Record, SourceUnavailable, resolve
from controller.shell.sources_standing import Standing

try:
    import confluent_kafka
    from confluent_kafka import KafkaError, KafkaException, TopicPartition
except ImportError as missing:
    raise ImportError('client = "confluent" needs confluent-kafka: pip install "trimtab[confluent]"') from missing

_ANSWER_S: Final = 2.0  # an end offset that takes longer counts as no answer
_MOST_RECORDS: Final = 50_000  # a poll
_SETTINGS: Final = {
    "group.id": "trimtab-assigned-by-hand",  # demanded by the client, used for nothing
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # an offset out of range is an error, never a silent jump
    "allow.auto.create.topics": False,
    "enable.partition.eof": True,  # tells the end offset beyond markers and gaps that hold no record
    "check.crcs": True,
    "isolation.level": "read_uncommitted",
    "fetch.wait.max.ms": 250,
    "fetch.message.max.bytes": 4 << 20,
    "fetch.max.bytes": 16 << 20,
    "queued.max.messages.kbytes": 32 << 10,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 2_000,
    "log_level": 2,  # what matters is said by `health`
}


class ConfluentSource:
    """`Source` on one topic; arguments as of `KafkaSource`."""

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
        self._options = {**_SETTINGS, **_login(kafka, password)}
        self._window_ms = window_ms
        self._idle_after_s = idle_after_s
        self._answer_s = answer_s
        self._refresh_s = refresh_s
        self._monotonic = monotonic
        self._now_ms = now_ms
        self._consumer: Any = None
        self._refreshed_at = 0.0
        self._standing = Standing({}, idle_after_s, monotonic)

    def start(self, offsets: Mapping[int, int] | None, at: At) -> dict[int, int]:
        """See `Source.start`."""
        self.close()
        consumer = confluent_kafka.Consumer(self._options)
        try:
            positions = self._resolve(consumer, offsets, at)
            consumer.assign([self._at(partition, offset) for partition, offset in positions.items()])
        except KafkaException as error:
            consumer.close()
            raise SourceUnavailable(
                f"no Kafka broker answered at {self._kafka.bootstrap} within {self._answer_s:g} s: {error}"
            ) from error
        except (SourceUnavailable, OffsetLost):
            consumer.close()
            raise
        self._consumer = consumer
        self._refreshed_at = self._monotonic()
        self._standing = Standing(positions, self._idle_after_s, self._monotonic)
        return positions

    def poll(self, timeout_s: float) -> Poll:
        """See `Source.poll`."""
        self._discover()
        messages = self._consumer.consume(_MOST_RECORDS, 0)
        if not messages:  # `consume` waits until it has all it was asked for; one message is enough to wait for
            messages = self._consumer.consume(1, timeout_s)
            messages += self._consumer.consume(_MOST_RECORDS, 0) if messages else []
        parts, newest_ms = self._sort(messages)
        if self._standing.due():
            self._ask()
        behind = self._standing.behind({})
        backlog = bool(parts) and any(behind.values()) and self._now_ms() - newest_ms > self._window_ms
        return Poll(parts, self._standing.idle(), backlog, behind)

    def health(self) -> str | None:
        """See `Source.health`."""
        return self._standing.health()

    def caught_up(self) -> bool:
        """See `Source.caught_up`."""
        self._refreshed_at = 0.0
        self._discover()
        self._ask()
        return self._standing.at_end()

    def close(self) -> None:
        """See `Source.close`."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _resolve(self, consumer: Any, offsets: Mapping[int, int] | None, at: At) -> dict[int, int]:
        partitions = self._partitions(consumer, self._answer_s)
        if not partitions:
            raise SourceUnavailable(f"Kafka at {self._kafka.bootstrap} has no topic {self._kafka.topic!r}")
        bounds = {partition: self._bounds(consumer, partition, self._answer_s) for partition in sorted(partitions)}
        earliest = {partition: low for partition, (low, _) in bounds.items()}
        latest = {partition: high for partition, (_, high) in bounds.items()}
        return resolve(offsets, at, earliest, latest)

    def _sort(self, messages: list[Any]) -> tuple[tuple[Fetched, ...], int]:
        """Messages by partition, with where each goes on, and the newest append time."""
        records: dict[int, list[Record]] = {}
        ahead: dict[int, int] = {}
        newest_ms = 0
        for message in messages:
            partition, offset = message.partition(), message.offset()
            error = message.error()
            if error is None:
                records.setdefault(partition, []).append(_record(message, offset))
                ahead[partition] = offset + 1
                newest_ms = max(newest_ms, message.timestamp()[1])
            elif error.code() == KafkaError._PARTITION_EOF:
                ahead[partition] = offset
            else:
                self._failed(error, partition)
        return self._moved(records, ahead), newest_ms

    def _moved(self, records: Mapping[int, list[Record]], ahead: Mapping[int, int]) -> tuple[Fetched, ...]:
        parts = []
        for partition, next_offset in sorted(ahead.items()):
            if next_offset != self._standing.positions[partition]:
                self._standing.advance(partition, next_offset)
                parts.append(Fetched(partition, records.get(partition, []), next_offset))
        return tuple(parts)

    def _failed(self, error: Any, partition: int) -> None:
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION):
            asked = self._standing.positions[partition]
            raise OffsetLost(partition, asked, *self._bounds(self._consumer, partition, _ANSWER_S))
        self._standing.silent(f"Kafka at {self._kafka.bootstrap}: {error}")

    def _discover(self) -> None:
        """Take up partitions that were added to the topic, at their beginning."""
        if self._monotonic() - self._refreshed_at < self._refresh_s:
            return
        self._refreshed_at = self._monotonic()
        try:
            new = self._partitions(self._consumer, _ANSWER_S) - self._standing.positions.keys()
            starts = {partition: self._bounds(self._consumer, partition, _ANSWER_S)[0] for partition in sorted(new)}
        except KafkaException as error:
            self._standing.silent(f"no broker answers at {self._kafka.bootstrap}: {error}")
            return
        if starts:
            self._consumer.incremental_assign([self._at(partition, offset) for partition, offset in starts.items()])
        for partition, offset in starts.items():
            self._standing.advance(partition, offset)

    def _ask(self) -> None:
        try:
            ends = {p: self._bounds(self._consumer, p, _ANSWER_S)[1] for p in self._standing.positions}
        except KafkaException as error:
            self._standing.silent(f"no broker answers at {self._kafka.bootstrap}: {error}")
        else:
            self._standing.answered(ends)

    def _partitions(self, consumer: Any, timeout_s: float) -> set[int]:
        """Numbers of the topic's partitions; empty when there is no such topic."""
        topic = consumer.list_topics(self._kafka.topic, timeout=timeout_s).topics[self._kafka.topic]
        return set() if topic.error is not None else set(topic.partitions)

    def _bounds(self, consumer: Any, partition: int, timeout_s: float) -> tuple[int, int]:
        """Freshly asked first and end offset; raises KafkaException when no answer comes."""
        low, high = consumer.get_watermark_offsets(self._at(partition), timeout=timeout_s, cached=False)
        return low, high

    def _at(self, partition: int, offset: int = 0) -> Any:
        return TopicPartition(self._kafka.topic, partition, offset)


def _login(kafka: Kafka, password: str | None) -> dict[str, Any]:
    options = {"bootstrap.servers": kafka.bootstrap, "client.id": "trimtab", "security.protocol": kafka.security}
    if kafka.ca_file is not None:
        options["ssl.ca.location"] = kafka.ca_file
    if kafka.sasl_mechanism is not None:
        login = {"sasl.mechanism": kafka.sasl_mechanism, "sasl.username": kafka.username or ""}
        options |= {**login, "sasl.password": password or ""}
    return options


def _record(message: Any, offset: int) -> Record:
    headers = message.headers()
    return Record(offset, message.value() or b"", bool(headers) and ("content-type", ARROW) in headers)
