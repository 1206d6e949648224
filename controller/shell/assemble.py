"""Puts a daemon together from a study, and asks its services whether they are there."""

import threading
import time
from typing import Literal

from prometheus_client import CollectorRegistry

from controller.shell import fingerprint
from controller.shell.admin import Health, serve
from controller.shell.config import Study
from controller.shell.daemon import Clock, Daemon, log, readiness_log
from controller.shell.journal import Journal
from controller.shell.metrics import Metrics
from controller.shell.publisher import PublisherRefused, PublisherUnavailable, RedisPublisher, connect
from controller.shell.recorder import Recorder
from controller.shell.sources import Source, SourceError, dead_letters, kafka_source
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
    source: Source = kafka_source(study.kafka, plan.window.length_ms) if events is None else NdjsonSource(events)
    try:
        with Journal.open(study.journal, plan.study) as journal:
            publisher = RedisPublisher(connect(study.redis.url), plan.study)
            recorder, state = Recorder.take_over(plan, journal, publisher, int(time.time() * 1000), clock)
            log.info("study %s: epoch %d, stage %s", plan.study, recorder.epoch, state.control.carry.stage)
            daemon = Daemon(
                plan, source, journal, recorder, state,
                clock=clock, health=health, metrics=metrics, dead_letters=dead_letters(study.kafka),
            )  # fmt: skip
            daemon.run(stop, start_at, until_idle_s)
    finally:
        source.close()
        server.shutdown()
        server.server_close()


def probe(study: Study) -> dict[str, str]:
    """What is wrong with the study's services, by part."""
    faults = {}
    try:
        RedisPublisher(connect(study.redis.url), study.plan.study).stored()
    except (PublisherUnavailable, PublisherRefused) as error:
        faults["redis"] = str(error)
    source = kafka_source(study.kafka, study.plan.window.length_ms)
    try:
        source.start(None, "latest")
    except SourceError as error:
        faults["kafka"] = str(error)
    finally:
        source.close()
    return faults
