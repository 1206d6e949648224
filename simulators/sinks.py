"""Where a simulation's events go: a Kafka topic, or files of NDJSON (also gzipped), Parquet or Arrow."""

import errno
import gzip
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from controller.shell.connections import Kafka
from controller.shell.kafka_diagnosis import diagnosed
from controller.shell.kafka_python import client_options, connect
from controller.shell.sources import ARROW

ANSWER_S = 10.0
STORED_S = 120.0  # how long a broker may be away before events are given up
_NEW_TOPIC_S = 30


class SinkFailed(Exception):
    """Events were not stored; which of the last ones were is not known."""


class Sink(Protocol):
    """Takes events in the order of each partition."""

    @property
    def partitions(self) -> int:
        """Number of partitions, 0..n-1."""
        ...

    def send(self, partition: int, records: Sequence[bytes]) -> None:
        """Hand records over; raises `SinkFailed`."""
        ...

    def flush(self) -> None:
        """Return when all that was sent is stored; raises `SinkFailed`."""
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...


class KafkaSink:
    """A topic, made with `partitions` partitions when it does not exist. Raises `SinkFailed`."""

    def __init__(
        self,
        kafka: Kafka,
        partitions: int,
        password: str | None = None,
        answer_s: float = ANSWER_S,
        stored_s: float = STORED_S,
    ) -> None:
        self._topic, self._bootstrap = kafka.topic, kafka.bootstrap
        self._answer_s, self._stored_s = answer_s, stored_s
        options = client_options(kafka, password)
        # Idempotent by default: a retry after a broker's restart neither repeats nor reorders.
        batching = {"acks": "all", "linger_ms": 20, "batch_size": 256 * 1024, "allow_auto_create_topics": False}
        patience = {"delivery_timeout_ms": int(stored_s * 1000), "request_timeout_ms": int(stored_s / 4 * 1000)}
        try:
            self._producer = connect(KafkaProducer, options | batching | patience, answer_s)
        except KafkaError as error:
            raise SinkFailed(f"topic {self._topic!r}: no broker is of use: {diagnosed(kafka)}") from error
        try:
            _make_topic(options, kafka.topic, partitions)
            self._partitions = len(self._producer.partitions_for(kafka.topic))
        except KafkaError as error:
            self.close()
            raise self._failed(error) from error
        self._sent: list[Any] = []

    @property
    def partitions(self) -> int:
        """Of the topic as it is."""
        return self._partitions

    def send(self, partition: int, records: Sequence[bytes], headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """See `Sink.send`."""
        send, topic, about = self._producer.send, self._topic, list(headers)
        try:
            self._sent.extend([send(topic, record, headers=about, partition=partition) for record in records])
        except KafkaError as error:
            raise self._failed(error) from error

    def flush(self) -> None:
        """See `Sink.flush`."""
        try:
            # Once events have expired, kafka-python's idempotent client waits for a new id, and for ever.
            self._producer.flush(timeout=self._stored_s + self._answer_s)
            for future in self._sent:
                if future.failed():
                    future.get(timeout=0)
        except KafkaError as error:
            raise self._failed(error) from error
        self._sent.clear()

    def close(self) -> None:
        """See `Sink.close`."""
        try:
            self._producer.close(timeout=self._answer_s)
        except KafkaError:  # it still holds what it cannot send, which is told: it is to let go of that first
            vars(self._producer)["_sender"].force_close()
            with suppress(KafkaError):
                self._producer.close(timeout=self._answer_s)

    def _failed(self, error: Exception) -> SinkFailed:
        return SinkFailed(f"topic {self._topic!r} at {self._bootstrap}: {type(error).__name__}: {error}")


class ArrowKafkaSink:
    """A topic whose records are Arrow IPC streams of so many events."""

    def __init__(self, kafka: KafkaSink, per_record: int) -> None:
        self._kafka, self._per_record = kafka, per_record

    @property
    def partitions(self) -> int:
        """Of the topic as it is."""
        return self._kafka.partitions

    def send_columns(self, partition: int, batch: pa.RecordBatch) -> None:
        """See `ColumnSink.send_columns`."""
        parts = (batch.slice(at, self._per_record) for at in range(0, batch.num_rows, self._per_record))
        self._kafka.send(partition, [_stream(part) for part in parts], ARROW_HEADERS)

    def flush(self) -> None:
        """See `Sink.flush`."""
        self._kafka.flush()

    def close(self) -> None:
        """See `Sink.close`."""
        self._kafka.close()


ARROW_HEADERS = (("content-type", ARROW),)


def _stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    written: bytes = sink.getvalue().to_pybytes()
    return written


@runtime_checkable
class ColumnSink(Protocol):
    """Takes events as columns, in the order of each partition."""

    @property
    def partitions(self) -> int:
        """See `Sink.partitions`."""
        ...

    def send_columns(self, partition: int, batch: pa.RecordBatch) -> None:
        """Hand rows over, with the columns of `wire.arrow_batch`; raises `SinkFailed`."""
        ...

    def flush(self) -> None:
        """See `Sink.flush`."""
        ...

    def close(self) -> None:
        """See `Sink.close`."""
        ...


def file_sink(path: str, partitions: int, mine: Sequence[int]) -> Sink | ColumnSink:
    """The files of those partitions that are `mine`, in the format that the path's ending names ("-": standard output).

    Raises `SinkFailed` when one exists already or cannot be written, or the ending is none of `ENDINGS`.
    """
    if path == "-" or path.endswith((".ndjson", ".ndjson.gz")):
        return NdjsonSink(path, partitions, mine)
    if path.endswith((".parquet", ".arrow", ".arrows")):
        return ColumnFiles(path, partitions, mine)
    raise SinkFailed(f"{path}: the file's ending must be one of {', '.join(ENDINGS)}")


ENDINGS = (".ndjson", ".ndjson.gz", ".parquet", ".arrow", ".arrows")


def partition_path(path: str, partition: int, partitions: int) -> Path:
    """`events.ndjson.gz`, or `events-2.ndjson.gz` where there are several partitions."""
    whole = Path(path)
    if partitions == 1:
        return whole
    stem, dot, ending = whole.name.partition(".")
    return whole.with_name(f"{stem}-{partition}{dot}{ending}")


class NdjsonSink:
    """Lines of a file for each partition, or of standard output ("-")."""

    def __init__(self, path: str, partitions: int = 1, mine: Sequence[int] = (0,)) -> None:
        self.partitions = partitions
        self._paths = {p: path if path == "-" else free(partition_path(path, p, partitions)) for p in mine}
        self._open = ExitStack()
        self._files: dict[int, Any] = {}  # made with the first lines: what is refused before leaves no file

    def send(self, partition: int, records: Sequence[bytes]) -> None:
        """See `Sink.send`."""
        try:
            if partition not in self._files:
                self._files[partition] = self._lines(self._paths[partition])
            self._files[partition].writelines(record + b"\n" for record in records)
        except OSError as error:
            raise _unwritable(error) from error

    def flush(self) -> None:
        """See `Sink.flush`; a gzipped file is whole once it is closed."""
        try:
            for file in self._files.values():
                if not isinstance(file, gzip.GzipFile):  # each flush would cost it a block
                    file.flush()
        except OSError as error:
            raise _unwritable(error) from error

    def close(self) -> None:
        """See `Sink.close`."""
        self._open.close()

    def _lines(self, path: str | Path) -> Any:
        if path == "-":
            return sys.stdout.buffer
        file = self._open.enter_context(created(Path(path)))
        # without a name and a time in its header the same events are the same bytes
        return self._open.enter_context(gzip.GzipFile("", "wb", 6, file, 0)) if str(path).endswith(".gz") else file


class ColumnFiles:
    """A Parquet file, an Arrow file (`.arrow`) or an Arrow stream (`.arrows`) for each partition."""

    def __init__(self, path: str, partitions: int, mine: Sequence[int]) -> None:
        self.partitions = partitions
        self._paths = {p: free(partition_path(path, p, partitions)) for p in mine}
        self._files: dict[int, IO[bytes]] = {}  # made with the first rows: what is refused before leaves no file
        self._writers: dict[int, Any] = {}
        self._held: dict[int, list[pa.RecordBatch]] = {p: [] for p in mine}

    def send_columns(self, partition: int, batch: pa.RecordBatch) -> None:
        """See `ColumnSink.send_columns`; rows are stored in groups of at least GROUP, and at the end."""
        held = self._held[partition]
        held.append(batch)
        if sum(part.num_rows for part in held) >= GROUP:
            self._store(partition)

    def flush(self) -> None:
        """A file of columns is whole once it is closed."""

    def close(self) -> None:
        """See `Sink.close`."""
        for partition, held in self._held.items():
            if held:
                self._store(partition)
            if partition in self._writers:
                self._writers[partition].close()
                self._files[partition].close()

    def _store(self, partition: int) -> None:
        table = pa.Table.from_batches(self._held[partition]).combine_chunks()
        self._held[partition].clear()
        try:
            if partition not in self._writers:
                self._writers[partition] = self._writer(partition, table.schema)
            self._writers[partition].write_table(table)
        except (OSError, pa.ArrowException) as error:
            raise _unwritable(error) from error

    def _writer(self, partition: int, schema: pa.Schema) -> Any:
        file = self._files[partition] = created(self._paths[partition])
        ending = self._paths[partition].suffix
        if ending == ".parquet":
            return pq.ParquetWriter(file, schema, compression="zstd")
        return pa.ipc.new_stream(file, schema) if ending == ".arrows" else pa.ipc.new_file(file, schema)


GROUP = 131_072  # rows


def free(path: Path) -> Path:
    """The path of a file that can be made; raises `SinkFailed` when there is one, or no folder for it."""
    if path.exists():
        raise SinkFailed(f"{path}: exists already; name a new file")
    if not path.parent.is_dir():
        raise SinkFailed(f"{path}: {os.strerror(errno.ENOENT)}")
    return path


def created(path: Path) -> IO[bytes]:
    """A new file; raises `SinkFailed` when there is one, or none can be made."""
    try:
        return path.open("xb")
    except FileExistsError as error:
        raise SinkFailed(f"{path}: exists already; name a new file") from error
    except OSError as error:
        raise SinkFailed(f"{path}: {error.strerror}") from error


def _unwritable(error: Exception) -> SinkFailed:
    return SinkFailed(f"the events cannot be written: {getattr(error, 'strerror', None) or error}")


def _make_topic(options: dict[str, Any], topic: str, partitions: int) -> None:
    admin = connect(KafkaAdminClient, options, ANSWER_S)
    try:
        if topic not in admin.list_topics():
            admin.create_topics([NewTopic(topic, partitions)], timeout_ms=_NEW_TOPIC_S * 1000)
    except TopicAlreadyExistsError:
        pass  # made by another process in this moment
    finally:
        admin.close()
