"""A new journal beside a table that still serves."""

from pathlib import Path

import fakeredis
import msgspec
import pytest

from controller import assignment
from controller.shell.journal import Journal
from controller.shell.publisher import RedisPublisher
from controller.shell.recorder import Recorder
from controller.shell.takeover import by
from tests.core.loop import at_stage
from tests.shell.loop import PLAN, START_MS

TABLE = msgspec.structs.replace(at_stage("confirm").table, valid_until_ms=START_MS + 60_000, epoch=3)


def held(table: assignment.Assignment | None) -> RedisPublisher:
    publisher = RedisPublisher(fakeredis.FakeRedis(), PLAN.study)
    if table is not None:
        publisher.publish(assignment.encode(table), table.version)
    return publisher


@pytest.mark.parametrize(
    ("valid_until_ms", "until"), [(START_MS + 60_000, "until 2023-11-14 00:01:00 UTC"), (None, "without end")]
)
def test_a_table_that_is_valid_is_told(tmp_path: Path, valid_until_ms: int | None, until: str) -> None:
    publisher = held(msgspec.structs.replace(TABLE, valid_until_ms=valid_until_ms))
    with Journal.open(tmp_path / "j", PLAN.study) as journal:
        found = by(journal, publisher, START_MS)
        assert found is not None
        assert found.startswith(f"study: Redis holds a table of hand that is valid {until} (epoch 3, stage confirm)")
        Recorder.take_over(PLAN, journal, publisher, START_MS, "wall")
        assert by(journal, publisher, START_MS) is None, "from now on it is this journal's study"


@pytest.mark.parametrize("table", [None, msgspec.structs.replace(TABLE, valid_until_ms=START_MS)])
def test_without_a_valid_table_there_is_nothing_to_tell(tmp_path: Path, table: assignment.Assignment | None) -> None:
    with Journal.open(tmp_path / "j", PLAN.study) as journal:
        assert by(journal, held(table), START_MS) is None


def test_what_is_no_table_is_none() -> None:
    client = fakeredis.FakeRedis()
    publisher = RedisPublisher(client, PLAN.study)
    for put in (lambda key: client.set(key, b"junk\xff"), lambda key: client.delete(key) and client.lpush(key, "1")):
        put(assignment.key(PLAN.study))
        assert publisher.table() is None
