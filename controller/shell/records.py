"""A partition's records to checked columns, whatever their encoding, in offset order."""

from collections import Counter
from collections.abc import Sequence

from controller.core import events
from controller.core.events import Decoded, EventPlan
from controller.shell import arrow
from controller.shell.sources import Record


def decode_records(records: Sequence[Record], plan: EventPlan) -> Decoded:
    """Decode JSON, newline-separated JSON and Arrow records; all of one kind at once."""
    parts: list[Decoded] = []
    for kind, read in ((False, events.decode), (True, arrow.decode_many)):
        chosen = [record for record in records if record.arrow == kind]
        if chosen:
            parts.append(read([r.value for r in chosen], [r.offset for r in chosen], plan))
    if len(parts) < 2:
        return parts[0] if parts else events.decode([], [], plan)
    unknown: Counter[str] = Counter()
    for part in parts:
        unknown.update(part.unknown_components)
    whole = events.concat([part.events for part in parts])
    return Decoded(whole, events.in_order(row for part in parts for row in part.rejected), dict(unknown))


def rows_at(record: Record, places: Sequence[int], plan: EventPlan) -> list[bytes]:
    """Rows of a record, cut as those that the decoder refuses, by their places among those that it lets pass."""
    return (arrow.rows_at if record.arrow else events.rows_at)(record.value, places, plan)
