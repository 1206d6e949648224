"""Asks a study's services whether they are there, and whether they can be used."""

import time
from collections.abc import Callable

import msgspec

from controller.shell.assemble import ClientMissing, publisher_of, source_of
from controller.shell.config import Study
from controller.shell.kafka_diagnosis import unreached
from controller.shell.publisher import PublisherUnavailable
from controller.shell.sources import OffsetLost, Source, SourceUnavailable
from controller.shell.tls import CannotConnect

READ_S = 10.0  # a record that takes longer cannot be read


def probe(study: Study) -> dict[str, str]:
    """What is wrong with the study's services, by part."""
    faults = {}
    try:
        publisher_of(study).stored()
    except (CannotConnect, PublisherUnavailable) as error:
        faults["redis"] = str(error).removeprefix("redis: ")
    letters = study.kafka.dead_letter_topic
    if (found := unreached(study.kafka)) is not None:
        faults["kafka"] = f"no Kafka broker is of use: {found}"
    elif (found := _asked(study, study.kafka.topic, _unread)) is not None:
        faults["kafka"] = found
    elif letters is not None and (found := _asked(study, letters, lambda _: None)) is not None:
        faults["dead letters"] = found
    return faults


def _asked(study: Study, topic: str, more: Callable[[Source], str | None]) -> str | None:
    """Why a topic's offsets cannot be had, or what `more` finds of one that tells them, or None."""
    kafka = msgspec.structs.replace(study.kafka, topic=topic)
    try:
        source = source_of(msgspec.structs.replace(study, kafka=kafka), "wall")
    except (CannotConnect, ClientMissing) as error:
        return str(error)
    try:
        source.start(None, "latest")
        return more(source)
    except (SourceUnavailable, OffsetLost) as error:
        return str(error)
    finally:
        source.close()


def _unread(source: Source) -> str | None:
    """Why the newest records cannot be read, or None: a topic that nobody here can unpack tells its offsets too."""
    earliest, latest = source.start(None, "earliest"), source.start(None, "latest")
    newest = {partition: max(low, latest[partition] - 1) for partition, low in earliest.items()}
    if newest == latest:
        return None
    source.start(newest, "latest")
    deadline = time.monotonic() + READ_S
    while time.monotonic() < deadline:
        if source.poll(0.5).parts:
            return None
        if (fault := source.health()) is not None:
            return fault
    return f"no record came within {READ_S:g} s"
