"""Events from Kafka by confluent-kafka (librdkafka): the faster client, an optional dependency."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from operator import methodcaller
from typing import Any, Final

import confluent_kafka
import msgspec
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition, admin

from controller.shell.connections import Kafka, no_offsets, no_topic
from controller.shell.kafka_diagnosis import diagnosed, unreached
from controller.shell.sources import ARROW, At, Fetched, OffsetLost, Poll, Record, SourceUnavailable, resolve, same
from controller.shell.sources_standing import LEADERS_S, Newest, Standing
from controller.shell.tls import context, require_password

_SPEC: Final[Any] = vars(admin)["OffsetSpec"]  # public, but its package's annotations leave it out
_EARLIEST: Final = _SPEC.earliest()
_LATEST: Final = _SPEC.latest()
_COMMITTED: Final = IsolationLevel.READ_COMMITTED  # as the consumer reads: an end beyond it is never reached
_ANSWER_S: Final = 2.0  # an end offset that takes longer counts as no answer
_NO_ID: Final = str(confluent_kafka.Uuid(0, 0))
_URL_SAFE: Final = str.maketrans("+/", "-_")
_MOST_RECORDS: Final = 50_000  # a poll
# A plain call of a warm interpreter takes a result for good that comes with an error, which the next call raises.
_headers: Final = methodcaller("headers")
_LOG_LEVEL: Final = 2  # what matters is said by `health`
_SETTINGS: Final = {
    "group.id": "trimtab-assigned-by-hand",  # demanded by the client, used for nothing
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # an offset out of range is an error, never a silent jump
    "allow.auto.create.topics": False,
    "enable.partition.eof": True,  # tells the end offset beyond markers and gaps that hold no record
    "check.crcs": True,
    "isolation.level": "read_committed",
    "fetch.wait.max.ms": 100,
    "fetch.message.max.bytes": 4 << 20,
    "fetch.max.bytes": 16 << 20,
    "queued.max.messages.kbytes": 32 << 10,
    "topic.metadata.refresh.interval.ms": int(LEADERS_S * 1000),
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 2_000,
    "log_level": _LOG_LEVEL,
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
        self._login = _login(kafka, password)
        self._window_ms = window_ms
        self._idle_after_s = idle_after_s
        self._answer_s = answer_s
        self._refresh_s = refresh_s
        self._monotonic = monotonic
        self._now_ms = now_ms
        self._consumer: Any = None
        self._assigned = False
        self.log = ""
        self._admin: Any = None  # a connection of its own: an answer does not wait behind a fetch that waits
        self._refreshed_at = 0.0
        self._standing = Standing({}, idle_after_s, monotonic)

    def start(self, offsets: Mapping[int, int] | None, at: At, log: str = "") -> dict[int, int]:
        """See `Source.start`."""
        self.close()
        self.log = log
        self._admin = admin.AdminClient(self._login | {"log_level": _LOG_LEVEL})
        try:
            positions = self._resolve(offsets, at)
        except KafkaException as error:
            raise SourceUnavailable(
                f"no Kafka broker is of use within {self._answer_s:g} s: {diagnosed(self._kafka)}"
                f" [{error.args[0].str()}]"
            ) from error
        self._consumer = confluent_kafka.Consumer({**_SETTINGS, **self._login})
        self._assigned = False
        self._refreshed_at = self._monotonic()
        self._standing = Standing(positions, self._idle_after_s, self._monotonic)
        return positions

    def poll(self, timeout_s: float) -> Poll:
        """See `Source.poll`."""
        self._assign()
        answered = self._discover()
        messages = self._consumer.consume(_MOST_RECORDS, 0)
        if not messages:  # `consume` waits until it has all it was asked for; one message is enough to wait for
            messages = self._consumer.consume(1, timeout_s)
            messages += self._consumer.consume(_MOST_RECORDS, 0) if messages else []
        parts, newest = self._sort(messages)
        if answered and self._standing.due():  # one question without an answer is as much as a poll may wait for
            self._ask_ends()
        backlog = bool(parts) and self._standing.backlog(newest, self._window_ms, self._now_ms())
        return Poll(parts, self._standing.idle(), backlog, self._standing.behind())

    def health(self) -> str | None:
        """See `Source.health`."""
        return self._standing.health()

    def caught_up(self) -> bool:
        """See `Source.caught_up`."""
        self._assign()
        self._refreshed_at = -math.inf
        if not self._discover():
            return False
        self._ask_ends()
        return self._standing.at_end()

    def close(self) -> None:
        """See `Source.close`."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _resolve(self, offsets: Mapping[int, int] | None, at: At) -> dict[int, int]:
        partitions = self._partitions(self._answer_s)
        if not partitions:
            raise SourceUnavailable(no_topic(self._kafka, self._kafka.topic))
        log = same(self.log, self._id(self._answer_s))
        earliest = self._ask(partitions, _EARLIEST, self._answer_s)
        latest = self._ask(partitions, _LATEST, self._answer_s)
        positions = resolve(offsets, at, earliest, latest)
        self.log = log
        return positions

    def _assign(self) -> None:
        """Begin to fetch: not in `start`, because the client does so by itself from then on."""
        if not self._assigned:
            self._consumer.assign([self._at(*position) for position in self._standing.positions.items()])
            self._assigned = True

    def _sort(self, messages: list[Any]) -> tuple[tuple[Fetched, ...], Newest]:
        """Messages by partition, with where each goes on, and the newest timestamp."""
        records: dict[int, list[Record]] = {}
        ahead: dict[int, int] = {}
        newest = Newest()
        for message in messages:
            partition, offset = message.partition(), message.offset()
            error = message.error()
            if error is None:
                records.setdefault(partition, []).append(_record(message, offset))
                ahead[partition] = offset + 1
                kind, ms = message.timestamp()
                newest = max(newest, Newest(ms, kind == confluent_kafka.TIMESTAMP_LOG_APPEND_TIME))
            elif error.code() == KafkaError._PARTITION_EOF:
                ahead[partition] = offset
            else:
                self._failed(error, partition)
        return self._moved(records, ahead), newest

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
            raise OffsetLost(partition, asked, *self._bounds(partition))
        self._standing.failed(f"Kafka at {self._kafka.bootstrap}, partition {partition}: {error}")

    def _discover(self) -> bool:
        """Take up partitions that were added to the topic, at their beginning; False where nobody could say."""
        if self._monotonic() - self._refreshed_at < self._refresh_s:
            return True
        self._refreshed_at = self._monotonic()
        try:
            new = self._partitions(_ANSWER_S) - self._standing.positions.keys()
            starts = self._ask(new, _EARLIEST, _ANSWER_S)
            self.log = same(self.log, self._id(_ANSWER_S))
        except KafkaException as error:
            self._standing.silent(self._silence(error))
            return False
        if starts:
            self._consumer.incremental_assign([self._at(*position) for position in starts.items()])
        for partition, offset in starts.items():
            self._standing.advance(partition, offset)
        return True

    def _ask_ends(self) -> None:
        try:
            ends = self._ask(self._standing.positions, _LATEST, _ANSWER_S)
        except KafkaException as error:
            self._standing.silent(self._silence(error))
        else:
            self._standing.answered(ends)

    def _silence(self, error: KafkaException) -> str:
        """Why no answer came. Of a topic that is gone the client may say what it says of brokers: no leader."""
        if unreached(self._kafka) is not None:
            return f"no broker answers at {self._kafka.bootstrap}: {error}"
        code, gone = error.args[0].code(), (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._NOENT)
        if code > 0 or code in gone:  # a broker's word
            with suppress(KafkaException):
                there = self._partitions(_ANSWER_S)  # which renews their leaders too, where one has moved
                if not there and code in gone:
                    return no_topic(self._kafka, self._kafka.topic)
        return no_offsets(self._kafka, str(error))

    def _partitions(self, timeout_s: float) -> set[int]:
        """Numbers of the topic's partitions; empty when there is no such topic."""
        topic = self._admin.list_topics(self._kafka.topic, timeout=timeout_s).topics[self._kafka.topic]
        return set() if topic.error is not None else set(topic.partitions)

    def _id(self, timeout_s: float) -> str:
        """The topic's, as Kafka's own tools write it; "" of a broker before 2.8. Raises KafkaException."""
        topics = confluent_kafka.TopicCollection([self._kafka.topic])
        answer = self._admin.describe_topics(topics, request_timeout=timeout_s)[self._kafka.topic]
        found = str(answer.result().topic_id)
        return "" if found == _NO_ID else found.translate(_URL_SAFE)

    def _ask(self, partitions: Iterable[int], spec: Any, timeout_s: float) -> dict[int, int]:
        """Freshly asked offsets; raises KafkaException when an answer does not come in time."""
        asked = {self._at(partition): spec for partition in sorted(partitions)}
        if not asked:
            return {}
        answers = self._admin.list_offsets(asked, isolation_level=_COMMITTED, request_timeout=timeout_s)
        return {at.partition: answer.result().offset for at, answer in answers.items()}

    def _bounds(self, partition: int) -> tuple[int, int]:
        """First and end offset for the message of a loss, which is certain already: -1 when they cannot be had."""
        try:
            earliest = self._ask([partition], _EARLIEST, _ANSWER_S)
            latest = self._ask([partition], _LATEST, _ANSWER_S)
        except KafkaException:
            return -1, -1
        return earliest[partition], latest[partition]

    def _at(self, partition: int, offset: int = 0) -> Any:
        return TopicPartition(self._kafka.topic, partition, offset)


def _login(kafka: Kafka, password: str | None) -> dict[str, Any]:
    options = {"bootstrap.servers": kafka.bootstrap, "client.id": "trimtab", "security.protocol": kafka.security}
    require_password("kafka", kafka.username, password)
    if kafka.security.endswith("ssl"):
        context("kafka", kafka.tls)  # this client would name no file that it cannot use
        keys = {"ca_file": "ssl.ca.location", "cert_file": "ssl.certificate.location", "key_file": "ssl.key.location"}
        files = msgspec.structs.asdict(kafka.tls)
        options |= {key: files[name] for name, key in keys.items() if files[name] is not None}
    if kafka.sasl_mechanism is not None:
        login = {"sasl.mechanism": kafka.sasl_mechanism, "sasl.username": kafka.username or ""}
        options |= {**login, "sasl.password": password or ""}
    return options


def _record(message: Any, offset: int) -> Record:
    return Record(offset, message.value() or b"", _says_arrow(message))


def _says_arrow(message: Any) -> bool:
    """Whether a record's headers say so; those of which one has a name that is not UTF-8 cannot be had."""
    try:
        headers = _headers(message)
    except (SystemError, UnicodeDecodeError):
        return False
    return bool(headers) and ("content-type", ARROW) in headers
