import math

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest

from controller.core.operate import Command
from controller.core.rollout import MOVES
from controller.core.step import start
from controller.shell.metrics import MAX_UNKNOWN, OTHER, Metrics, Series
from tests.shell.loop import HOUR_MS, PLAN, START_MS, Rig, World

NAMES = {
    "events_total": "result",
    "events_rejected_total": "reason",
    "unknown_components_total": "component",
    "received_bytes_total": None,
    "lag_records": "partition",
    "watermark_seconds": None,
    "windows_open": None,
    "windows_sealed_total": None,
    "windows_amended_total": None,
    "decisions_total": "outcome",
    "step_seconds_count": None,
    "relative_change_ratio": "arm metric",
    "relative_change_se_ratio": "arm metric",
    "arm_share_ratio": "arm",
    "stage": "stage",
    "assignment_version": None,
    "assignment_published_seconds": None,
    "publish_failures_total": None,
    "expected_gain_ratio": None,
    "feasible_probability_ratio": None,
    "expected_regret_ratio": None,
    "carryover_ratio": "metric",
    "ready": None,
    "build_info": "version",
}


def running(world: World, windows: int = 3) -> Rig:
    rig = world.start()
    rig.settle()
    for _ in range(windows):
        world.product.settle_window()
        rig.settle()
    return rig


def samples(registry: CollectorRegistry) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for family in registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


def test_every_name_is_there_after_a_decision_with_its_labels(world: World) -> None:
    rig = running(world)
    world.topic.append(0, b"junk")
    event = msgspec.json.decode(world.topic.logs[0][-2].value)
    world.topic.append(0, msgspec.json.encode(event | {"id": "u", "values": event["values"] | {"saves": 1}}))
    rig.settle()
    found = samples(rig.registry)
    for name, labels in NAMES.items():
        assert f"trimtab_{name}" in found, name
        assert " ".join(sorted(found[f"trimtab_{name}"][0])) == (labels or ""), name
    ours = {name for name in found if name.startswith("trimtab_")}
    derived = ("_created", "_sum", "_bucket")
    assert {name for name in ours if not name.endswith(derived)} == {f"trimtab_{name}" for name in NAMES}


def test_values_are_those_of_the_study(world: World) -> None:
    rig = running(world)
    table = world.table
    assert rig.metric("assignment_version") == table.version
    assert rig.metric("assignment_published_seconds") == table.published_ms / 1000
    assert rig.metric("watermark_seconds") == world.product.now_ms / 1000
    assert rig.metric("received_bytes_total") == sum(len(r.value) for log in world.topic.logs.values() for r in log)
    assert rig.metric("events_total", result="accepted") == sum(world.topic.latest.values())
    assert rig.metric("windows_open") == 4
    assert rig.metric("lag_records", partition="0") == 0
    assert rig.total("decisions_total") == 3
    shares = {name: rig.metric("arm_share_ratio", arm=name) for name in (arm.arm for arm in table.arms)}
    assert shares["control"] == pytest.approx(table.buckets.count(0) / PLAN.buckets)
    assert math.fsum(share or 0 for share in shares.values()) == pytest.approx(1)
    world.product.serve_until(START_MS + 10 * HOUR_MS)
    rig.settle()
    assert rig.metric("windows_sealed_total") == 4


def test_the_stage_is_one_of_all_stages(world: World) -> None:
    rig = running(world, 1)
    assert {stage: rig.metric("stage", stage=stage) for stage in MOVES} == dict.fromkeys(MOVES, 0) | {"explore": 1}
    rig.journal.send(Command("pause", "me"), START_MS)
    rig.turn()
    rig.turn()
    assert (rig.metric("stage", stage="explore"), rig.metric("stage", stage="paused")) == (0, 1)


def test_arms_of_earlier_deals_are_gone(world: World) -> None:
    rig = running(world, 5)
    arms = {labels["arm"] for labels in samples(rig.registry)["trimtab_arm_share_ratio"]}
    assert arms == {arm.arm for arm in world.table.arms}
    judged = {labels["arm"] for labels in samples(rig.registry)["trimtab_relative_change_ratio"]}
    assert len(judged) == PLAN.traffic.explore_arms
    assert "e1" not in judged, "that was an arm of the first deal"
    for labels in samples(rig.registry)["trimtab_relative_change_ratio"]:
        change, error = rig.metric("relative_change_ratio", **labels), rig.metric("relative_change_se_ratio", **labels)
        assert change is not None
        assert error is not None
        assert 0 < error < 1


def test_no_stream_of_new_names_grows_the_series_without_end() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, PLAN, {"version": "test"})
    for number in range(MAX_UNKNOWN + 50):
        metrics.polled(0, {}, {f"c{number}": 2}, {})
    metrics.polled(0, {}, {"c3": 5}, {"watch_s": 3})
    assert len(samples(registry)["trimtab_unknown_components_total"]) == MAX_UNKNOWN + 1
    value = registry.get_sample_value
    assert value("trimtab_unknown_components_total", {"component": OTHER}) == 100
    assert value("trimtab_unknown_components_total", {"component": "c3"}) == 7
    assert value("trimtab_capped_events_total", {"component": "watch_s"}) == 3


def test_a_study_that_has_decided_nothing_shows_its_stage() -> None:
    registry = CollectorRegistry()
    Metrics(registry, PLAN, {"version": "test"}).show(start(PLAN))
    assert registry.get_sample_value("trimtab_stage", {"stage": "explore"}) == 1
    assert registry.get_sample_value("trimtab_arm_share_ratio", {"arm": "control"}) == 1
    assert b"trimtab_build_info" in generate_latest(registry)


def test_series_hold_what_was_set_last_and_leave_out_what_is_not_known() -> None:
    registry = CollectorRegistry()
    series = Series(Gauge("g", "", ("a",), registry=registry))
    series.set({("x",): 1.0, ("y",): 2.0})
    series.set({("y",): 3.0, ("z",): math.nan})
    assert samples(registry) == {"g": [{"a": "y"}]}
    assert registry.get_sample_value("g", {"a": "y"}) == 3
    series.set({})
    assert samples(registry) == {}
