"""kill -9 at random moments: no event is lost or counted twice, nothing was published that the ledger does not hold."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import redis

from controller.core.replay import window_sums
from controller.shell.journal import Journal
from tests.integration.processes import DaemonProcess, Process, trimtab
from tests.integration.topic import read_topic
from tests.recount import Sums, read_ledger, recount
from tests.services.kafka_broker import MakeTopic

KILLS = 20
WINDOWS = 36
SEED = 7


def ledger_sums(journal: Path, components: list[str]) -> Sums:
    """The sealed windows' sums as the ledger holds them, in the recount's form; zeros left out."""
    found: Sums = {}
    with Journal.read_only(journal) as book:
        for end, cells in window_sums(book.entries()):
            for version, cell in cells.items():
                total = cell.sums.sum(axis=0)  # over segments
                found[end, version] = {
                    (int(b), components[int(c)]): int(total[b, c]) for b, c in zip(*np.nonzero(total), strict=True)
                }
    return found


def without_zeros(sums: Sums) -> Sums:
    return {key: {place: value for place, value in cell.items() if value} for key, cell in sums.items()}


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
        tmp_path / "world.log", "simulate", "quick", "--study", str(study), "--hours", str(WINDOWS), "--lockstep"
    )
    try:
        daemon.wait_until_ready()
        kills = 0
        while world.running:
            if kills < KILLS:
                time.sleep(rng.uniform(0.0, 1.5))  # the moment is meant to be any
                daemon.kill()
                kills += 1
                daemon = DaemonProcess(study, tmp_path / "daemon.log", *run)
                if rng.random() < 0.7:  # else it is killed again while it starts
                    daemon.wait_until_ready()
            else:
                assert world.wait(300) == 0, world.text[-3000:]
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
    counted = without_zeros(recount(ledger, {p: iter(r) for p, r in read_topic(kafka_bootstrap, topic).items()}))
    assert len({end for end, _ in ours}) >= WINDOWS - 8  # all but those that are still open to late events
    assert ours == counted
    assert all(version in ledger.tables for version, _ in ledger.published)
    client = redis.Redis.from_url(redis_url)
    kept = [key.decode().rpartition(":")[2] for key in client.keys("trimtab:quick:assignment:*")]
    assert kept, "Redis keeps every version that was published"
    assert all(int(version) in ledger.tables for version in kept)
    assert trimtab("verify", str(journal)).returncode == 0
