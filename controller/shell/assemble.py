"""Puts a daemon together from a study, and asks its services whether they are there."""

import os
import threading
import time
from typing import Literal

from prometheus_client import CollectorRegistry

from controller.shell import fingerprint
from controller.shell.admin import Health, serve
from controller.shell.config import Study
from controller.shell.connections import password
from controller.shell.daemon import Clock, Daemon, log, readiness_log
from controller.shell.dead_letters import DeadLetters, KafkaDeadLetters
from controller.shell.journal import Journal
from controller.shell.metrics import Metrics
from controller.shell.publisher import PublisherUnavailable, RedisPublisher, connect
from controller.shell.recorder import Recorder
from controller.shell.sources import Source, SourceUnavailable
from controller.shell.sources_kafka import KafkaSource
from controller.shell.sources_ndjson import NdjsonSource


def run_daemon(
    study: Study,
    clock: Clock,
    start_at: Literal["earliest", "latest"],
    until_idle_s: float | None,
    events: str | None,
    listen: tuple[str, int],
    stop: threading.Event,
    registry: CollectorRegistry,
) -> None:
    """Run a study until `stop` is set (or until idle). `events`: an NDJSON file, "-" for stdin, or None for Kafka.

    Raises what ends a daemon: see `controller.cli`.
    """
    fingerprint.single_threaded()
    plan = study.plan
    for warning in study.warnings:
        log.warning("%s: %s", study.path, warning)
    build = {"version": fingerprint.code_version(), "code": fingerprint.core_digest()[:12]}
    metrics = Metrics(registry, plan, build)
    health = Health(readiness_log(metrics))
    server = serve(*listen, registry, health)
    log.info("listening on http://%s:%d", *server.server_address[:2])
    source: Source = _kafka_source(study, clock) if events is None else NdjsonSource(events)
    letters = _dead_letters(study) if events is None else None
    try:
        with Journal.open(study.journal, plan.study) as journal:
            recorder, state = Recorder.take_over(plan, journal, _publisher(study), int(time.time() * 1000), clock)
            log.info("study %s: epoch %d, stage %s", plan.study, recorder.epoch, state.control.carry.stage)
            daemon = Daemon(
                plan, source, journal, recorder, state,
                clock=clock, health=health, metrics=metrics, dead_letters=letters,
            )  # fmt: skip
            daemon.run(stop, start_at, until_idle_s)
    finally:
        source.close()
        if letters is not None:
            letters.close()
        server.shutdown()
        server.server_close()


def probe(study: Study) -> dict[str, str]:
    """What is wrong with the study's services, by part."""
    faults = {}
    try:
        _publisher(study).stored()
    except PublisherUnavailable as error:
        faults["redis"] = str(error)
    source = _kafka_source(study, "wall")
    try:
        source.start(None, "latest")
    except SourceUnavailable as error:
        faults["kafka"] = str(error)
    finally:
        source.close()
    return faults


def _publisher(study: Study) -> RedisPublisher:
    return RedisPublisher(connect(study.redis.url, password(os.environ, "redis")), study.plan.study)


def _kafka_source(study: Study, clock: Clock) -> Source:
    kafka, secret, length_ms = study.kafka, password(os.environ, "kafka"), study.plan.window.length_ms
    # On the events' own clock nothing is idle: a replay waits for every partition.
    idle_after_s = kafka.idle_after / 1000 if clock == "wall" else None
    if kafka.client == "confluent":
        from controller.shell.sources_confluent import ConfluentSource

        return ConfluentSource(kafka, password=secret, window_ms=length_ms, idle_after_s=idle_after_s)
    return KafkaSource(kafka, password=secret, window_ms=length_ms, idle_after_s=idle_after_s)


def _dead_letters(study: Study) -> DeadLetters | None:
    topic = study.kafka.dead_letter_topic
    return None if topic is None else KafkaDeadLetters(study.kafka, topic, password=password(os.environ, "kafka"))
