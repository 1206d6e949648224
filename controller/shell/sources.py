"""Where events come from: the seam between the daemon and Kafka, a file, or memory.

A source has one topic's partitions, numbered from 0, each a log of records with rising offsets (with gaps where
Kafka keeps transaction markers, or took away what was aborted or compacted) that ends where a transaction is open.
The caller keeps the offsets: no consumer group, nothing committed to the broker.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import msgspec

At = Literal["earliest", "latest"]

ARROW = b"application/vnd.apache.arrow.stream"  # value of the record header `content-type`


class Record(NamedTuple):
    """One record. `arrow`: its header says that it is an Arrow IPC stream; a record without a value is `b""`."""

    offset: int
    value: bytes
    arrow: bool


class Fetched(msgspec.Struct, frozen=True):
    """Records of one partition in offset order. `next_offset`: where to go on, beyond gaps; it may rise alone."""

    partition: int
    records: list[Record]
    next_offset: int


class Poll(msgspec.Struct, frozen=True):
    """What one poll brought.

    `idle`: partitions at their end for long enough (see `Standing`). `backlog`: records are left after this poll
    and the newest one of it was appended more than a window ago. `behind`: records (bytes, for a file) left.
    """

    parts: tuple[Fetched, ...] = ()
    idle: frozenset[int] = frozenset()
    backlog: bool = False
    behind: dict[int, int] = {}


class Source(Protocol):
    """A log that can be read from any offset. `log`: see `start`."""

    log: str

    def start(self, offsets: Mapping[int, int] | None, at: At, log: str = "") -> dict[int, int]:
        """Resolve where each partition starts, fetching nothing yet; may be called again after it failed.

        With `offsets`, partitions that it does not name are new and start at their beginning; without, all
        start `at` their beginning or end. `log`: the id of the topic that the offsets are of; a topic that is made
        anew under its name has another. Afterwards the attribute `log` is that of what is read. "" is not known.

        Raises:
            SourceUnavailable: nothing answers, or the topic is not there; worth trying again.
            TopicReplaced: the offsets are those of another topic.
            OffsetLost: a record between an asked offset and the log's beginning is gone for good.
        """
        ...

    def poll(self, timeout_s: float) -> Poll:
        """Records that came within `timeout_s`; empty, with `health` telling why, while nothing answers.

        Raises:
            TopicReplaced, OffsetLost: as in `start`.
        """
        ...

    def health(self) -> str | None:
        """Why nothing can be read now; None when all is well."""
        ...

    def caught_up(self) -> bool:
        """Whether everything that is there now has been returned: asks the log anew."""
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...


class SourceUnavailable(Exception):
    """The source cannot be reached now; trying again may help."""


class TopicReplaced(Exception):
    """The topic was deleted and made anew: an offset of the old one names another record, or none, in the new one."""

    def __init__(self, before: str, log: str) -> None:
        super().__init__(
            f"the topic was deleted and made anew, or is another cluster's: its id was {before} and is {log}, "
            "so the offsets that were reached mean nothing in it"
        )
        self.before = before
        self.log = log


class OffsetLost(Exception):
    """A partition does not hold the offset any more (or not yet): going on would skip records or read others."""

    def __init__(self, partition: int, asked: int, earliest: int, latest: int) -> None:
        super().__init__(
            f"partition {partition}: offset {asked} was asked for, but the log holds {earliest} to {latest}; "
            "records were deleted (retention), the topic was made anew, or a leader that lacked records was elected"
        )
        self.partition = partition
        self.asked = asked
        self.earliest = earliest
        self.latest = latest


def same(before: str, log: str) -> str:
    """What to go by from now on of two ids, of which either may be unknown; raises TopicReplaced where they differ."""
    if before and log and before != log:
        raise TopicReplaced(before, log)
    return log or before


def resolve(
    offsets: Mapping[int, int] | None, at: At, earliest: Mapping[int, int], latest: Mapping[int, int]
) -> dict[int, int]:
    """Where each partition starts, given the bounds of the logs; raises OffsetLost for an offset outside them."""
    if offsets is None:
        return dict(earliest if at == "earliest" else latest)
    for partition, asked in offsets.items():
        low, high = earliest.get(partition, 0), latest.get(partition, 0)
        if partition not in latest or not low <= asked <= high:
            raise OffsetLost(partition, asked, low, high)
    return {partition: offsets.get(partition, low) for partition, low in earliest.items()}
