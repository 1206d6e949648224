"""Where rejected events go: a topic of their own, when the study names one."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any, NamedTuple, Protocol

from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError

from controller.shell.connections import Kafka, no_topic
from controller.shell.kafka_diagnosis import unreached
from controller.shell.kafka_python import RECONNECT, client_options, connect, said

MAX_LETTERS = 10_000  # of a poll that are told one by one: some brokers store a thousand a second, and the poll waits
MAX_CHUNK, MAX_CHUNK_BYTES = 1_000, 2**20  # letters to be stored at once: few enough for the time that a broker has


class DeadLetter(NamedTuple):
    """One rejected event: which record it stood in, why it was refused, and its (possibly cut) bytes.

    `rows`: how many it stands for, without bytes where there are very many in one record or poll.
    """

    partition: int
    offset: int
    reason: str
    data: bytes
    rows: int = 1


class DeadLetters(Protocol):
    """A place for what was rejected."""

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Return when all are stored; raises DeadLettersUnavailable when they may not be."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class DeadLettersUnavailable(Exception):
    """The dead letters' topic did not take everything; sending again repeats some.

    `stored`: how many of the first letters are stored all the same.
    """

    def __init__(self, why: str, stored: int = 0) -> None:
        super().__init__(why)
        self.stored = stored


def bounded(letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """A poll's first `MAX_LETTERS`; of the others one letter a partition and reason, with the first one's offset."""
    more: dict[tuple[int, str], DeadLetter] = {}
    for letter in letters[MAX_LETTERS:]:
        key = letter.partition, letter.reason
        first = more.setdefault(key, letter._replace(data=b"", rows=0))
        more[key] = first._replace(rows=first.rows + letter.rows)
    return [*letters[:MAX_LETTERS], *more.values()]


def chunk(letters: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
    """As many of the first letters as are stored at once, at least one where there is one."""
    size = 0
    for count, letter in enumerate(letters[:MAX_CHUNK]):
        size += len(letter.data)
        if count and size > MAX_CHUNK_BYTES:
            return letters[:count]
    return letters[:MAX_CHUNK]


class KafkaDeadLetters:
    """`DeadLetters` on a topic: the value is the event as it came, its headers are those of `_headers`.

    It connects at the first letter, so that a study without mistakes needs no second connection.
    """

    def __init__(self, kafka: Kafka, topic: str, *, password: str | None = None, answer_s: float = 10.0) -> None:
        self._kafka = kafka
        self._source_topic = kafka.topic.encode()
        self._topic = topic
        wait_ms = int(answer_s * 1000)
        self._address = client_options(kafka, password)
        self._options = self._address | {
            **RECONNECT,
            "acks": "all",
            # With it kafka-python waits for a producer's id for ever once a letter expired. A letter may come twice.
            "enable_idempotence": False,
            "linger_ms": 5,
            "allow_auto_create_topics": False,
            "max_block_ms": wait_ms,
            "delivery_timeout_ms": wait_ms,
            "request_timeout_ms": max(1, wait_ms // 2),
        }
        self._answer_s = answer_s
        self._producer: Any = None

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """See `DeadLetters.send`."""
        if not letters:
            return
        sent: list[Any] = []
        try:
            producer = self._connected()
            try:
                sent.extend(
                    producer.send(self._topic, letter.data, headers=self._headers(letter)) for letter in letters
                )
            finally:  # also what came before a letter that the client itself refuses
                producer.flush(timeout=self._answer_s)
            for future in sent:
                future.get(timeout=0)
        except KafkaError as error:
            raise DeadLettersUnavailable(
                self._why(error),
                stored=sum(1 for _ in takewhile(lambda future: future.succeeded(), sent)),
            ) from error

    def close(self) -> None:
        """See `DeadLetters.close`."""
        if self._producer is not None:
            with suppress(KafkaError):  # what no broker took is told already, and read again by the next start
                self._producer.close(timeout=self._answer_s)
            self._producer = None

    def _connected(self) -> Any:
        if self._producer is None:
            self._producer = connect(KafkaProducer, self._options, self._answer_s)
        return self._producer

    def _why(self, error: KafkaError) -> str:
        """What keeps letters out: of brokers that are away, or no topic, the producer tells that its time is up."""
        if isinstance(error, KafkaTimeoutError):
            if (away := unreached(self._kafka)) is not None:
                return f"topic {self._topic!r} at {away}"
            if self._absent():
                return no_topic(self._kafka, self._topic)
        return f"topic {self._topic!r} at {self._kafka.bootstrap}: {said(error)}"

    def _absent(self) -> bool:
        """Whether a broker answers, and has no such topic."""
        options = self._address | {
            "group_id": None,
            "allow_auto_create_topics": False,
            "fetch_max_wait_ms": 0,  # has to be less than the next, and nothing is fetched
            "request_timeout_ms": self._options["request_timeout_ms"],
        }
        try:
            consumer = connect(KafkaConsumer, options, self._answer_s)
        except KafkaError:
            return False
        try:
            return not consumer.partitions_for_topic(self._topic)
        except KafkaError:
            return False
        finally:
            consumer.close(autocommit=False)

    def _headers(self, letter: DeadLetter) -> list[tuple[str, bytes]]:
        return [
            ("reason", letter.reason.encode()),
            ("topic", self._source_topic),
            ("partition", str(letter.partition).encode()),
            ("offset", str(letter.offset).encode()),
            ("rows", str(letter.rows).encode()),
        ]
