"""Puts a daemon together from a study."""

import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector

from controller.core.clock import Clock
from controller.core.step import State
from controller.shell import fingerprint, takeover
from controller.shell.access import Token, address, load_tokens
from controller.shell.admin import Server, serve
from controller.shell.api import Site, app
from controller.shell.board import Board
from controller.shell.config import Study
from controller.shell.connections import password
from controller.shell.daemon import Daemon, log, readiness_log
from controller.shell.dead_letters import DeadLetters, KafkaDeadLetters
from controller.shell.health import Health
from controller.shell.journal import Journal
from controller.shell.metrics import Metrics, OfStudy
from controller.shell.publisher import RedisPublisher, connect
from controller.shell.recorder import Recorder, topic
from controller.shell.sources import At, Source
from controller.shell.sources_kafka import KafkaSource
from controller.shell.sources_ndjson import NdjsonSource


class ClientMissing(Exception):
    """The study names a Kafka client that is not installed."""


def run_daemon(
    study: Study,
    *,
    clock: Clock,
    start_at: At,
    until_idle_s: float | None,
    events: str | None,
    listen: tuple[str, int] | None,
    stop: threading.Event,
    registry: CollectorRegistry,
) -> None:
    """Run a study until `stop` is set (or until idle). `events`: an NDJSON file, "-" for stdin, or None for Kafka.

    `listen`: where the admin interface is; None: where the study file says.

    Raises what ends a daemon: see `controller.cli`.
    """
    fingerprint.single_threaded()
    plan = study.plan
    for warning in study.warnings:
        log.warning("%s: %s", study.path, warning)
    build = {"version": fingerprint.code_version(), "code": fingerprint.core_digest()[:12]}
    own = CollectorRegistry()
    registry.register(OfStudy(own, plan.study))
    ProcessCollector(registry=own)
    metrics = Metrics(own, plan, build, clock)
    health = Health(readiness_log(metrics))
    board = Board(plan, clock)
    with ExitStack() as open_:
        server = _listening(study, listen, Site(plan.study, study.journal, board, health, registry))
        open_.callback(server.close)
        source: Source = source_of(study, clock) if events is None else NdjsonSource(events)
        open_.callback(source.close)
        letters = _dead_letters(study) if events is None else None
        if letters is not None:
            open_.callback(letters.close)
        journal = open_.enter_context(Journal.open(study.journal, plan.study))
        metrics.journal(study.journal)
        recorder, state = _take_over(study, journal, clock, events, server.url)
        board.recall(journal)
        metrics.recall(journal)
        log.info("study %s: epoch %d, stage %s, clock %s, journal %s", plan.study, recorder.epoch,
                 state.experiment.carry.stage, clock, study.journal)  # fmt: skip
        daemon = Daemon(
            plan, source, journal, recorder, state,
            clock=clock, start_at=start_at, health=health, metrics=metrics, board=board, dead_letters=letters,
        )  # fmt: skip
        daemon.run(stop, until_idle_s)
        log.info("study %s: ended; rows read: %s", plan.study, metrics.tally())


def _take_over(study: Study, journal: Journal, clock: Clock, events: str | None, admin: str) -> tuple[Recorder, State]:
    publisher, now_ms = publisher_of(study), int(time.time() * 1000)
    if (found := takeover.by(journal, publisher, now_ms)) is not None:
        log.warning("%s: %s", study.path, found)
    reading = topic(study.kafka.topic) if events is None else f"file {events}"
    return Recorder.take_over(study.plan, journal, publisher, now_ms, clock, reading, admin)


def _listening(study: Study, listen: tuple[str, int] | None, site: Site) -> Server:
    """The admin interface, serving; says who may come in."""
    admin = study.admin
    tokens = load_tokens(None if admin.tokens_file is None else Path(admin.tokens_file), os.environ)
    pair = [None if name is None else Path(name) for name in (admin.cert_file, admin.key_file)]
    site = msgspec.structs.replace(site, tokens=tokens, hosts=admin.hosts, tls=pair[0] is not None)
    where = listen or address(admin.listen)
    assert where is not None  # checked where the file was read
    server = serve(*where, app(site), *pair)
    log.info("console on %s, %s", server.url, _who(tokens))
    if not server.tls and tokens and not server.url.startswith(("http://127.", "http://[::1]")):
        log.warning("tokens travel in the clear: set admin.cert_file and admin.key_file, or put TLS in front")
    return server


def _who(tokens: tuple[Token, ...]) -> str:
    if not tokens:
        return "no tokens: who is on this machine may look, nobody may act (trimtab token makes one)"
    return ", ".join(f"{token.caller.name} ({token.caller.role})" for token in tokens)


def publisher_of(study: Study) -> RedisPublisher:
    """Where a study's tables go. Raises `CannotConnect`."""
    return RedisPublisher(connect(study.redis.url, password(os.environ, "redis"), study.redis.tls), study.plan.study)


def source_of(study: Study, clock: Clock) -> Source:
    """A study's topic. Raises `CannotConnect`, `ClientMissing`."""
    kafka, secret, length_ms = study.kafka, password(os.environ, "kafka"), study.plan.window.length_ms
    # On the events' own clock nothing is idle: a replay waits for every partition.
    idle_after_s = kafka.idle_after / 1000 if clock == "wall" else None
    if kafka.client == "confluent":
        source: Source = _confluent()(kafka, password=secret, window_ms=length_ms, idle_after_s=idle_after_s)
        return source
    return KafkaSource(kafka, password=secret, window_ms=length_ms, idle_after_s=idle_after_s)


def _confluent() -> Any:
    try:
        from controller.shell.sources_confluent import ConfluentSource
    except ModuleNotFoundError as error:
        raise ClientMissing(
            f'kafka.client is "confluent", but there is no module {error.name}: '
            "pip install 'trimtab[confluent]', or set kafka.client to \"kafka-python\""
        ) from error
    return ConfluentSource


def _dead_letters(study: Study) -> DeadLetters | None:
    topic = study.kafka.dead_letter_topic
    return None if topic is None else KafkaDeadLetters(study.kafka, topic, password=password(os.environ, "kafka"))
