"""Kafka, Redis, `trimtab run`, `trimtab simulate`: 72 hours in lockstep, a promoted vector, a journal that verifies."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from simulators.catalog import world_named
from simulators.worlds import gain, margins, true_change
from tests.integration.processes import PATIENT, RUN_S, DaemonProcess, Process, trimtab
from tests.services.kafka_broker import MakeTopic


@pytest.mark.slow
def test_72_hours_promote_a_vector_that_is_truly_better(
    tmp_path: Path, kafka_topic: MakeTopic, study_file: Callable[..., Path]
) -> None:
    study = study_file("feed", kafka_topic(partitions=4))
    daemon = DaemonProcess(study, tmp_path / "daemon.log", "--clock", "events", "--from", "earliest")
    # Of ten such studies about one has an unlucky test and explores again: how many promote is measured in calibration.
    options = ("--study", str(study), "--hours", "72", "--lockstep", "--seed", "4", "--events-per-hour", "40000")
    world = Process(tmp_path / "world.log", "simulate", "feed", *options, *PATIENT)
    try:
        daemon.wait_until_ready()
        assert world.wait(RUN_S) == 0, world.text[-3000:] + daemon.text[-3000:]
        metrics = daemon.metrics()
        assert daemon.stop() == 0, daemon.text[-3000:]
    finally:
        daemon.kill()
        world.kill()
    found = json.loads(trimtab("status", str(study), "--json").stdout)
    assert found["windows_decided"] == 72
    assert found["stage"] in ("ramp", "hold")
    assert f'trimtab_stage{{stage="{found["stage"]}",study="feed"}} 1.0' in metrics
    feed = world_named("feed")
    change = true_change(feed, found["candidate"]["theta"])
    assert margins(feed, change).min() >= -0.001
    assert gain(feed, change) > 0.02
    verdict = json.loads(trimtab("verify", str(tmp_path / "feed.journal"), "--json").stdout)
    assert verdict["ok"], verdict
    assert verdict["decisions"].keys() == {"exact"}
