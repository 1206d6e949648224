"""Reading a source to its end, or until something holds."""

import time
from collections.abc import Callable

from controller.shell.sources import Poll, Record, Source

DEADLINE_S = 60.0


class Clock:
    """A clock for durations that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def drain(source: Source) -> tuple[dict[int, list[Record]], dict[int, int]]:
    """Everything that is there now: records and next offsets by partition."""
    records: dict[int, list[Record]] = {}
    ahead: dict[int, int] = {}
    deadline = time.monotonic() + DEADLINE_S
    while True:
        for part in source.poll(0.2).parts:
            records.setdefault(part.partition, []).extend(part.records)
            assert part.next_offset > ahead.get(part.partition, -1)
            ahead[part.partition] = part.next_offset
        if source.caught_up():
            return {partition: found for partition, found in records.items() if found}, ahead
        assert time.monotonic() < deadline, (records, source.health())


def until(source: Source, holds: Callable[[Poll], bool]) -> Poll:
    """The first poll of which something holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds(poll := source.poll(0.1)):
        assert time.monotonic() < deadline, (poll, source.health())
    return poll


def values(records: list[Record]) -> list[bytes]:
    return [record.value for record in records]
