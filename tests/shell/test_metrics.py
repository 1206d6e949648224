import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest

from controller.core.events import decode
from controller.core.experiment import Choice, carrying
from controller.core.ledger import Record
from controller.core.operate import Command
from controller.core.rollout import MOVES
from controller.core.rows import MAX_UNKNOWN, OTHERS
from controller.core.step import seeded, start, step
from controller.core.windows import Batch
from controller.shell.journal import Entry, Journal
from controller.shell.metrics import PARTS, Metrics, Series
from controller.shell.metrics_catalog import FAMILIES
from tests.shell.loop import HOUR_MS, PLAN, START_MS, Letters, Rig, World


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
    unseen = {"capped_events", "carryover_ratio"}  # no cap in this study; two deals are not compared yet
    for family in FAMILIES:
        if family.name in unseen:
            continue
        name = f"{family.exposed}_count" if family.kind == "histogram" else family.exposed
        assert name in found, name
        assert set(found[name][0]) == set(family.labels), name


def test_the_registry_holds_the_catalog_and_nothing_else() -> None:
    registry = CollectorRegistry()
    Metrics(registry, PLAN, {"version": "test"})
    assert {family.name for family in registry.collect()} == {f"trimtab_{family.name}" for family in FAMILIES}


def test_values_are_those_of_the_study(world: World) -> None:
    rig = running(world)
    table = world.table
    assert rig.metric("assignment_version") == table.version
    assert rig.metric("assignment_published_timestamp_seconds") == table.published_ms / 1000
    assert rig.metric("watermark_timestamp_seconds") == world.product.now_ms / 1000
    assert rig.metric("watermark_age_seconds") == 0, "on the events' own clock it is the clock"
    assert rig.metric("assignment_age_seconds") == (world.product.now_ms - table.published_ms) / 1000
    assert table.valid_until_ms is not None
    assert rig.metric("assignment_remaining_seconds") == (table.valid_until_ms - world.product.now_ms) / 1000
    windows = (rig.metric("stage_age_seconds") or 0.0) * 1000 / PLAN.window.length_ms
    assert 3 <= windows < 4, "since the study began"
    assert rig.metric("received_bytes_total") == sum(len(r.value) for log in world.topic.logs.values() for r in log)
    assert rig.metric("events_total", result="accepted") == sum(world.topic.latest.values())
    assert rig.metric("windows_open") == 4
    assert rig.metric("lag_records", partition="0") == 0
    assert rig.total("decisions_total") == rig.metric("windows_settled_total") == 3
    assert rig.metric("decision_seconds_count") == 3
    assert (rig.metric("publications_total"), rig.metric("assignment_pending")) == (4, 0)
    assert (rig.metric("journal_commit_seconds_count") or 0) >= 3
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


def test_an_order_is_shown_while_nothing_can_be_read(world: World) -> None:
    world.topic.stop("connection refused")
    rig = world.start()
    rig.turn()
    rig.journal.send(Command("pause", "me"), START_MS)
    rig.turn()
    assert rig.health.faults["source"] == "connection refused"
    assert (rig.metric("stage", stage="explore"), rig.metric("stage", stage="paused")) == (0, 1)
    assert rig.metric("assignment_version") == 1_000_002


def test_an_order_is_shown_while_dead_letters_hold_the_polls_back(world: World) -> None:
    letters = Letters()
    rig = world.start(dead_letters=letters)
    rig.settle()
    letters.fault = "topic gone"
    world.topic.append(0, b"junk")
    rig.turn()
    rig.journal.send(Command("pause", "me"), START_MS)
    rig.turn()
    assert rig.health.faults == {"dead letters": "topic gone"}
    assert (rig.metric("stage", stage="explore"), rig.metric("stage", stage="paused")) == (0, 1)


def test_arms_of_earlier_deals_are_gone(world: World) -> None:
    rig = running(world, 5)
    arms = {labels["arm"] for labels in samples(rig.registry)["trimtab_arm_share_ratio"]}
    assert arms == {arm.arm for arm in world.table.arms}
    judged = {labels["arm"] for labels in samples(rig.registry)["trimtab_relative_change_ratio"]}
    assert len(judged) == PLAN.traffic.explore_arms
    assert "e1" not in judged, "that was an arm of the first deal"
    for labels in samples(rig.registry)["trimtab_relative_change_ratio"]:
        low, change, high = (rig.metric(f"relative_change{end}_ratio", **labels) for end in ("_low", "", "_high"))
        assert low is not None
        assert change is not None
        assert high is not None
        assert -1 < low < change < high < 1
        assert change - low == pytest.approx(high - change)


def test_series_do_not_grow_with_the_windows(world: World) -> None:
    rig = running(world, 4)
    before = {name: len(found) for name, found in samples(rig.registry).items() if name != "trimtab_carryover_ratio"}
    for _ in range(6):
        world.product.settle_window()
        rig.settle()
    after = samples(rig.registry)
    assert {name: len(after[name]) for name in before} == before


def test_margins_are_the_room_left_on_the_side_that_hurts(world: World) -> None:
    rig = running(world)
    rail = PLAN.guardrails[0]
    arms = {labels["arm"] for labels in samples(rig.registry)["trimtab_relative_change_ratio"]}
    assert arms
    for arm in arms:
        change = rig.metric("relative_change_ratio", arm=arm, metric=rail.metric)
        low = rig.metric("relative_change_low_ratio", arm=arm, metric=rail.metric)
        labels = {"arm": arm, "metric": rail.metric, "limit": "min_change"}
        assert change is not None
        assert low is not None
        assert rig.metric("guardrail_margin_ratio", **labels) == pytest.approx(change - rail.limit)
        assert rig.metric("guardrail_margin_low_ratio", **labels) == pytest.approx(low - rail.limit)


def test_an_arm_s_events_are_those_of_the_newest_window(world: World) -> None:
    rig = running(world)
    by_arm = {
        labels["arm"]: rig.metric("arm_events", **labels) for labels in samples(rig.registry)["trimtab_arm_events"]
    }
    end_ms = world.product.now_ms // HOUR_MS * HOUR_MS
    accepted = [json.loads(value) for log in world.topic.logs.values() for value in (r.value for r in log)]
    served = Counter(event["arm"] for event in accepted if end_ms - HOUR_MS <= event["ts_ms"] < end_ms)
    assert len(by_arm) == 1 + PLAN.traffic.explore_arms
    explored = by_arm.keys() - {"control"}  # some of control's came under the table before
    assert {arm: by_arm[arm] for arm in explored} == {arm: served[arm] for arm in explored}


def test_a_daemon_that_has_not_polled_is_not_ready_and_shows_where_it_stands(world: World) -> None:
    rig = world.start()
    assert (rig.metric("ready"), rig.metric("fault", part="start")) == (0, 1)
    assert rig.metric("stage", stage="explore") == 1
    assert rig.metric("assignment_version") == 1_000_001


def test_faults_and_publication_are_told(world: World) -> None:
    rig = running(world, 1)
    assert {part: rig.metric("fault", part=part) for part in PARTS} == dict.fromkeys(PARTS, 0)
    world.publisher.fault = "down for the test"
    world.product.settle_window()
    rig.settle()
    assert (rig.metric("fault", part="redis"), rig.metric("ready")) == (1, 0)
    assert (rig.metric("assignment_pending"), rig.metric("publish_failures_total")) != (0, 0)
    world.publisher.fault = None
    rig.turn(60)
    assert (rig.metric("fault", part="redis"), rig.metric("ready"), rig.metric("assignment_pending")) == (0, 1, 0)


def test_ages_grow_on_the_wall_clock_without_a_step() -> None:
    registry, now_s = CollectorRegistry(), 1000.0
    metrics = Metrics(registry, PLAN, {}, "wall", lambda: now_s)
    value = registry.get_sample_value
    assert math.isnan(value("trimtab_assignment_age_seconds") or 0.0)
    metrics.show(start(PLAN))
    assert value("trimtab_assignment_age_seconds") == 1000
    now_s = 1060.0
    assert value("trimtab_assignment_age_seconds") == 1060
    assert value("trimtab_assignment_remaining_seconds") == math.inf
    assert math.isnan(value("trimtab_watermark_age_seconds") or 0.0)


def test_the_best_vector_s_numbers_are_there_only_while_there_is_one() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, PLAN, {})
    state = start(PLAN)
    best = Choice({"all": (1.0,)}, 0.08, 0.01, 0.97, 0.99, 0.002)

    def seen(pick: Choice | None) -> float:
        metrics.show(msgspec.structs.replace(state, experiment=carrying(state.experiment, pick=pick)))
        value = registry.get_sample_value("trimtab_expected_gain_ratio")
        assert value is not None
        return value

    assert math.isnan(seen(None))
    assert seen(best) == 0.08
    assert registry.get_sample_value("trimtab_expected_regret_ratio") == 0.002
    assert math.isnan(seen(None))


def test_a_guardrail_s_last_trip_is_told_across_restarts(tmp_path: Path) -> None:
    rail, now_s = PLAN.guardrails[0].metric, 1000.0

    def daemon() -> tuple[Metrics, Callable[[], float | None]]:
        registry = CollectorRegistry()
        metrics = Metrics(registry, PLAN, {}, "wall", lambda: now_s)
        metrics.show(start(PLAN))
        return metrics, lambda: registry.get_sample_value("trimtab_guardrail_trip_age_seconds", {"metric": rail})

    metrics, age_s = daemon()
    assert age_s() == math.inf
    tripped = [Record(at_ms, "guardrail_tripped", {"metric": rail, "arm": "e1"}) for at_ms in (940_000, 970_000)]
    state, _, info = step(PLAN, start(PLAN), Batch(()), 1_000_000, seeded(PLAN.seed))
    metrics.stepped(state, info, tripped, [], 0.1)
    assert age_s() == 30
    with Journal.open(tmp_path / "x.journal", PLAN.study) as journal:
        journal.claim(1, [Entry(record.at_ms, record.kind, record.body) for record in tripped])
        metrics, age_s = daemon()
        metrics.recall(journal)
    now_s = 1060.0
    assert age_s() == 90


def test_the_journal_s_size_is_read_at_each_scrape(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, PLAN, {})
    journal = tmp_path / "x.journal"
    journal.write_bytes(b"12345")
    metrics.journal(journal)
    assert registry.get_sample_value("trimtab_journal_bytes") == 5
    (tmp_path / "x.journal-wal").write_bytes(b"678")
    assert registry.get_sample_value("trimtab_journal_bytes") == 8
    assert (registry.get_sample_value("trimtab_journal_free_bytes") or 0) > 0


def test_no_stream_of_new_names_grows_the_series_without_end() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, PLAN, {"version": "test"})
    for number in range(MAX_UNKNOWN + 50):
        metrics.polled(0, {}, {f"c{number}": 2}, {})
    metrics.polled(0, {}, {"c3": 5}, {"watch_s": 3})
    too_long = b'{"id":"a","ts_ms":0,"unit":"u","version":0,"values":{"%s":1}}' % (b"n" * 300)
    metrics.polled(0, {}, decode([too_long], [0], PLAN.events).unknown_components, {})
    assert len(samples(registry)["trimtab_unknown_components_total"]) == MAX_UNKNOWN + 1
    value = registry.get_sample_value
    assert value("trimtab_unknown_components_total", {"component": OTHERS}) == 101
    assert value("trimtab_unknown_components_total", {"component": "c3"}) == 7
    assert value("trimtab_capped_events_total", {"component": "watch_s"}) == 3


def test_a_study_that_has_decided_nothing_shows_its_stage() -> None:
    registry = CollectorRegistry()
    Metrics(registry, PLAN, {"version": "test"}).show(start(PLAN))
    assert registry.get_sample_value("trimtab_stage", {"stage": "explore"}) == 1
    assert registry.get_sample_value("trimtab_arm_share_ratio", {"arm": "control"}) == 1
    assert b"trimtab_build_info" in generate_latest(registry)


def test_the_tally_names_every_row_also_one_that_waits_for_the_next(world: World) -> None:
    rig = running(world, windows=0)
    world.product.serve(0.001)
    rig.settle()
    read = rig.metrics.tally()
    event = msgspec.json.decode(world.topic.logs[0][-1].value)
    world.topic.append(0, msgspec.json.encode(event | {"id": "far", "ts_ms": event["ts_ms"] + 48 * HOUR_MS}))
    rig.settle()
    assert rig.metrics.tally() == f"{read}, 1 held, far ahead until the next event of the partition agrees"
    world.topic.append(0, msgspec.json.encode(event | {"id": "near"}))
    rig.settle()
    assert rig.metrics.tally().endswith(" accepted, 1 future")


def test_series_hold_what_was_set_last_and_leave_out_what_is_not_known() -> None:
    registry = CollectorRegistry()
    series = Series(Gauge("g", "", ("a",), registry=registry))
    series.set({("x",): 1.0, ("y",): 2.0})
    series.set({("y",): 3.0, ("z",): math.nan})
    assert samples(registry) == {"g": [{"a": "y"}]}
    assert registry.get_sample_value("g", {"a": "y"}) == 3
    series.set({})
    assert samples(registry) == {}
