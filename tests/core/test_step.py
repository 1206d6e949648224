"""The guarantees that live in the core, on a study that runs from its first event to a held vector."""

import itertools
import re

import msgspec
import numpy as np
import pytest

from controller.assignment import VERSIONS_PER_EPOCH, Assignment
from controller.core import step as core
from controller.core.estimate import Metric
from controller.core.events import Component
from controller.core.experiment import banning
from controller.core.safety import Guardrail
from controller.core.step import Publish
from controller.core.windows import Batch, PartBatch
from tests.core.loop import (
    GRACE,
    HOUR,
    PLAN,
    START,
    Loop,
    Row,
    Theta,
    at_stage,
    columns,
    frozen_copy,
    pleasant,
    same,
    varied,
)


def published(effects: tuple[core.Effect, ...]) -> list[Publish]:
    return [effect for effect in effects if isinstance(effect, Publish)]


# From the first event to a held vector


def test_a_study_finds_confirms_ramps_and_holds_a_good_vector() -> None:
    loop = at_stage("hold")
    moves = [record.body["to"] for record in loop.records if record.kind == "stage_changed"]
    assert moves == ["confirm", "ramp", "hold"]
    theta = loop.carry.candidate.theta["all"]
    assert pleasant(theta, "all")["watch_s"] > 0.1
    assert theta[0] == 1.0  # fixed
    table = loop.table
    assert [(arm.arm, arm.role) for arm in table.arms] == [("control", "control"), (table.fallback, "promoted")]
    assert np.mean(table.buckets) == 0.9


def test_hold_goes_on_with_the_promoted_arm_as_fallback_and_the_very_deal() -> None:
    loop = at_stage("hold")
    before = loop.table
    loop.windows(3)
    assert (loop.table.fallback, loop.table.buckets, loop.table.stage) == (before.fallback, before.buckets, "hold")
    loop.order("pause")
    assert loop.table.fallback == "control"


def test_only_hold_makes_a_vector_the_fallback() -> None:
    loop = at_stage("hold")
    assert {table.fallback for table in loop.tables if table.stage != "hold"} == {"control"}


def test_the_ramp_gives_buckets_and_takes_none_back() -> None:
    loop = at_stage("hold")
    ramp = [np.array(table.buckets) for table in loop.tables if table.stage == "ramp"]
    ramp = [buckets == 1 for buckets in ramp]
    assert [float(np.mean(buckets)) for buckets in ramp] == sorted(float(np.mean(buckets)) for buckets in ramp)
    assert all((after >= before).all() for before, after in itertools.pairwise(ramp))


def test_every_settled_window_publishes_a_rising_version_that_keeps_the_contract() -> None:
    loop = at_stage("hold")
    versions = [table.version for table in loop.tables]
    assert versions == sorted(set(versions))
    assert versions[0] == VERSIONS_PER_EPOCH + 1
    for decision, table in zip(loop.decisions(), loop.tables[1:], strict=True):
        assert table.decided_through_ms == decision.body["window_end_ms"]
        assert table.published_ms == table.decided_through_ms + GRACE  # the clock of the events
        assert table.valid_until_ms == table.published_ms + PLAN.window.validity_ms
        contract(table)
    assert [t.decided_through_ms for t in loop.tables[1:]] == [START + h * HOUR for h in range(1, loop.hour + 1)]


def contract(table: Assignment) -> None:
    assert (table.study, table.epoch, table.form, table.weights) == (
        "hand",
        1,
        "linear",
        ("p_click", "p_watch", "p_share"),
    )
    assert (table.unit_hash.name, table.unit_hash.salt, table.unit_hash.buckets) == ("xxh64", "hand:", 120)
    assert table.arms[0].arm == "control"
    shares = np.bincount(table.buckets, minlength=len(table.arms)) / 120
    at_risk = [share for share, arm in zip(shares, table.arms, strict=True) if arm.role in ("explore", "candidate")]
    assert sum(at_risk) <= PLAN.traffic.max_share_at_risk


# Time


def test_a_backlog_is_decided_in_order_and_only_the_newest_publishes() -> None:
    loop = Loop()
    loop.windows(2)
    before = loop.table
    rows = [row for hour in range(2, 7) for row in loop.rows(hour)]
    effects = loop.poll([*rows, loop.settles(6)])
    made = loop.infos[-1].decisions
    assert [decision.end_ms for decision in made] == [START + h * HOUR for h in range(3, 8)]
    assert [decision.outcome for decision in made] == ["backlog"] * 4 + ["dealt"]
    assert [decision.table is None for decision in made] == [True] * 4 + [False]
    assert len(published(effects)) == 1
    assert loop.table.version == before.version + 1
    assert loop.table.decided_through_ms == START + 7 * HOUR


def test_while_the_source_is_behind_nothing_is_published() -> None:
    loop = Loop()
    loop.windows(2)
    loop.poll(loop.rows())
    effects = loop.poll([loop.settles()], backlog=True)
    assert published(effects) == []
    assert loop.carry.decided_through_ms == START + 3 * HOUR
    loop.hour += 1
    loop.window()
    assert loop.table.decided_through_ms == START + 4 * HOUR


def test_a_stage_does_not_advance_on_deals_that_were_never_served() -> None:
    """Hours of a table of the last stage count for nothing in this one."""
    loop = at_stage("confirm")
    stale = next(table for table in reversed(loop.tables) if table.stage == "explore")
    loop.tables.append(stale)
    rows = [row for hour in range(loop.hour, loop.hour + 6) for row in loop.rows(hour)]
    loop.tables.pop()
    loop.poll([*rows, loop.settles(loop.hour + 5)])
    assert len(loop.infos[-1].decisions) == 6
    assert (loop.carry.stage, loop.carry.exposed_windows, loop.carry.claim_through_ms) == ("confirm", 0, None)


def test_exploration_needs_exposure_not_time() -> None:
    loop = Loop()
    loop.windows(2)
    loop.poll([loop.settles(20)])
    loop.hour = 21
    assert loop.carry.stage == "explore"
    assert loop.carry.exposed_windows == 1
    loop.until("confirm")
    assert loop.carry.decided_through_ms == START + 23 * HOUR


def test_a_deal_that_an_operator_cut_short_is_no_exposure() -> None:
    loop = at_stage("confirm")
    loop.poll(loop.rows(minute=10))
    loop.order("pause")
    loop.order("resume")
    loop.poll(loop.rows(minute=50)[:30])
    loop.poll([loop.settles()])
    loop.hour += 1
    assert loop.carry.stage == "confirm"
    assert loop.carry.exposed_windows == 0
    loop.window()
    assert loop.carry.exposed_windows == 1


def test_a_run_of_empty_windows_is_decided_on_once() -> None:
    loop = Loop()
    loop.windows(2)
    before = loop.table
    loop.poll([*loop.rows(30), loop.settles(30)])
    ends = [d.end_ms for d in loop.infos[-1].decisions]
    assert ends == [START + h * HOUR for h in (3, 30, 31)]  # the event that settled hour 2 lies in hour 3
    assert [d.outcome for d in loop.infos[-1].decisions[:2]] == ["backlog", "backlog"]
    assert loop.table.decided_through_ms == START + 31 * HOUR
    assert before.decided_through_ms == START + 2 * HOUR


def test_no_data_is_no_decision() -> None:
    loop = Loop()
    loop.windows(2)
    before, pick = loop.table, loop.carry.pick
    assert loop.window(lambda row: None) == "no_data"
    assert (loop.table.buckets, loop.table.arms) == (before.buckets, before.arms)
    assert loop.table.version == before.version + 1
    assert loop.table.valid_until_ms == START + 3 * HOUR + GRACE + PLAN.window.validity_ms
    assert loop.carry.pick == pick
    assert loop.carry.exposed_windows == 1


def test_a_window_of_events_that_do_not_count_says_what_became_of_them() -> None:
    loop = Loop()
    loop.windows(2)
    rows = loop.rows()
    strange = [row._replace(version=99 if k < 20 else 0, arm="control") for k, row in enumerate(rows)]
    loop.poll([*strange, loop.settles()])
    (decision,) = loop.infos[-1].decisions
    others = len(rows) - 20 + 1  # with the one that settled the window before
    counts = f"{others} served without a table (version 0), 20 served by an unknown version"
    told = f"no event of the window counts, {counts}: the last deal goes on"
    assert (decision.outcome, decision.why) == ("no_data", told)
    loop.hour += 2
    loop.poll([loop.settles()])
    decision = loop.infos[-1].decisions[-1]
    assert (decision.outcome, decision.why) == ("no_data", "no event in the window: the last deal goes on")


def test_a_first_event_that_is_old_begins_the_study_and_no_more() -> None:
    loop = Loop()
    loop.poll([loop.rows(-9)[0], *loop.rows(0), loop.settles(0)])
    assert [d.end_ms - START for d in loop.infos[-1].decisions] == [-8 * HOUR, 0, HOUR]
    loop.hour = 1
    loop.windows(2)
    assert loop.carry.stage == "explore"
    assert loop.carry.exposed_windows == 2


def test_nothing_is_decided_before_the_first_event() -> None:
    loop = Loop()
    assert loop.poll([]) == ()
    loop.poll(loop.rows())
    assert loop.infos[-1].decisions == ()


def test_on_the_wall_clock_the_future_is_refused_and_tables_carry_its_time() -> None:
    loop = Loop()
    now = START + HOUR + GRACE + 1000
    rows = [*loop.rows(), loop.settles(), loop.beat(now + 10 * GRACE)]
    loop.poll(rows, now_ms=now)
    assert loop.infos[-1].ingested.counts["future"] == 1
    assert loop.table.published_ms == now
    assert loop.table.decided_through_ms == START + HOUR


def test_late_events_change_what_is_believed_later() -> None:
    def run(late: bool) -> Loop:
        loop = Loop()
        loop.windows(2)
        rows = loop.rows()
        kept = len(rows) // 2 if late else len(rows)
        loop.poll(rows[:kept])
        loop.poll([loop.settles()])
        loop.hour += 1
        if late:
            loop.poll(rows[kept:])
        return loop

    whole, amended = run(late=False), run(late=True)
    end = START + 3 * HOUR
    assert amended.infos[-1].ingested.amended == (end,)
    first, second = (loop.decisions()[2].body["carry"]["pick"] for loop in (whole, amended))
    assert first != second  # half a window tells less
    for loop in (whole, amended):
        loop.windows(3)
    sums = [
        {r.body["window_end_ms"]: r.body["sums_sha256"] for r in loop.records if r.kind == "sealed"}
        for loop in (whole, amended)
    ]
    assert sums[0][end] == sums[1][end]


def test_what_counts_under_a_replaced_table_does_not_depend_on_how_polls_are_cut() -> None:
    sealed = []
    for cut in (1, 1000):
        loop = Loop(varied(PLAN, buckets=22, traffic={"explore_arms": 1}))
        stale = loop.rows()[:2]
        loop.window()
        hours = (PLAN.window.validity_ms + 2 * PLAN.window.lateness_ms) // HOUR
        rows = [
            row._replace(unit=1_000_000 + 10 * hour + k, ts_ms=START + hour * HOUR + 30 * 60_000)
            for hour in range(1, hours)
            for k, row in enumerate(stale)
        ]
        for at in range(0, len(rows), cut):
            loop.poll(rows[at : at + cut])
        sealed.append({r.body["window_end_ms"]: r.body["sums_sha256"] for r in loop.records if r.kind == "sealed"})
        counts = [info.ingested.counts for info in loop.infos]
        assert sum(count["accepted"] for count in counts[2:]) == 2 * (PLAN.window.validity_ms // HOUR + 1)
    assert sealed[0] == sealed[1]


# Randomness and purity


def test_the_same_inputs_give_the_same_bits_and_stay_as_they_were() -> None:
    loop = Loop()
    loop.windows(5)
    loop.poll(loop.rows())
    rows = [loop.settles()]
    state, before = loop.state, frozen_copy(loop.state)
    batch = Batch((PartBatch(0, columns(rows, 9999), {}, 10000),))
    first = core.step(PLAN, state, batch, None, core.seeded(7))
    second = core.step(PLAN, state, batch, None, core.seeded(7))
    assert first[1]
    assert same(first, second)
    assert frozen_copy(state) == before


def test_two_runs_are_one() -> None:
    one, two = Loop(), Loop()
    for loop in (one, two):
        loop.until("ramp")
    assert same(one.records, two.records)


def test_a_decision_s_randomness_is_its_seed_and_window_alone() -> None:
    draws = [core.seeded(3)(START).random(), core.seeded(3)(START).random()]
    assert draws[0] == draws[1]
    assert core.seeded(4)(START).random() != draws[0] != core.seeded(3)(START + HOUR).random()
    one, two = Loop(), Loop(varied(PLAN, seed=8))
    for loop in (one, two):
        loop.windows(1)
    assert one.table.buckets != two.table.buckets


@pytest.mark.parametrize("cuts", [2, 5])
def test_how_a_poll_is_cut_changes_no_decision(cuts: int) -> None:
    whole, cut = Loop(), Loop()
    rng = np.random.default_rng(cuts)
    for _ in range(6):
        whole.window()
        rows = [*cut.rows(), cut.settles()]
        places = sorted(rng.choice(len(rows), cuts - 1, replace=False).tolist())
        for start, stop in zip([0, *places], [*places, len(rows)], strict=True):
            cut.poll(rows[start:stop])
        cut.hour += 1
    decided = [
        [(d.at_ms, {k: v for k, v in d.body.items() if k != "table"}, d.data) for d in loop.decisions()]
        for loop in (whole, cut)
    ]
    assert same(decided[0], decided[1])
    assert same(whole.tables, cut.tables)


# Kinds of studies


def test_a_gain_that_is_too_good_waits_for_a_person_who_looks_at_the_telemetry() -> None:
    """The candidate's watch time is counted ten times: no weights do that."""
    loop = at_stage("confirm")
    candidate = loop.carry.candidate.arm

    def tenfold(row: Row) -> Row:
        clicks, watch = row.values[1:]
        return row._replace(values=(row.values[0], clicks, 10.0 * watch)) if row.arm == candidate else row

    while not loop.carry.awaiting_approval:
        assert loop.carry.stage == "confirm", loop.story()
        loop.window(tenfold)
    assert re.search(
        "it changes watch by \\+[0-9]{3,4}%: a change above 50% .safety.implausible_change", loop.carry.reason
    )
    loop.window(tenfold)
    assert loop.carry.stage == "confirm"
    other = loop.clone()
    loop.order("reject")
    assert (loop.carry.stage, len(loop.carry.banned)) == ("explore", 1)
    other.order("approve")
    assert other.carry.stage == "ramp"


def test_approval_is_waited_for() -> None:
    loop = Loop(varied(PLAN, rollout={"require_approval": True}))
    loop.until("confirm")
    loop.windows(8)
    assert loop.carry.stage == "confirm"
    assert loop.carry.awaiting_approval
    assert "approval" in loop.carry.reason
    assert loop.order("approve").table is not None
    assert loop.carry.stage == "ramp"
    loop.window()
    assert np.mean(np.equal(loop.table.buckets, 1)) == 0.1
    loop.until("hold")


def test_a_study_in_segments_finds_each_its_own() -> None:
    def opposite(theta: Theta, segment: str) -> dict[str, float]:
        x = np.log(theta[1]) / np.log(10.0)
        sign = {"new": -1.0, "old": 1.0}.get(segment, 0.0)
        return {"watch_s": 0.25 * sign * x - 0.1 * x * x}

    loop = Loop(varied(PLAN, segments=("new", "old")), truth=opposite)
    loop.until("hold", 40)
    theta = loop.carry.candidate.theta
    assert theta["new"][1] < 0.7
    assert theta["old"][1] > 1.4
    assert theta["all"] == (1.0, 1.0, 0.0)
    assert set(loop.table.arms[1].theta) == {"all", "new", "old"}


DELAYED = varied(
    PLAN,
    components=(*PLAN.components, Component("returned")),
    metrics=(*PLAN.metrics, Metric("returns", "returned", "buckets", "delayed")),
    guardrails=(*PLAN.guardrails, Guardrail("returns", min_change=-0.05)),
)


@pytest.mark.parametrize("harmful", [False, True])
def test_a_delayed_metric_is_judged_where_a_deal_stays(harmful: bool) -> None:

    def truth(theta: Theta, segment: str) -> dict[str, float]:
        harm = -0.1 * abs(np.log(theta[1])) if harmful else 0.0
        return pleasant(theta, segment) | {"returned": harm}

    loop = Loop(DELAYED, truth=truth)
    loop.until("confirm")  # exploring does not look at it
    if harmful:
        loop.until("explore")
        assert "returns" in loop.carry.reason
    else:
        loop.until("hold")


# What a long study keeps


def test_state_stays_bounded() -> None:
    # Too few buckets an arm to believe: cheap decisions. A guardrail would pause the study, as it is never measured.
    plan = varied(PLAN, buckets=22, traffic={"explore_arms": 1}, guardrails=())
    loop = Loop(plan, noise=0.3)
    sizes = []
    for _ in range(200):
        loop.window()
        experiment = loop.state.experiment
        sizes.append(
            (
                len(experiment.deals),
                len(experiment.versions),
                len(experiment.replaced_ms),
                len(experiment.totals),
                len(experiment.moments),
            )
        )
        assert len(experiment.evidence) <= 168
    assert max(sizes[100:]) == max(sizes[20:40]) <= (9, 9, 9, 9, 9)
    assert len(loop.state.recorded) <= 6
    assert loop.state.experiment.carry.deal > 190


def test_bans_stay_bounded() -> None:
    experiment = Loop().state.experiment
    for k in range(100):
        carry = msgspec.structs.replace(experiment.carry, banned=banning(experiment.carry, {"all": (float(k),)}))
        experiment = msgspec.structs.replace(experiment, carry=carry)
    assert [theta["all"][0] for theta in experiment.carry.banned] == [float(k) for k in range(68, 100)]
