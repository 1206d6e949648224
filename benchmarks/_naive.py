"""What one writes first: `json.loads` for every event, and a dict of sums per window, version, segment and bucket."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from xxhash import xxh64_intdigest

from controller.core.events import EventPlan
from controller.core.rows import MAX_TEXT, MAX_TIME_MS, MAX_VALUE, MAX_VERSION
from controller.core.windows import Tables, WindowPlan
from controller.shell.sources import Fetched

Sums = dict[tuple[int, int, int, int], list[int]]  # (window end, version, segment, bucket) -> components, then events

_AHEAD_MS = 300_000
_SAMPLE = round(0.0625 * 2**32)


class Naive:
    """The same checks, the same sums, one event at a time."""

    def __init__(self, plan: WindowPlan, events: EventPlan, tables: Tables, now_ms: int) -> None:
        self.plan, self.events, self.now_ms = plan, events, now_ms
        self.served = {version: [names[arm] for arm in deal.tolist()] for version, (names, deal) in tables.items()}
        self.segments = {name: slot for slot, name in enumerate(events.segments, 1)}
        self.sums: Sums = defaultdict(lambda: [0] * (len(events.components) + 1))
        self.ids: set[str] = set()
        self.exposed: set[tuple[int, int]] = set()
        self.watermarks: dict[int, int] = {}
        self.counts: Counter[str] = Counter()
        self.quality: Counter[tuple[int, str]] = Counter()
        self.names = [component.name for component in events.components]
        self.known = set(self.names)
        self.unknown: Counter[str] = Counter()

    def take(self, polled: Sequence[Fetched]) -> None:
        """Read what one poll brought."""
        for part in polled:
            for record in part.records:
                for line in record.value.split(b"\n"):
                    self.counts[self._event(part.partition, line)] += 1

    def _event(self, partition: int, line: bytes) -> str:
        """What becomes of one event."""
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            return "malformed"
        if not self._is_good(event):
            return "rejected"
        end = (event["ts_ms"] // self.plan.length_ms + 1) * self.plan.length_ms
        hashed = xxh64_intdigest((self.events.salt + event["unit"]).encode())
        bucket = hashed % self.events.buckets
        if event.get("bucket", bucket) != bucket:
            return "rejected"
        result = self._judged(partition, event, end, bucket)
        self.quality[end, result] += 1
        if result == "accepted":
            self._add(event, end, bucket)
            if hashed >> 32 < _SAMPLE:
                self.exposed.add((end, hashed))
        return result

    def _judged(self, partition: int, event: dict[str, Any], end: int, bucket: int) -> str:
        """The same order of rules as in `windows`."""
        ts, version = event["ts_ms"], event["version"]
        before = self.watermarks.get(partition, 0)
        if ts > self.now_ms + _AHEAD_MS:
            return "future"
        if ts > before:
            self.watermarks[partition] = ts
        if before >= end + self.plan.lateness_ms:
            return "expired"
        if event["id"] in self.ids:
            return "duplicate"
        self.ids.add(event["id"])
        if version not in self.served:
            return "unknown_version" if version else "fallback"
        return "accepted" if self.served[version][bucket] == event["arm"] else "misattributed"

    def _add(self, event: dict[str, Any], end: int, bucket: int) -> None:
        """Sums in fixed point, and the names of components that the study does not use."""
        sums = self.sums[end, event["version"], self.segments.get(event.get("segment") or "", 0), bucket]
        values = event["values"]
        for index, name in enumerate(self.names):
            sums[index] += math.floor(values.get(name, 0.0) * 1e6 + 0.5)
        sums[-1] += 1
        for name in values:
            if name not in self.known:
                self.unknown[name] += 1

    def _is_good(self, event: Any) -> bool:
        """Contract 3.1, of events that carry a unit, for components that are never negative."""
        return (
            isinstance(event, dict)
            and self._is_text(event.get("id"))
            and type(event.get("ts_ms")) is int
            and 0 <= event["ts_ms"] <= MAX_TIME_MS
            and self._is_text(event.get("unit"))
            and type(event.get("version")) is int
            and 0 <= event["version"] <= MAX_VERSION
            and self._is_text(event.get("arm"))
            and (event.get("segment") is None or self._is_text(event["segment"]))
            and isinstance(event.get("values"), dict)
            and all(self._is_value(event["values"].get(name, 0.0)) for name in self.names)
        )

    @staticmethod
    def _is_text(value: object) -> bool:
        return isinstance(value, str) and 0 < len(value) <= MAX_TEXT

    @staticmethod
    def _is_value(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_VALUE
