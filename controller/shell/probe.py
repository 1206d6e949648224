"""Asks a study's services whether they are there, and whether they can be used."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from controller.shell import takeover
from controller.shell.assemble import ClientMissing, publisher_of, source_of
from controller.shell.config import Study
from controller.shell.journal import Journal
from controller.shell.journal_file import JournalError
from controller.shell.kafka_diagnosis import unreached
from controller.shell.publisher import PublisherUnavailable
from controller.shell.recorder import Superseded, next_epoch, reached, topic
from controller.shell.sources import OffsetLost, Record, Source, SourceUnavailable, TopicReplaced
from controller.shell.tls import CannotConnect
from controller.shell.unlike import unlike

READ_S = 10.0  # a record that takes longer cannot be read
NEWEST = 100  # records of a partition that are looked at: one alone need not bring every component


class Probed(msgspec.Struct, frozen=True):
    """`faults`: what is wrong with the services, by part. `warnings`: what is well, but probably not as meant."""

    faults: dict[str, str]
    warnings: tuple[str, ...]


def probe(study: Study, now_ms: int) -> Probed:
    """`now_ms`: the wall clock."""
    faults = {}
    warnings: list[str] = []
    newest: list[Record] = []
    try:
        warnings += _tables(study, now_ms)
    except (CannotConnect, PublisherUnavailable, Superseded) as error:
        faults["redis"] = str(error).removeprefix("redis: ")
    letters = study.kafka.dead_letter_topic
    if (found := unreached(study.kafka)) is not None:
        faults["kafka"] = f"no Kafka broker is of use: {found}"
    elif (found := _asked(study, study.kafka.topic, lambda source: newest.extend(_read(study, source)))) is not None:
        faults["kafka"] = found
    elif letters is not None and (found := _asked(study, letters, lambda _: None)) is not None:
        faults["dead letters"] = found
    return Probed(faults, (*warnings, *unlike(newest, study.plan, now_ms)))


def _tables(study: Study, now_ms: int) -> Iterator[str]:
    """What Redis holds that a start would not expect. Raises where there is no answer, or no start."""
    publisher = publisher_of(study)
    next_epoch(study.plan.study, _epoch(study.journal), publisher.stored())
    if not study.journal.exists() and (found := takeover.told(publisher.table(), now_ms)) is not None:
        yield found


def _epoch(path: Path) -> int:
    """A journal's; 0 where none can be read, which is told elsewhere."""
    try:
        with Journal.read_only(path) as journal:
            return journal.epoch()
    except JournalError:
        return 0


def _asked(study: Study, name: str, more: Callable[[Source], None]) -> str | None:
    """Why a topic's offsets, or what `more` asks for of one that tells them, cannot be had; or None."""
    kafka = msgspec.structs.replace(study.kafka, topic=name)
    try:
        source = source_of(msgspec.structs.replace(study, kafka=kafka), "wall")
    except (CannotConnect, ClientMissing) as error:
        return str(error)
    try:
        source.start(None, "latest")
        more(source)
    except (SourceUnavailable, OffsetLost) as error:
        return str(error)
    finally:
        source.close()
    return None


def _read(study: Study, source: Source) -> list[Record]:
    """The newest records. Raises where the study could not go on in the topic from where its journal is."""
    offsets, log = _reached(study)
    try:
        source.start(offsets, "latest", log)
    except (OffsetLost, TopicReplaced) as error:
        raise SourceUnavailable(f"{error}. The next start freezes the study and reads on at the beginning") from error
    return _newest(source)


def _reached(study: Study) -> tuple[dict[int, int] | None, str]:
    """None, "" where no journal can be read, which is told elsewhere."""
    try:
        return reached(study.journal, topic(study.kafka.topic))
    except JournalError:
        return None, ""


def _newest(source: Source) -> list[Record]:
    """The newest records of some partitions; none of an empty topic.

    Raises `SourceUnavailable` where they cannot be read: a topic that nobody here can unpack tells its offsets too.
    """
    earliest, latest = source.start(None, "earliest"), source.start(None, "latest")
    newest = {partition: max(low, latest[partition] - NEWEST) for partition, low in earliest.items()}
    if newest == latest:
        return []
    source.start(newest, "latest")
    deadline = time.monotonic() + READ_S
    while time.monotonic() < deadline:
        if parts := source.poll(0.5).parts:
            return [record for part in parts for record in part.records]
        if (fault := source.health()) is not None:
            raise SourceUnavailable(fault)
    raise SourceUnavailable(f"no record came within {READ_S:g} s")
