"""What freezes a study, and what sends a vector back: on a study that runs through the core."""

import re
from typing import Any

import numpy as np
import pytest

from controller.core import decide, looks, safety
from controller.core import step as core
from controller.core.windows import Batch, PartBatch
from tests.core.loop import (
    HOUR,
    PLAN,
    START,
    Loop,
    Row,
    Theta,
    at_stage,
    columns,
    indifferent,
    pleasant,
    varied,
)

# What freezes a study


def twice(loop: Loop) -> list[Row]:
    return loop.rows(minute=20) + loop.rows(minute=40)


def frozen_by(loop: Loop, rows: list[Row], why: str, rejected: int = 0) -> None:
    """The window's rows pause the study, which says why, stays paused, and goes on when an operator says so."""
    loop.poll(rows, rejected=rejected)
    loop.poll([loop.settles()])
    loop.hour += 1
    assert loop.carry.stage == "paused"
    assert re.search(why, loop.carry.reason)
    assert loop.infos[-1].decisions[-1].outcome == "frozen"
    assert re.search(why, loop.infos[-1].decisions[-1].why)
    changed = [r.body for r in loop.records if r.kind == "stage_changed"][-1]
    assert changed["to"] == "paused"
    assert re.search(why, changed["why"])
    assert (set(loop.table.buckets), loop.table.stage) == ({0}, "paused")
    assert loop.window() == "frozen"
    assert loop.carry.stage == "paused"
    loop.order("resume")
    assert loop.window() == "dealt"
    assert set(loop.table.buckets) != {0}


def test_misattribution_freezes() -> None:
    loop = Loop()
    loop.windows(2)
    rows = twice(loop)
    wrong = [row._replace(arm="control") if row.arm != "control" and k % 8 == 0 else row for k, row in enumerate(rows)]
    frozen_by(loop, wrong, "misattribution: [0-9]+ of 240 events")


def test_misattribution_of_every_event_freezes_though_no_event_counts() -> None:
    loop = Loop()
    loop.windows(2)
    frozen_by(loop, [row._replace(arm="nobody") for row in twice(loop)], "misattribution: 240 of 240")


def test_a_few_misattributed_events_do_not_freeze() -> None:
    loop = Loop()
    loop.windows(2)
    rows = twice(loop)
    loop.poll([rows[0]._replace(arm="nobody"), *rows[1:], loop.settles()])
    assert loop.carry.stage == "explore"


def test_events_without_a_table_are_no_misattribution() -> None:
    loop = Loop()
    loop.windows(2)
    loop.poll([row._replace(version=0) for row in twice(loop)] + loop.rows() + [loop.settles()])
    assert loop.carry.stage == "explore"


def test_a_silent_arm_freezes() -> None:
    loop = Loop()
    loop.windows(2)
    arm = loop.table.arms[3].arm
    frozen_by(loop, [row for row in loop.rows() if row.arm != arm], f"missing data: arm {arm}")


def test_a_sample_ratio_mismatch_freezes() -> None:
    def crowd() -> list[Row]:
        return [row for minute in range(20, 30) for row in loop.rows(minute=minute)]

    loop = Loop()
    for _ in range(2):
        loop.poll([*crowd(), loop.settles()])
        loop.hour += 1
    assert loop.carry.stage == "explore"
    arm = loop.table.arms[3].arm
    frozen_by(
        loop,
        [row for k, row in enumerate(crowd()) if row.arm != arm or k % 7 == 0],
        f"sample ratio mismatch: {arm} has 8[0-9].[0-9]% fewer people in the window than ",
    )


def test_many_rejected_rows_freeze() -> None:
    loop = Loop()
    loop.windows(2)
    said = "impossible values: 100 of 22[0-9] events since the last decision were rejected: malformed 100"
    frozen_by(loop, loop.rows(), said, rejected=100)


def test_a_backlog_s_rejected_rows_are_judged_by_all_of_it() -> None:
    loop = Loop()
    loop.windows(2)
    rows = [row for hour in range(2, 12) for row in loop.rows(hour)]
    loop.poll([*rows, loop.settles(11)], rejected=120)
    assert loop.carry.stage != "paused"


@pytest.mark.parametrize("clock", ["wall", "events"])
def test_a_topic_of_refused_rows_alone_freezes_though_no_window_settles(clock: str) -> None:
    loop = Loop()
    loop.windows(2)

    def refused(rows: int, hours: float) -> None:
        now_ms = START + int(hours * HOUR) if clock == "wall" else None
        loop.poll([], rejected=rows, now_ms=now_ms)

    refused(230, 3.0)
    assert loop.carry.stage == "explore"  # one bad record, perhaps
    refused(230, 4.2)
    said = "impossible values: all of the last 460 events were rejected, so no window can settle: malformed 460; "
    assert (loop.carry.stage, loop.carry.reason[: len(said)]) == ("paused", said)
    assert set(loop.table.buckets) == {0}
    assert [record.kind for record in loop.records[-2:]] == ["operator", "stage_changed"]
    refused(230, 5.0)
    loop.order("resume")
    refused(20, 6.0)
    assert loop.carry.stage == "explore"  # what came before is forgiven
    loop.window()
    assert loop.carry.stage == "explore"
    refused(250, 9.0)
    assert loop.carry.stage == "paused"


def test_what_is_refused_most_is_named_with_the_reason_to_pause() -> None:
    loop = Loop()
    loop.windows(2)
    early = loop.carry.decided_through_ms - 5 * HOUR  # the wall clock, five hours behind the product's
    rejected = {"wrong_type": 1, "negative": 2, "no_version": 150, "no_unit": 2}
    batch = Batch((PartBatch(0, columns(loop.rows(), 1000), rejected, 1275),))
    loop.state, effects, _ = core.step(loop.plan, loop.state, batch, early, core.seeded(7))
    loop._keep(effects)
    assert loop.carry.reason == (
        "impossible values: all of the last 275 events were rejected, so no window can settle: "
        "no_version 150, future 120, negative 2; the newest of partition 0 before offset 1275"
    )
    loop.order("resume")
    assert (loop.state.reasons, loop.state.windows.partitions[0].reasons) == ({}, {})


def test_a_partition_of_refused_rows_alone_does_not_stop_the_study() -> None:
    loop = Loop()
    offsets = [0, 0]

    def poll(good: list[Row], other: list[Row], rejected: int, hours: float) -> None:
        offsets[0] += len(good)
        offsets[1] += len(other) + rejected
        parts = (
            PartBatch(0, columns(good), {}, offsets[0]),
            PartBatch(1, columns(other), {"malformed": rejected}, offsets[1]),
        )
        now_ms = START + int(hours * HOUR)
        loop.state, effects, info = core.step(loop.plan, loop.state, Batch(parts), now_ms, core.seeded(7))
        loop.infos.append(info)
        loop._keep(effects)

    for hour in range(12):
        broken = hour >= 2
        loop.hour = hour
        rows = loop.rows()
        poll(rows if broken else rows[::2], [] if broken else rows[1::2], 60 if broken else 0, hour + 0.5)
        poll([loop.settles()], [] if broken else [loop.settles()], 0, hour + 1.1)
    assert loop.carry.decided_through_ms == START + 12 * HOUR
    assert len({end for end, _ in loop.state.windows.cells}) <= 3
    assert loop.carry.stage == "paused"  # a third of all rows was refused
    assert re.match(r"impossible values: [0-9]+ of [0-9]+ events since the last decision", loop.carry.reason)


def test_sums_that_would_overflow_freeze_at_once() -> None:
    loop = Loop()
    loop.windows(2)
    row = loop.rows()[0]
    loop.poll([row._replace(values=(5e12, 0.0, 0.0))])
    assert loop.carry.stage == "paused"
    assert "overflow" in loop.carry.reason
    assert set(loop.table.buckets) == {0}
    assert [r.kind for r in loop.records[-2:]] == ["operator", "stage_changed"]
    assert loop.window() == "frozen"


def test_a_fault_in_a_backlog_freezes_what_is_published_at_its_end() -> None:
    loop = Loop()
    loop.windows(2)
    wrong = [row._replace(arm="nobody") for row in twice(loop)]
    right = loop.rows(loop.hour + 1)
    loop.poll([*wrong, *right, loop.settles(loop.hour + 1)])
    assert [d.outcome for d in loop.infos[-1].decisions] == ["frozen", "frozen"]
    assert (set(loop.table.buckets), loop.table.stage) == ({0}, "paused")


# Guardrails


@pytest.mark.parametrize("stage", ["confirm", "ramp", "hold"])
def test_a_guardrail_that_breaks_stops_the_vector_for_good(stage: str) -> None:
    loop = at_stage(stage)
    stopped = loop.carry.candidate

    def worse(theta: Theta, segment: str) -> dict[str, float]:
        change = pleasant(theta, segment)
        return change | ({"clicks": -0.25} if theta == stopped.theta["all"] else {})

    loop.truth = worse
    for _ in range(3):
        loop.window()
        if loop.carry.stage == "explore":
            break
    assert loop.carry.stage == "explore"
    assert loop.carry.candidate is None
    assert loop.carry.banned == (stopped.theta,)
    tripped = [record.body for record in loop.records if record.kind == "guardrail_tripped"]
    assert [(body["arm"], body["metric"]) for body in tripped] == [(stopped.arm, "ctr")]
    assert stopped.arm in loop.infos[-1].decisions[-1].why
    since = len(loop.tables)
    loop.windows(8)
    dealt = [arm.theta["all"] for table in loop.tables[since - 1 :] for arm in table.arms[1:]]
    assert dealt
    assert all(distance(theta, stopped.theta["all"]) >= 0.05 for theta in dealt)


@pytest.mark.parametrize(
    ("clicks", "trusted", "tested"),
    [
        (-0.07, True, 24),  # within half of the limit more: not before it has had a day
        (-0.07, False, 2),  # the belief, which knows other hours, does not say that it keeps the limit
        (-0.09, True, 2),  # beyond that at any hour
        (-0.053, True, 30),  # within the tolerance of a pick: never
    ],
)
def test_a_limit_is_one_of_a_day(clicks: float, trusted: bool, tested: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(varied(rollout={"confirm_ms": 30 * HOUR}), noise=0.003)
    loop.until("confirm")
    vector = loop.carry.candidate.theta["all"]
    monkeypatch.setattr(decide, "improbable", lambda *_: None if trusted else "no")
    loop.truth = lambda theta, segment: pleasant(theta, segment) | ({"clicks": clicks} if theta == vector else {})
    windows = next((n for n in range(1, 31) if loop.window() and loop.carry.stage != "confirm"), 30)
    assert windows == tested
    if windows < 30:
        assert re.search("guardrail: c.* changes ctr by -[79].*, the limit is -5.00%", loop.carry.reason)


def test_where_few_windows_are_remembered_a_test_has_had_its_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a vector that is held could stay beyond a limit for ever: no day would be remembered."""
    monkeypatch.setattr(looks, "_remembered", lambda _: 4)
    loop = Loop(varied(rollout={"confirm_ms": 30 * HOUR}), noise=0.003)
    loop.until("confirm")
    vector = loop.carry.candidate.theta["all"]
    monkeypatch.setattr(decide, "improbable", lambda *_: None)
    loop.truth = lambda theta, segment: pleasant(theta, segment) | ({"clicks": -0.07} if theta == vector else {})
    assert next(n for n in range(1, 31) if loop.window() and loop.carry.stage != "confirm") == 5


def distance(a: Theta, b: Theta) -> float:
    """Root mean square distance in the unit cube of `PLAN`."""
    unit = [(np.log10(t[1]) / 2 + 0.5, (t[2] + 1.0) / 2.0) for t in (a, b)]
    return float(np.sqrt(np.mean((np.array(unit[0]) - np.array(unit[1])) ** 2)))


def test_what_a_harmless_vector_risks_is_divided_over_all_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequence of its own watches it in confirm, at each share of the ramp, and in hold."""
    spent: dict[str, set[float]] = {}
    loop = at_stage("confirm")
    crossings = safety.crossings

    def spied(*given: Any) -> tuple[safety.Crossing, ...]:
        if given[4:] == ():  # not the breaker's, which holds it against a catastrophe
            spent.setdefault(f"{loop.carry.stage} {loop.carry.ramp_step}", set()).add(given[3])
        return crossings(*given)

    monkeypatch.setattr(safety, "crossings", spied)
    while loop.carry.stage != "hold":
        loop.window()
    loop.windows(2)
    assert len(spent) > 2
    assert {alpha for stage in spent.values() for alpha in stage} == {PLAN.safety.stop_alpha / len(spent)}


def test_a_harmless_vector_is_not_stopped() -> None:
    for seed in range(3):
        loop = Loop(seed=seed, noise=0.05)
        loop.until("hold", 40)
        loop.windows(5)
        assert not [r for r in loop.records if r.kind in ("guardrail_tripped", "breaker_tripped")]


def test_what_cannot_be_confirmed_is_banned() -> None:
    loop = Loop(varied(PLAN, rollout={"confirm_alpha": 0.001}))
    loop.until("confirm")
    candidate = loop.carry.candidate.theta
    loop.truth = indifferent
    loop.until("explore")
    assert loop.carry.reason.startswith("not confirmed: gain")
    assert loop.carry.banned == (candidate,)
