"""What `trimtab check` finds out from services that answer."""

from pathlib import Path

import pytest

from controller.shell import config
from controller.shell.assemble import probe
from simulators.catalog import world_named
from simulators.study import Services, study_text
from tests.services.kafka_broker import MakeTopic


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "quick.toml"


def faults(study: Path, bootstrap: str, topic: str, dead_letters: str, redis_url: str) -> dict[str, str]:
    text = study_text(world_named("quick"), Services(bootstrap=bootstrap, topic=topic, redis_url=redis_url))
    study.write_text(text.replace("[kafka]", f'[kafka]\ndead_letter_topic = "{dead_letters}"'))
    return probe(config.load(study))


def test_each_topic_has_to_be_there(study: Path, kafka_bootstrap: str, kafka_topic: MakeTopic, redis_url: str) -> None:
    topic, letters = kafka_topic(partitions=1), kafka_topic(partitions=1)
    assert faults(study, kafka_bootstrap, topic, letters, redis_url) == {}
    absent = f"Kafka at {kafka_bootstrap} has no topic 'absent': make it, or mend kafka.topic"
    assert faults(study, kafka_bootstrap, topic, "absent", redis_url) == {"dead letters": absent}
    assert faults(study, kafka_bootstrap, "absent", letters, redis_url) == {"kafka": absent}
