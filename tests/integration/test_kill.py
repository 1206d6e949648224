"""kill -9 at random moments: no event is lost or counted twice, nothing was published that the ledger does not hold."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.integration.processes import PATIENT, RUN_S, DaemonProcess, Process, trimtab
from tests.integration.sums import ledger_sums
from tests.integration.topic import read_topic
from tests.recount import read_ledger, recount
from tests.services.kafka_broker import MakeTopic
from tests.waiting import wait_until

KILLS = 20
WINDOWS = 72
SEED = 7


@pytest.mark.slow
def test_twenty_kills_change_no_sum(
    tmp_path: Path, kafka_bootstrap: str, kafka_topic: MakeTopic, redis_url: str, study_file: Callable[..., Path]
) -> None:
    topic = kafka_topic(partitions=3)
    study = study_file("quick", topic)
    journal = tmp_path / "quick.journal"
    rng = random.Random(SEED)
    run = ("--clock", "events", "--from", "earliest")
    daemon = DaemonProcess(study, tmp_path / "daemon.log", *run)
    world = Process(
        tmp_path / "world.log",
        "simulate",
        "quick",
        "--study",
        str(study),
        "--hours",
        str(WINDOWS),
        "--lockstep",
        *PATIENT,
    )

    def gets_on() -> bool:
        """Two windows a kill at least, or on a busy machine all kills would come before the first."""
        return daemon.text.count(" window ") >= 2 * kills or not world.running

    try:
        daemon.wait_until_ready()
        kills, ready = 0, True
        while world.running:
            if kills < KILLS:
                if ready:
                    wait_until(gets_on, "the daemon decides between kills", RUN_S)
                time.sleep(rng.uniform(0.0, 0.4))  # the moment is meant to be any
                daemon.kill()
                kills += 1
                daemon = DaemonProcess(study, tmp_path / "daemon.log", *run)
                ready = rng.random() < 0.7  # else it is killed again while it starts
                if ready:
                    daemon.wait_until_ready()
            else:
                assert world.wait(RUN_S) == 0, world.text[-3000:]
        assert world.wait(10) == 0, world.text[-3000:]
        assert kills == KILLS, "the run was over before the last kill: give it more windows"
        daemon.wait_until_ready()
        assert daemon.stop() == 0, daemon.text[-3000:]
    finally:
        daemon.kill()
        world.kill()

    ledger = read_ledger(journal)
    components = [component["name"] for component in ledger.plan["components"]]
    ours = ledger_sums(journal, components)
    assert len({end for end, _ in ours}) >= WINDOWS - 8  # all but those that are still open to late events
    assert ours == recount(ledger, read_topic(kafka_bootstrap, topic))
    assert all(version in ledger.tables for version, _ in ledger.published)
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    kept = [str(key).rpartition(":")[2] for key in client.keys("trimtab:quick:assignment:*")]
    assert kept, "Redis keeps every version that was published"
    assert all(int(version) in ledger.tables for version in kept)
    assert trimtab("verify", str(journal)).returncode == 0
