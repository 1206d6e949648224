"""What `trimtab check` finds out from services that answer."""

import json
import sys
from pathlib import Path

import msgspec
import pytest
import redis
from confluent_kafka import Producer

from controller import assignment
from controller.cli import main
from controller.core.clock import PartitionState
from controller.shell import config
from controller.shell.journal import Journal
from controller.shell.probe import Probed, probe
from controller.shell.publisher import MemoryPublisher, RedisPublisher
from controller.shell.recorder import Recorder
from simulators.catalog import world_named
from simulators.study import Services, study_text
from tests.core.loop import at_stage
from tests.services.kafka_broker import MakeTopic
from tests.shell.loop import START_MS


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "quick.toml"


def probed(
    study: Path, bootstrap: str, topic: str, dead_letters: str, redis_url: str, client: str = "kafka-python"
) -> Probed:
    text = study_text(world_named("quick"), Services(bootstrap=bootstrap, topic=topic, redis_url=redis_url))
    kafka = f'[kafka]\ndead_letter_topic = "{dead_letters}"\nclient = "{client}"'
    study.write_text(text.replace("[kafka]", kafka))
    return probe(config.load(study), START_MS)


def faults(
    study: Path, bootstrap: str, topic: str, dead_letters: str, redis_url: str, client: str = "kafka-python"
) -> dict[str, str]:
    return probed(study, bootstrap, topic, dead_letters, redis_url, client).faults


def test_each_topic_has_to_be_there(study: Path, kafka_bootstrap: str, kafka_topic: MakeTopic, redis_url: str) -> None:
    topic, letters = kafka_topic(partitions=1), kafka_topic(partitions=1)
    assert faults(study, kafka_bootstrap, topic, letters, redis_url) == {}
    absent = f"Kafka at {kafka_bootstrap} has no topic 'absent': make it, or mend kafka."
    for client in ("kafka-python", "confluent"):
        found = faults(study, kafka_bootstrap, topic, "absent", redis_url, client)
        assert found == {"dead letters": absent + "dead_letter_topic"}
        found = faults(study, kafka_bootstrap, "absent", letters, redis_url, client)
        assert found == {"kafka": absent + "topic"}


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_a_topic_with_records_is_well(
    client: str, study: Path, kafka_bootstrap: str, kafka_topic: MakeTopic, redis_url: str
) -> None:
    topic, letters = compressed(kafka_bootstrap, kafka_topic(partitions=3)), kafka_topic(partitions=1)
    found = probed(study, kafka_bootstrap, topic, letters, redis_url, client)
    assert found.faults == {}
    (warning,) = found.warnings
    assert warning.startswith("kafka.topic: 50 of the newest 50 events would be refused as malformed: ")


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_times_in_seconds_and_other_names_are_warned_of(
    client: str, study: Path, kafka_bootstrap: str, kafka_topic: MakeTopic, redis_url: str
) -> None:
    topic, letters = kafka_topic(partitions=1), kafka_topic(partitions=1)
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    event = {"id": "a", "ts_ms": START_MS // 1000, "unit": "u", "version": 0, "values": {"click": 1}}
    producer.produce(topic, json.dumps(event).encode())
    producer.flush()
    found = probed(study, kafka_bootstrap, topic, letters, redis_url, client)
    assert found.faults == {}
    of_time, of_values = found.warnings
    assert "the newest event is of 1970-01-20 16:12 UTC" in of_time
    assert "values have click, which no metric uses, and lack " in of_values


def test_what_redis_holds_of_the_study_is_told_before_a_start(study: Path, redis_url: str) -> None:
    publisher = RedisPublisher(redis.Redis.from_url(redis_url), "quick")
    table = msgspec.structs.replace(at_stage("confirm").table, study="quick", valid_until_ms=START_MS + 1)
    publisher.publish(assignment.encode(table), table.version)
    (warning,) = probed(study, "127.0.0.1:1", "absent", "letters", redis_url).warnings
    assert "trimtab run takes the study over" in warning
    with Journal.open(study.with_name("quick.journal"), "quick"):
        assert probed(study, "127.0.0.1:1", "absent", "letters", redis_url).warnings == ()
    publisher.publish(b'{"version": 9007199254740000}', 9007199254740000)
    found = faults(study, "127.0.0.1:1", "absent", "letters", redis_url)
    assert found["redis"].endswith("Delete the key trimtab:quick:assignment.")


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_a_topic_in_which_the_journal_cannot_go_on(
    client: str, study: Path, kafka_bootstrap: str, kafka_topic: MakeTopic, redis_url: str
) -> None:
    name, letters = compressed(kafka_bootstrap, kafka_topic(partitions=3)), kafka_topic(partitions=1)
    assert faults(study, kafka_bootstrap, name, letters, redis_url, client) == {}
    went_on_to(study, {0: 0, 1: 50, 2: 0}, "")
    assert faults(study, kafka_bootstrap, name, letters, redis_url, client) == {}
    went_on_to(study, {0: 0, 1: 51, 2: 0}, "")
    (told,) = faults(study, kafka_bootstrap, name, letters, redis_url, client).values()
    assert told.startswith("partition 1: offset 51 was asked for, but the log holds 0 to 50; ")
    went_on_to(study, {0: 0, 1: 50, 2: 0}, "another")
    (told,) = faults(study, kafka_bootstrap, name, letters, redis_url, client).values()
    assert "its id was another and is " in told
    assert told.endswith(". The next start freezes the study and reads on at the beginning")
    other = kafka_topic(partitions=1)
    assert faults(study, kafka_bootstrap, other, letters, redis_url, client) == {}, "offsets of another topic's name"


def went_on_to(study: Path, offsets: dict[int, int], log: str) -> None:
    """Leave a journal that has read its topic so far."""
    found = config.load(study)
    with Journal.open(found.journal, "quick") as journal:
        source = f"topic {found.kafka.topic}"
        recorder, state = Recorder.take_over(found.plan, journal, MemoryPublisher(), START_MS, "wall", source)
        partitions = {p: PartitionState(None, offset) for p, offset in offsets.items()}
        windows = msgspec.structs.replace(state.windows, partitions=partitions, log=log)
        recorder.commit(msgspec.structs.replace(state, windows=windows), ())


def test_the_faster_client_that_is_not_installed(
    study: Path, kafka_bootstrap: str, kafka_topic: MakeTopic, redis_url: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "controller.shell.sources_confluent", raising=False)
    topic, letters = kafka_topic(partitions=1), kafka_topic(partitions=1)
    found = faults(study, kafka_bootstrap, topic, letters, redis_url, "confluent")
    told = """kafka.client is "confluent", but there is no module confluent_kafka: pip install 'trimtab[confluent]', """
    assert found == {"kafka": told + 'or set kafka.client to "kafka-python"'}
    assert main(["run", str(study), "--listen", "127.0.0.1:0"]) == 1
    assert f"trimtab run: {found['kafka']}\n" in capsys.readouterr().err


def test_records_that_nobody_here_can_unpack(
    study: Path, kafka_bootstrap: str, kafka_topic: MakeTopic, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, letters = compressed(kafka_bootstrap, kafka_topic(partitions=3)), kafka_topic(partitions=1)
    monkeypatch.setattr("kafka.codec.zstd", None)
    found = faults(study, kafka_bootstrap, topic, letters, redis_url)
    assert found.keys() == {"kafka"}
    assert "zstd compression codec" in found["kafka"]


def compressed(bootstrap: str, topic: str) -> str:
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": "zstd", "linger.ms": 50})
    for _ in range(50):
        producer.produce(topic, b"event" * 20, partition=1)
    producer.flush()
    return topic
