"""Two daemons on one study: the later epoch publishes, the earlier one cannot any more and says why it ends."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import redis

from controller import assignment
from tests.integration.processes import DaemonProcess
from tests.services.kafka_broker import MakeTopic
from tests.waiting import wait_until

RUN = ("--from", "earliest")


def held_epoch(url: str) -> int:
    table = redis.Redis.from_url(url).get(assignment.key("quick"))
    assert isinstance(table, bytes)
    return assignment.decode(table).epoch


def test_on_one_journal_the_older_is_fenced(
    tmp_path: Path, kafka_topic: MakeTopic, redis_url: str, study_file: Callable[..., Path]
) -> None:
    study = study_file("quick", kafka_topic(partitions=1))
    first = DaemonProcess(study, tmp_path / "first.log", *RUN)
    second = None
    try:
        first.wait_until_ready()
        assert held_epoch(redis_url) == 1
        second = DaemonProcess(study, tmp_path / "second.log", *RUN)
        second.wait_until_ready()
        client = redis.Redis.from_url(redis_url)
        client.delete(assignment.key("quick"))  # the first would put its table again, were it allowed to
        assert first.wait(60) == 1
        assert "another process took it over" in first.text
        wait_until(lambda: bool(client.exists(assignment.key("quick"))), "the table is put again")
        assert held_epoch(redis_url) == 2
        assert second.running
    finally:
        first.kill()
        if second is not None:
            second.kill()


def test_on_two_journals_the_older_epoch_is_superseded(
    tmp_path: Path, kafka_topic: MakeTopic, redis_url: str, study_file: Callable[..., Path]
) -> None:
    study = study_file("quick", kafka_topic(partitions=1))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copy = elsewhere / "quick.toml"
    copy.write_text(study.read_text())  # its journal is relative to it
    first = DaemonProcess(study, tmp_path / "first.log", *RUN)
    second = None
    try:
        first.wait_until_ready()
        second = DaemonProcess(copy, tmp_path / "second.log", *RUN)
        second.wait_until_ready()
        assert held_epoch(redis_url) == 2
        assert first.wait(60) == 1
        assert "epoch" in first.text.splitlines()[-1]
        table = redis.Redis.from_url(redis_url).get(assignment.key("quick"))
        assert isinstance(table, bytes)
        assert msgspec.json.decode(table)["epoch"] == 2
    finally:
        first.kill()
        if second is not None:
            second.kill()
