"""A partition's records to checked columns, whatever their encoding, in offset order."""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from controller.core import events
from controller.core.events import Decoded, EventPlan
from controller.shell import arrow
from controller.shell.sources import Record


def decode_records(records: Sequence[Record], plan: EventPlan) -> Decoded:
    """Decode JSON, newline-separated JSON and Arrow records; each run of one kind at once."""
    if not any(record.arrow for record in records):  # the usual case costs no grouping
        return events.decode([r.value for r in records], [r.offset for r in records], plan)
    parts: list[Decoded] = []
    for is_arrow, run in groupby(records, key=attrgetter("arrow")):
        read = arrow.decode_many if is_arrow else events.decode
        chosen = list(run)
        parts.append(read([r.value for r in chosen], [r.offset for r in chosen], plan))
    if len(parts) == 1:
        return parts[0]
    unknown: dict[str, int] = {}
    for part in parts:
        for name, rows in part.unknown_components.items():
            unknown[name] = unknown.get(name, 0) + rows
    whole = events.concat([part.events for part in parts])
    return Decoded(whole, tuple(row for part in parts for row in part.rejected), unknown)
