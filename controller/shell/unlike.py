"""What is odd about a topic's newest records, held against the study that is to read them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec
import numpy as np

from controller.core.durations import DAY_MS
from controller.core.events import REASONS, Decoded
from controller.core.plan import Plan
from controller.core.rows import OTHERS
from controller.shell.records import decode_records
from controller.shell.sources import Record
from controller.shell.toml_records import names

SHOWN = 8  # names of a list
SHOWN_BYTES = 300  # of a refused event: as much as most of them have


def unlike(records: Sequence[Record], plan: Plan, now_ms: int) -> Iterator[str]:
    """Warnings. None of it ends a run: logs of long ago are replayed, and components are optional."""
    read = decode_records(records, plan.events)
    for found in (*_refused(read), *_far(read, now_ms), *_values(records, plan)):
        yield f"kafka.topic: {found}"


def _refused(read: Decoded) -> Iterator[str]:
    rows: Counter[str] = Counter()
    first: dict[str, bytes] = {}
    for rejected in read.rejected:
        rows[rejected.reason] += rejected.rows
        first.setdefault(rejected.reason, rejected.data)
    newest = rows.total() + len(read.events.ts_ms)
    for reason, count in rows.items():
        shown = f"; the first: {_cut(first[reason])}" if first[reason] else ""
        yield f"{count} of the newest {newest} events would be refused as {reason}: {REASONS[reason]}{shown}"


def _cut(row: bytes) -> str:
    text = row[:SHOWN_BYTES].decode(errors="backslashreplace")
    return f"{text} ..." if len(row) > SHOWN_BYTES else text


def _far(read: Decoded, now_ms: int) -> Iterator[str]:
    """Of the event that is the nearest to now: a partition that has been quiet for long is not odd."""
    away_ms = np.abs(read.events.ts_ms - now_ms)
    if away_ms.size and away_ms.min() > DAY_MS:
        ts_ms = int(read.events.ts_ms[away_ms.argmin()])
        yield (
            f"the newest event is of {datetime.fromtimestamp(ts_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC (ts_ms {ts_ms}), "
            f"{int(away_ms.min()) // DAY_MS} days {'before' if ts_ms < now_ms else 'after'} now; ts_ms is in "
            "milliseconds. On the wall clock such events may not count; an old log is replayed with --clock events"
        )


def _values(records: Sequence[Record], plan: Plan) -> Iterator[str]:
    """Names that none of these events has, where they have others in their place.

    Events may bring more than a study uses, and leave out what is 0: of rare ones hundreds in a row may lack them.
    """
    nameless = decode_records(records, msgspec.structs.replace(plan.events, components=()))  # every name is unknown
    brought, used = nameless.unknown_components, [component.name for component in plan.events.brought]
    if OTHERS in brought:  # more names than are told apart: those that are lacking may be among them
        return
    strange = sorted(brought.keys() - set(used))
    lacking = [name for name in used if name not in brought]
    if lacking and (strange or len(lacking) == len(used)) and nameless.events.ts_ms.size:
        have = f"have {_listed(strange)}, which no metric uses, and " if strange else ""
        accepted = names(used, strange[0] if strange else "")
        yield f"the newest events' values {have}lack {_listed(lacking)}, which count as 0; accepted: {accepted}"


def _listed(found: Sequence[str]) -> str:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more
