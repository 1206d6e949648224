"""Where a reader stands in each partition: how far behind, how long at the end, how long without an answer."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

ASK_EVERY_S = 1.0
LEADERS_S = 10.0  # how often leaders are looked for: one that hangs keeps its connection, and tells nothing
FAULT_HOLDS_S = 10.0  # a fault that came no more for so long is over


class Newest(NamedTuple):
    """The timestamp of the newest record of a poll."""

    ms: int = 0
    by_broker: bool = False  # when it was appended; else what its producer says, which may be when it was served


class Standing:
    """Positions against freshly asked end offsets.

    A partition is idle once every answer over `idle_after_s` has found its position at the end offset; without an
    answer it has to earn that anew. `idle_after_s` None: nothing is ever idle (the events clock).
    """

    def __init__(
        self, positions: Mapping[int, int], idle_after_s: float | None, monotonic: Callable[[], float]
    ) -> None:
        self.positions = dict(positions)
        self._idle_after_s = idle_after_s
        self._monotonic = monotonic
        self._ends: dict[int, int] = {}
        self._at_end_since: dict[int, float] = {}
        self._goal: tuple[float, dict[int, int]] | None = None  # end offsets to be passed, and since when
        self._catching_up = True  # they are those of the first answer, at the start or after a silence
        self._asked_at: float | None = None
        self._silent: tuple[float, str] | None = None  # since when, and why
        self._fault: tuple[float, str] | None = None  # last when, and what

    def advance(self, partition: int, next_offset: int) -> None:
        """The reader has gone on to `next_offset`."""
        if self.positions.get(partition) != next_offset:
            self.positions[partition] = next_offset
            self._at_end_since.pop(partition, None)

    def due(self) -> bool:
        """Whether the end offsets are to be asked for again."""
        every = ASK_EVERY_S if self._idle_after_s is None else min(ASK_EVERY_S, self._idle_after_s / 4)
        return self._asked_at is None or self._monotonic() - self._asked_at >= every

    def answered(self, ends: Mapping[int, int]) -> None:
        """Freshly asked end offsets of all partitions."""
        self._asked_at = self._monotonic()
        self._silent = None
        self._ends = dict(ends)
        if self._goal is None or self._passed(self._goal[1]):
            self._catching_up = self._goal is None
            self._goal = self._asked_at, self._ends
        for partition, position in self.positions.items():
            if ends.get(partition) == position:
                self._at_end_since.setdefault(partition, self._asked_at)
            else:
                self._at_end_since.pop(partition, None)

    def silent(self, reason: str) -> None:
        """No answer came."""
        self._asked_at = self._monotonic()
        self._at_end_since.clear()
        self._goal = None
        self._silent = (self._asked_at if self._silent is None else self._silent[0], reason)

    def failed(self, reason: str) -> None:
        """An answer came, and it was an error."""
        self._fault = (self._monotonic(), reason)

    def idle(self) -> frozenset[int]:
        """Partitions that need not hold the watermark back."""
        wait_s = self._idle_after_s
        if wait_s is None:
            return frozenset()
        now = self._monotonic()
        return frozenset(partition for partition, since in self._at_end_since.items() if now - since >= wait_s)

    def behind(self) -> dict[int, int]:
        """Offsets left in each partition, by the last answer."""
        return {partition: max(0, self._ends.get(partition, 0) - at) for partition, at in self.positions.items()}

    def backlog(self, newest: Newest, window_ms: int, now_ms: int) -> bool:
        """Whether more than a window's worth is left, by how old the newest record is that has been read.

        A timestamp that is not the broker's may be hours old when its record comes. Such a one is believed only of what
        lay there at the first answer; later it is a backlog where an end offset has not been passed for a window.
        """
        old = now_ms - newest.ms > window_ms
        if newest.by_broker:
            return old and any(self.behind().values())
        if self._goal is None or self._passed(self._goal[1]):
            return False
        waited_ms = (self._monotonic() - self._goal[0]) * 1000
        return waited_ms > window_ms or (self._catching_up and old)

    def _passed(self, ends: Mapping[int, int]) -> bool:
        return all(at >= ends.get(partition, 0) for partition, at in self.positions.items())

    def at_end(self) -> bool:
        """Whether every position is at the end offset of the last answer."""
        return self._silent is None and self._ends == self.positions

    def health(self) -> str | None:
        """Why there is no answer, and for how long; or the error that came lately."""
        now = self._monotonic()
        if self._silent is not None:
            since, reason = self._silent
            return f"{reason} (for {now - since:.0f} s)"
        if self._fault is not None and now - self._fault[0] < FAULT_HOLDS_S:
            return self._fault[1]
        return None
