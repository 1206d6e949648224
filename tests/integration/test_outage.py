"""The broker and Redis go away in mid-run and come back: the loop goes on by itself, and says what it waits for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.processes import PATIENT, RUN_S, DaemonProcess, Process, trimtab
from tests.integration.sums import ledger_sums
from tests.integration.topic import read_topic
from tests.recount import read_ledger, recount
from tests.services.kafka_broker import MakeBroker
from tests.services.redis_server import MakeRedis
from tests.waiting import wait_until

WINDOWS = 40


@pytest.mark.slow
def test_the_loop_goes_on_after_kafka_and_redis_were_down(
    tmp_path: Path, kafka_broker: MakeBroker, redis_server: MakeRedis, study_file: Callable[..., Path]
) -> None:
    broker, store = kafka_broker(), redis_server()
    broker.create_topic("outage", partitions=2)
    study = study_file("quick", "outage", bootstrap=broker.bootstrap, redis=store.url)
    journal = tmp_path / "quick.journal"
    daemon = DaemonProcess(study, tmp_path / "daemon.log", "--clock", "events", "--from", "earliest")
    world = Process(
        tmp_path / "world.log", "simulate", "quick", "--study", str(study), "--hours", str(WINDOWS), "--lockstep",
        "--events-per-hour", "12000", *PATIENT,
    )  # fmt: skip

    def decided() -> int:
        assert daemon.running, daemon.text[-3000:]
        assert world.running or world.process.returncode == 0, world.text[-3000:]
        return daemon.text.count(" window ")

    def faults() -> dict[str, str]:
        found: dict[str, str] = daemon.readiness().get("faults", {})
        return found

    def tells(part: str) -> bool:
        """And keeps what it tells then: the next answer may come too late, or tell of more."""
        said[part] = faults()
        return part in said[part]

    said: dict[str, dict[str, str]] = {}
    try:
        daemon.wait_until_ready()
        wait_until(lambda: decided() >= 5, "five windows are decided on")
        broker.stop()
        wait_until(
            lambda: tells("source") and "no broker answers" in said["source"]["source"],  # while it ends, it is reached
            "readiness tells that Kafka is away",
            60,
        )
        broker.start()
        wait_until(lambda: daemon.readiness().get("ready", False), "ready again after Kafka", 60)
        after_kafka = decided()
        wait_until(lambda: decided() > after_kafka, "decisions go on after Kafka", 60)

        assert world.running, "the run was over before Redis went away: give it more windows"
        store.kill()
        wait_until(lambda: tells("redis"), "readiness tells that Redis is away", 60)
        store.start()  # empty: the daemon puts its table again
        wait_until(lambda: daemon.readiness().get("ready", False), "ready again after Redis", 60)
        print("readiness said:", *said.values(), sep="\n  ")  # noqa: T201  # for a person who runs this with -s
        assert said["source"].keys() == {"source"}
        assert said["redis"].keys() == {"redis"}
        assert world.wait(RUN_S) == 0, world.text[-3000:]
        assert daemon.stop() == 0, daemon.text[-3000:]
    finally:
        daemon.kill()
        world.kill()

    ledger = read_ledger(journal)
    components = [component["name"] for component in ledger.plan["components"]]
    topic = read_topic(broker.bootstrap, "outage")
    assert ledger_sums(journal, components) == recount(ledger, topic)
    assert len(ledger.sealed) >= WINDOWS - 8
    verdict = trimtab("verify", str(journal))
    assert verdict.returncode == 0, verdict.stdout
