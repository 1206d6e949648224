"""Every decision made again: exact on the ledger as it is, and a named place where it was bent."""

import copy
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from controller.core.replay import Checked, Unreadable, replay, window_sums
from tests.core.loop import HOUR, START, Entry, Loop, Row, at_stage, journalled, same, varied


def eventful() -> Loop:
    """A study with a bit of everything: restarts, commands, a trip of the breaker, a plan that changed, a pause."""
    loop = at_stage("ramp")
    loop.begin(2)
    loop.window()
    loop.order("pause", "lunch")
    loop.order("approve")
    loop.window()
    loop.order("resume")
    loop.windows(2)
    loop.replan(varied(loop.plan, guardrails=(msgspec.structs.replace(loop.plan.guardrails[0], min_change=-0.06),)))
    loop.windows(1)
    bad = loop.table.arms[1].arm
    loop.poll([_broken(row, bad) for row in loop.rows(minute=20)])
    loop.poll([loop.settles()])
    loop.hour += 1
    loop.windows(4)
    return loop


def _broken(row: Row, arm: str) -> Row:
    return row._replace(values=(row.values[0], 1.0, row.values[2])) if row.arm == arm else row


@pytest.fixture(scope="module")
def loop() -> Loop:
    return eventful()


@pytest.fixture(scope="module")
def entries(loop: Loop) -> list[Entry]:
    return journalled(loop.records)


def bent(entries: list[Entry], kind: str, number: int, change: Any) -> list[Entry]:
    """The entries, with the body of the number-th of a kind changed."""
    entries = copy.deepcopy(entries)
    change([entry for entry in entries if entry.kind == kind][number].body)
    return entries


def verdicts(entries: list[Entry]) -> tuple[Counter[str], list[Checked]]:
    checked = list(replay(entries))
    return Counter(c.outcome for c in checked), [c for c in checked if c.outcome != "exact"]


def test_a_whole_study_is_made_again_entry_by_entry(entries: list[Entry]) -> None:
    checked = list(replay(entries))
    assert {c.outcome for c in checked} == {"exact"}, [c for c in checked if c.outcome != "exact"]
    kinds = Counter(c.kind for c in checked)
    assert set(kinds) == {"plan_changed", "daemon_started", "decided", "sealed", "operator", "breaker_tripped"}
    assert sum(kinds.values()) == sum("carry" in entry.body for entry in entries)
    assert [c.seq for c in checked] == sorted(c.seq for c in checked)


def tamper_theta(body: dict[str, Any]) -> None:
    table = msgspec.json.decode(body["table"])
    table["arms"][1]["theta"]["all"][1] *= 1.5
    body["table"] = msgspec.json.encode(table).decode()


def tamper_bucket(body: dict[str, Any]) -> None:
    table = msgspec.json.decode(body["table"])
    table["buckets"][7] = 1 - min(table["buckets"][7], 1)
    body["table"] = msgspec.json.encode(table).decode()


def tamper_carry(body: dict[str, Any]) -> None:
    body["carry"]["exposed_windows"] += 1


def tamper_pick(body: dict[str, Any]) -> None:
    body["carry"]["pick"]["gain_mean"] += 0.5


def tamper_outcome(body: dict[str, Any]) -> None:
    body["outcome"] = "no_data"


def tamper_stage(body: dict[str, Any]) -> None:
    body["carry"]["stage"] = "rolled_back"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (tamper_theta, "table.arms[1].theta.all[1]"),
        (tamper_bucket, "table.buckets[7]"),
        (tamper_carry, "carry.exposed_windows"),
        (tamper_pick, "carry.pick.gain_mean"),
        (tamper_outcome, "outcome"),
        (tamper_stage, "carry.stage"),
    ],
)
def test_a_tampered_outcome_is_named(entries: list[Entry], change: Any, place: str) -> None:
    counts, found = verdicts(bent(entries, "decided", 2, change))
    assert counts["different"] >= 1
    assert found[0].kind == "decided"
    assert found[0].found.startswith(f"{place}: the ledger holds ")
    assert "made again it is" in found[0].found


def test_one_bent_entry_does_not_spoil_what_follows(entries: list[Entry]) -> None:
    counts, found = verdicts(bent(entries, "decided", 2, tamper_pick))
    # What is recorded is taken over: a window sealed before the next decision still speaks of the bent pick.
    assert [checked.kind for checked in found] == ["decided", "sealed"]
    assert counts["exact"] > 20


def test_what_was_published_is_what_later_decisions_are_checked_against() -> None:
    """Bent weights are taken over as well: the next decision, which saw other evidence for them, differs too."""
    loop = Loop()
    loop.windows(4)
    _, found = verdicts(bent(journalled(loop.records), "decided", 1, tamper_theta))
    assert [checked.kind for checked in found][:2] == ["decided", "decided"]


def test_a_table_that_is_not_there_is_a_difference(entries: list[Entry]) -> None:
    counts, found = verdicts(bent(entries, "decided", -1, lambda body: body.update(table=None)))
    assert (counts["different"], found[0].found.split(":")[0]) == (1, "table")


def test_rounding_is_equivalent(entries: list[Entry]) -> None:
    def rounded(body: dict[str, Any]) -> None:
        body["carry"]["pick"]["gain_mean"] *= 1.0 + 1e-9
        table = msgspec.json.decode(body["table"])
        table["arms"][1]["theta"]["all"][1] *= 1.0 + 1e-12
        body["table"] = msgspec.json.encode(table).decode()

    counts, found = verdicts(bent(entries, "decided", 2, rounded))
    assert counts["different"] == 0
    assert found[0].outcome == "equivalent"
    assert found[0].found == "carry differs by rounding"


def test_other_words_for_the_same_reason_are_equivalent(entries: list[Entry]) -> None:
    counts, found = verdicts(bent(entries, "decided", 2, lambda body: body.update(why="because")))
    assert counts == {"exact": len(list(replay(entries))) - 1, "equivalent": 1}
    assert found[0].found == "why differs by rounding"


def test_sums_that_do_not_match_their_digest_are_found(entries: list[Entry]) -> None:
    counts, found = verdicts(bent(entries, "sealed", 3, lambda body: body.update(sums_sha256="0" * 64)))
    assert (counts["different"], found[0].kind) == (1, "sealed")
    assert found[0].found.startswith("sums_sha256")


def test_bent_sums_change_what_is_decided(entries: list[Entry]) -> None:
    place = next(k for k, e in enumerate(entries) if e.kind == "decided" and e.body["outcome"] == "dealt")
    other = [e for e in entries if e.kind == "decided"][5]
    counts, _ = verdicts([*entries[:place], entries[place]._replace(data=other.data), *entries[place + 1 : place + 2]])
    assert counts["different"] >= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: body.pop("carry"), "KeyError: 'carry'"),
        (lambda body: body.pop("act"), "KeyError: 'act'"),
        (lambda body: body["carry"].update(stage="bliss"), "stage"),
        (lambda body: body["carry"].pop("version"), ""),
        (lambda body: body.update(table="{"), "truncated"),
        (lambda body: body["carry"].update(banned=[7]), "banned"),
    ],
)
def test_an_entry_of_another_shape_is_unreadable_and_named(entries: list[Entry], change: Any, said: str) -> None:
    damaged = bent(entries, "decided", 2, change)
    seq = [entry for entry in damaged if entry.kind == "decided"][2].seq
    if not said:  # left out, it counts as its default, which is a difference
        assert verdicts(damaged)[0]["different"] >= 1
        return
    with pytest.raises(Unreadable, match=rf"entry {seq} \(decided\): .*{said}"):
        list(replay(damaged))


@pytest.mark.parametrize("data", [None, b"", b"garbage", b"\x93\x01\x02\x03"])
def test_sums_of_another_shape_are_unreadable(entries: list[Entry], data: bytes | None) -> None:
    place = next(k for k, entry in enumerate(entries) if entry.kind == "decided")
    with pytest.raises(Unreadable, match=rf"entry {entries[place].seq} \(decided\)"):
        list(replay([*entries[:place], entries[place]._replace(data=data)]))


def test_segments_that_are_not_in_alphabetical_order_are_decided_again_exactly() -> None:
    loop = Loop(varied(segments=("young", "Abroad")))
    loop.until("ramp")
    assert Counter(checked.outcome for checked in replay(journalled(loop.records))).keys() == {"exact"}


def test_a_ledger_begins_with_its_study(entries: list[Entry]) -> None:
    with pytest.raises(Unreadable, match="must begin with study_started"):
        list(replay(entries[1:]))
    with pytest.raises(Unreadable, match=r"entry 1 \(study_started\)"):
        list(replay(bent(entries, "study_started", 0, lambda body: body["plan"].pop("buckets"))))


def test_a_breaker_that_had_no_reason_is_unreadable(entries: list[Entry]) -> None:
    place = next(k for k, entry in enumerate(entries) if entry.kind == "breaker_tripped")
    harmless = next(entry for entry in entries if entry.kind == "decided")
    with pytest.raises(Unreadable, match="does not trip"):
        list(replay([*entries[:3], harmless, entries[place]._replace(data=harmless.data)]))


def test_entries_of_other_kinds_are_passed_over(entries: list[Entry]) -> None:
    more = [*entries, Entry(9999, 0, "published", {"version": 1}, None), Entry(10000, 0, "of_the_future", {}, None)]
    assert len(list(replay(more))) == len(list(replay(entries)))


def test_the_sums_of_sealed_windows_are_those_that_came_in(loop: Loop, entries: list[Entry]) -> None:
    quiet = Loop()
    expected: dict[int, Any] = {}
    for hour in range(6):
        rows = quiet.rows()
        sums = np.zeros((1, 120, 3), np.int64)
        for row in rows:
            sums[0, row.bucket] += np.rint(np.array(row.values) * 1e6).astype(np.int64)
        expected[START + (hour + 1) * HOUR] = {quiet.table.version: sums}
        quiet.poll(rows)
        quiet.poll([quiet.settles()])
        quiet.hour += 1
    found = dict(window_sums(journalled(quiet.records)))
    assert len(found) == 4
    for end, cells in found.items():
        assert same({version: cell.sums for version, cell in cells.items()}, expected[end])
    sealed = [entry.body["window_end_ms"] for entry in entries if entry.kind == "sealed"]
    assert [end for end, _ in window_sums(entries)] == sealed
