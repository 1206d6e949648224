"""What `trimtab check` finds out from services that answer, and of who may come in."""

from pathlib import Path

import pytest
from confluent_kafka import Producer

from controller.shell import config
from controller.shell.access import TOKENS
from controller.shell.assemble import admin_fault, probe
from simulators.catalog import world_named
from simulators.study import Services, study_text
from tests.services.kafka_broker import MakeTopic


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "quick.toml"


def faults(
    study: Path, bootstrap: str, topic: str, dead_letters: str, redis_url: str, client: str = "kafka-python"
) -> dict[str, str]:
    text = study_text(world_named("quick"), Services(bootstrap=bootstrap, topic=topic, redis_url=redis_url))
    kafka = f'[kafka]\ndead_letter_topic = "{dead_letters}"\nclient = "{client}"'
    study.write_text(text.replace("[kafka]", kafka))
    return probe(config.load(study))


def test_each_topic_has_to_be_there(study: Path, kafka_bootstrap: str, kafka_topic: MakeTopic, redis_url: str) -> None:
    topic, letters = kafka_topic(partitions=1), kafka_topic(partitions=1)
    assert faults(study, kafka_bootstrap, topic, letters, redis_url) == {}
    absent = f"Kafka at {kafka_bootstrap} has no topic 'absent': make it, or mend kafka.topic"
    assert faults(study, kafka_bootstrap, topic, "absent", redis_url) == {"dead letters": absent}
    assert faults(study, kafka_bootstrap, "absent", letters, redis_url) == {"kafka": absent}


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_a_topic_with_records_is_well(
    client: str, study: Path, kafka_bootstrap: str, kafka_topic: MakeTopic, redis_url: str
) -> None:
    topic, letters = compressed(kafka_bootstrap, kafka_topic(partitions=3)), kafka_topic(partitions=1)
    assert faults(study, kafka_bootstrap, topic, letters, redis_url, client) == {}


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


def test_what_keeps_everybody_out_is_found_before_the_daemon_starts(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = study_text(world_named("quick")) + '\n[admin]\ntokens_file = "tokens"\n'
    study.write_text(text)
    assert f"{tmp_path / 'tokens'}" in (admin_fault(config.load(study)) or "")
    (tmp_path / "tokens").write_text("ann operator sha256:" + 64 * "0")
    assert admin_fault(config.load(study)) is None
    monkeypatch.setenv(TOKENS, "bob king x")
    assert TOKENS in (admin_fault(config.load(study)) or "")
    monkeypatch.delenv(TOKENS)
    study.write_text(text + 'cert_file = "cert.pem"\nkey_file = "key.pem"\n')
    assert "No such file" in (admin_fault(config.load(study)) or "")
