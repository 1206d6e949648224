"""`trimtab simulate` and `trimtab replay` on real Kafka and Redis, by one process and by two."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from tests.integration.processes import PATIENT, RUN_S, DaemonProcess, Process, trimtab
from tests.services.kafka_broker import MakeTopic
from tests.simulators.test_sinks import read_topic

PARTITIONS = 3


@pytest.mark.slow
def test_two_processes_send_what_one_sends_and_a_replay_sends_it_again(
    tmp_path: Path,
    kafka_topic: MakeTopic,
    kafka_bootstrap: str,
    redis_url: str,
    study_file: Callable[..., Path],
) -> None:
    """In lockstep with a daemon, with bots, and copies on the way.

    No partition stands still: how many decisions a daemon then catches up with in one poll, so its versions, is chance.
    """
    topics = []
    for processes in (1, 2):
        topics.append(kafka_topic(partitions=PARTITIONS))
        study = study_file("quick", topics[-1])
        daemon = DaemonProcess(study, tmp_path / "daemon.log", "--clock", "events", "--from", "earliest")
        argv = ["simulate", "quick", "--study", str(study), "--hours", "4", "--processes", str(processes), "--json"]
        faults = ["--fault", "copied", "--fault", "bots"]
        world = Process(tmp_path / f"world-{processes}.log", *argv, *faults, *PATIENT)
        try:
            daemon.wait_until_ready()
            assert world.wait(RUN_S) == 0, world.text[-3000:] + daemon.text[-3000:]
            assert daemon.stop() == 0, daemon.text[-3000:]
        finally:
            daemon.kill()
            world.kill()
        assert json.loads(trimtab("status", str(study), "--json").stdout)["windows_decided"] == 4
        (tmp_path / "quick.journal").rename(tmp_path / f"{processes}.journal")
        with Redis.from_url(redis_url) as client:
            client.flushdb()  # the next daemon's epoch is the first again
    alone, together = ([read_topic(kafka_bootstrap, topic, p) for p in range(PARTITIONS)] for topic in topics)
    assert sum(map(len, alone)) > 300
    assert alone == together

    lines = [line for part in alone for record in part for line in record.split(b"\n")]
    (tmp_path / "e.ndjson").write_bytes(b"\n".join(lines))
    study = study_file("quick", kafka_topic(partitions=PARTITIONS))
    again = trimtab("replay", str(tmp_path / "e.ndjson"), "--study", str(study), "--json")
    assert json.loads(again.stdout)["events"] == len(lines)


@pytest.mark.slow
def test_arrow_records_are_decided_on_like_lines(
    tmp_path: Path, kafka_topic: MakeTopic, study_file: Callable[..., Path]
) -> None:
    study = study_file("surfaces", kafka_topic(partitions=2))
    daemon = DaemonProcess(study, tmp_path / "daemon.log", "--clock", "events", "--from", "earliest")
    argv = ["simulate", "surfaces", "--study", str(study), "--hours", "3", "--arrow", "--events-per-record", "500"]
    world = Process(tmp_path / "world.log", *argv, *PATIENT, "--json")
    try:
        daemon.wait_until_ready()
        assert world.wait(RUN_S) == 0, world.text[-3000:] + daemon.text[-3000:]
        counted = daemon.metrics()
        assert daemon.stop() == 0, daemon.text[-3000:]
    finally:
        daemon.kill()
        world.kill()
    assert json.loads(trimtab("status", str(study), "--json").stdout)["windows_decided"] == 3
    accepted = next(line for line in counted.splitlines() if 'accepted"' in line and not line.startswith("#"))
    assert float(accepted.split()[-1]) > 10_000, accepted
    assert "rejected" not in daemon.text.split("rows read:")[-1]


@pytest.mark.slow
def test_a_partition_that_stands_still_is_waited_for(
    tmp_path: Path, kafka_topic: MakeTopic, study_file: Callable[..., Path]
) -> None:
    study = study_file("quick", kafka_topic(partitions=PARTITIONS))
    daemon = DaemonProcess(study, tmp_path / "daemon.log", "--clock", "events", "--from", "earliest")
    argv = ["simulate", "quick", "--study", str(study), "--hours", "4", "--fault", "stopped:at=1,hours=1,partition=1"]
    world = Process(tmp_path / "world.log", *argv, *PATIENT, "--json")
    try:
        daemon.wait_until_ready()
        assert world.wait(RUN_S) == 0, world.text[-3000:] + daemon.text[-3000:]
        assert daemon.stop() == 0, daemon.text[-3000:]
    finally:
        daemon.kill()
        world.kill()
    found = json.loads(trimtab("status", str(study), "--json").stdout)
    assert (found["windows_decided"], found["stage"]) == (4, "explore")
