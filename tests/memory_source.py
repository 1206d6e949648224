"""A topic in memory, for tests that run the daemon without a broker: a working fake of Kafka."""

import time
from collections.abc import Callable, Mapping

from controller.shell.sources import At, Fetched, OffsetLost, Poll, Record, SourceUnavailable, resolve, same
from controller.shell.sources_standing import Standing


class MemoryTopic:
    """What a broker keeps: partitions with records at rising offsets. Faults are methods."""

    def __init__(self, partitions: int = 1) -> None:
        self.logs: dict[int, list[Record]] = {partition: [] for partition in range(partitions)}
        self.earliest = dict.fromkeys(range(partitions), 0)
        self.latest = dict.fromkeys(range(partitions), 0)
        self.id = ""
        self.down: str | None = None

    def append(self, partition: int, value: bytes | None, *, arrow: bool = False) -> int:
        """Add a record; returns its offset."""
        offset = self.latest[partition]
        self.logs[partition].append(Record(offset, value or b"", arrow))
        self.latest[partition] = offset + 1
        return offset

    def skip(self, partition: int, offsets: int = 1) -> None:
        """Use up offsets without a record, as transaction markers and compaction do."""
        self.latest[partition] += offsets

    def trim(self, partition: int, before: int) -> None:
        """Delete the records below an offset, as retention does."""
        self.logs[partition] = [record for record in self.logs[partition] if record.offset >= before]
        self.earliest[partition] = before

    def add_partition(self) -> int:
        """Add an empty partition; returns its number."""
        partition = len(self.logs)
        self.logs[partition] = []
        self.earliest[partition] = self.latest[partition] = 0
        return partition

    def replace(self, id_: str) -> None:
        """Be deleted and made anew: another topic, empty, with as many partitions."""
        partitions = len(self.logs)
        MemoryTopic.__init__(self, partitions)
        self.id = id_

    def stop(self, reason: str = "the broker is down") -> None:
        """Answer nobody until `resume`."""
        self.down = reason

    def resume(self) -> None:
        """Answer again."""
        self.down = None


class MemorySource:
    """`Source` on a `MemoryTopic`. `max_records`: of one partition in one poll."""

    def __init__(
        self,
        topic: MemoryTopic,
        *,
        idle_after_s: float | None = None,
        max_records: int = 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self.log = ""
        self._idle_after_s = idle_after_s
        self._max_records = max_records
        self._monotonic = monotonic
        self._standing = Standing({}, idle_after_s, monotonic)

    def start(self, offsets: Mapping[int, int] | None, at: At, log: str = "") -> dict[int, int]:
        """See `Source.start`."""
        if self._topic.down is not None:
            raise SourceUnavailable(self._topic.down)
        self.log = same(log, self._topic.id)
        positions = resolve(offsets, at, self._topic.earliest, self._topic.latest)
        self._standing = Standing(positions, self._idle_after_s, self._monotonic)
        return positions

    def poll(self, timeout_s: float) -> Poll:
        """See `Source.poll`; never waits."""
        if self._topic.down is not None:
            self._standing.silent(self._topic.down)
            return Poll(behind=self._standing.behind())
        self.log = same(self.log, self._topic.id)
        for partition in self._topic.logs.keys() - self._standing.positions.keys():
            self._standing.advance(partition, self._topic.earliest[partition])
        fetched = [self._fetch(partition) for partition in sorted(self._standing.positions)]
        self._standing.answered(self._topic.latest)
        parts = tuple(part for part in fetched if part is not None)
        return Poll(parts, self._standing.idle(), False, self._standing.behind())

    def health(self) -> str | None:
        """See `Source.health`."""
        return self._standing.health()

    def caught_up(self) -> bool:
        """See `Source.caught_up`."""
        return self._topic.down is None and self._topic.latest == self._standing.positions

    def close(self) -> None:
        """See `Source.close`."""

    def _fetch(self, partition: int) -> Fetched | None:
        position = self._standing.positions[partition]
        earliest, latest = self._topic.earliest[partition], self._topic.latest[partition]
        if not earliest <= position <= latest:
            raise OffsetLost(partition, position, earliest, latest)
        # below the end of before, so that what another thread appends meanwhile is not read now and then again
        records = [record for record in self._topic.logs[partition] if position <= record.offset < latest]
        taken = records[: self._max_records]
        next_offset = latest if len(taken) == len(records) else taken[-1].offset + 1
        if next_offset == position:
            return None
        self._standing.advance(partition, next_offset)
        return Fetched(partition, taken, next_offset)
