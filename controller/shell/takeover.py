"""A journal that begins where another one's table still serves: most often a study file that was copied."""

from contextlib import suppress

from controller.assignment import Assignment
from controller.shell.journal import Journal
from controller.shell.publisher import PublisherUnavailable, RedisPublisher
from controller.shell.story import in_utc


def told(table: Assignment | None, now_ms: int) -> str | None:
    """What to say of the table in Redis where there is no journal yet; None where none is valid there."""
    if table is None or (table.valid_until_ms is not None and table.valid_until_ms <= now_ms):
        return None
    until = "without end" if table.valid_until_ms is None else f"until {in_utc(table.valid_until_ms)}"
    return (
        f"study: Redis holds a table of {table.study} that is valid {until} (epoch {table.epoch}, stage {table.stage}),"
        " and there is no journal yet that published it: another daemon or an earlier journal did, and trimtab run "
        "takes the study over. Another study needs a name of its own."
    )


def by(journal: Journal, publisher: RedisPublisher, now_ms: int) -> str | None:
    """The same where a journal is opened; None of one that has begun, and where Redis does not answer."""
    if journal.newest(("study_started",)) is not None:
        return None
    with suppress(PublisherUnavailable):
        return told(publisher.table(), now_ms)
    return None
