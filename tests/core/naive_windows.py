"""The rules of event time as a loop over single rows and dicts: slow, and easy to read."""

from collections import Counter, defaultdict

from controller.core.sums import LIMIT
from controller.core.windows import WindowPlan
from tests.core.stream import DAY, TABLES, Row, bucket

AHEAD_MS = 5 * 60_000


class NaiveWindows:
    """Takes rows one by one in partition offset order."""

    def __init__(self, plan: WindowPlan, clock: str, now_ms: int) -> None:
        self.plan, self.clock, self.now_ms = plan, clock, now_ms
        self.marks: dict[int, int | None] = {}
        self.held: dict[int, Row] = {}
        self.seen: list[tuple[int, int]] = []  # (key, window end)
        self.counts: Counter[str] = Counter()
        self.cells: dict[tuple[int, int], Counter[tuple[int, int, int]]] = defaultdict(Counter)
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.quality: dict[int, Counter[str]] = defaultdict(Counter)
        self.units: dict[int, set[int]] = defaultdict(set)
        self.sealed: dict[int, dict[int, Counter[tuple[int, int, int]]]] = {}
        self.sealed_through: int | None = None
        self.stream_mark: int | None = None

    def row(self, partition: int, row: Row) -> None:
        mark = self.marks.setdefault(partition, None)
        held = self.held.pop(partition, None)
        if self.clock == "wall":
            if row.ts_ms > self.now_ms + AHEAD_MS:
                self.counts["future"] += 1
                return
        elif mark is not None:
            ahead = row.ts_ms > mark + DAY
            if held is not None and ahead and abs(row.ts_ms - held.ts_ms) <= DAY and row.key != held.key:
                self._take(partition, held)
            elif held is not None:
                self.counts["future"] += 1
                if ahead:
                    self.held[partition] = row
                    return
            elif ahead:
                self.held[partition] = row
                return
        self._take(partition, row)

    def _take(self, partition: int, row: Row) -> None:
        mark = self.marks[partition]
        self.marks[partition] = row.ts_ms if mark is None else max(mark, row.ts_ms)
        before = -(10**18) if mark is None else mark
        end = (row.ts_ms // self.plan.length_ms + 1) * self.plan.length_ms
        verdict = self._verdict(row, before, end)
        self.counts[verdict] += 1
        if verdict in ("accepted", "misattributed", "fallback", "unknown_version"):
            self.quality[end][verdict] += 1

    def _verdict(self, row: Row, before: int, end: int) -> str:
        if before >= end + self.plan.lateness_ms or self._is_sealed(end):
            return "expired"
        if self._is_repeat(row, before, end):
            return "duplicate"
        if row.version not in TABLES:
            return "unknown_version" if row.version else "fallback"
        names, dealt = TABLES[row.version]
        if names[dealt[bucket(row.unit)]] != row.arm:
            return "misattributed"
        return self._add(row, end)

    def _is_sealed(self, end: int) -> bool:
        return self.sealed_through is not None and end <= self.sealed_through

    def _is_repeat(self, row: Row, before: int, end: int) -> bool:
        horizon = min(self.plan.dedupe_ms, self.plan.lateness_ms)
        for key, window in self.seen:
            if key == row.key and before < window + horizon and not self._is_sealed(window):
                return True
        if before < end + horizon:
            self.seen.append((row.key, end))
        return False

    def _add(self, row: Row, end: int) -> str:
        size = sum(abs(value) for value in row.values)
        if self.sizes[end, row.version] + size > LIMIT:
            return "overflow"
        self.sizes[end, row.version] += size
        cell = self.cells[end, row.version]
        cell[row.segment, bucket(row.unit), -1] += 1
        for c, value in enumerate(row.values):
            cell[row.segment, bucket(row.unit), c] += value
        if row.has_unit:
            self.units[end].add(row.unit)
        return "accepted"

    def seal(self, idle: frozenset[int]) -> None:
        marks = [mark for partition, mark in self.marks.items() if partition not in idle]
        known = [mark for mark in marks if mark is not None]
        if marks and len(known) == len(marks):
            self.stream_mark = max(min(known), self.stream_mark or min(known))
        if self.stream_mark is None:
            return
        through = (self.stream_mark - self.plan.lateness_ms) // self.plan.length_ms * self.plan.length_ms
        if self.sealed_through is not None and through <= self.sealed_through:
            return
        self.sealed_through = through
        for end in sorted(end for end in self.quality if end <= through):
            del self.quality[end]
            self.units.pop(end, None)
            self.sealed[end] = {v: self.cells.pop((e, v)) for e, v in sorted(self.cells) if e == end}
