"""What is said of records that are not as the study would have them."""

import json
from typing import Any

import pytest

from controller.shell.sources import Record
from controller.shell.unlike import unlike
from tests.core.loop import HOUR, PLAN, START

VALUES = {"impressions": 6, "clicks": 2, "watch_s": 41.5}
WHOLE = {"id": "a1", "ts_ms": START, "unit": "u1", "version": 0, "values": VALUES}


def said(*events: dict[str, Any]) -> list[str]:
    records = [Record(n, json.dumps(WHOLE | event).encode(), False) for n, event in enumerate(events)]
    return list(unlike(records, PLAN, START + HOUR))


def test_records_as_the_study_would_have_them_are_well() -> None:
    assert said() == []
    assert said({}) == []
    assert said({"ts_ms": START - 60 * 24 * HOUR}, {}) == [], "a partition that has been quiet for long"
    assert said({"values": {"impressions": 6, "watch_s": 1}}, {"values": {"clicks": 1}}) == [], (
        "a click that came later"
    )


@pytest.mark.parametrize(
    ("ts_ms", "told"),
    [
        (START // 1000, "of 1970-01-20 16:12 UTC (ts_ms 1699920000), 19655 days before now; ts_ms is in milliseconds."),
        (0, "of 1970-01-01 00:00 UTC (ts_ms 0), 19675 days before now; "),
        (START + 50 * HOUR, f"of 2023-11-16 02:00 UTC (ts_ms {START + 50 * HOUR}), 2 days after now; "),
    ],
)
def test_a_time_of_another_day_is_named(ts_ms: int, told: str) -> None:
    (found,) = said({"ts_ms": ts_ms})
    assert found.startswith(f"kafka.topic: the newest event is {told}")
    assert "On the wall clock such events may not count; an old log is replayed with --clock events" in found


def test_values_of_other_names_are_named_with_those_that_are_lacking() -> None:
    assert said({"values": {"impressions": 6, "click": 2, "watch_s": 1, "dwell": 3}}) == [
        "kafka.topic: the newest events' values have click, dwell, which no metric uses, and lack clicks, which count "
        "as 0; accepted: one of impressions, clicks, watch_s (did you mean clicks?)"
    ]
    (strange,) = said({"values": {f"x{n}": 1 for n in range(20)}})
    assert strange.startswith(
        "kafka.topic: the newest events' values have x0, x1, x10, x11, x12, x13, x14, x15 and 12 "
    )
    (empty,) = said({"values": {}})
    assert "values lack impressions, clicks, watch_s, which count as 0; " in empty


def test_of_more_names_than_are_told_apart_nothing_is_said() -> None:
    assert said({"values": {f"x{n}": 1 for n in range(120)}}, {}) == []


def test_components_that_are_rare_or_more_than_a_study_uses_are_well() -> None:
    assert said({"values": {"impressions": 6, "watch_s": 1}}) == []
    assert said({"values": VALUES | {"dwell": 3}}) == []


def test_events_that_would_be_refused_are_counted_by_reason_and_the_first_of_each_is_shown() -> None:
    found = said({}, {"unit": ""}, {"ts_ms": START * 1000}, {"ts_ms": START * 2000}, {"id": "\xe9\n", "version": "1"})
    assert [text.partition("; the first: ")[0] for text in found] == [
        "kafka.topic: 1 of the newest 5 events would be refused as no_unit: neither unit nor bucket",
        "kafka.topic: 2 of the newest 5 events would be refused as bad_timestamp: ts_ms outside 0..253402300799999",
        "kafka.topic: 1 of the newest 5 events would be refused as wrong_type: a field that is there with another type "
        "than the contract's",
    ]
    shown = [json.loads(text.partition("; the first: ")[2]) for text in found]
    assert shown[0]["unit"] == ""
    assert shown[1]["ts_ms"] == START * 1000
    assert shown[2] == WHOLE | {"id": "\xe9\n", "version": "1"}


def test_a_refused_event_is_shown_as_it_came_and_cut() -> None:
    def shown(row: bytes) -> str:
        (found,) = unlike([Record(0, row, False)], PLAN, START)
        return found.partition("; the first: ")[2]

    assert shown(b'{"id": "\xc3') == '{"id": "\\xc3'
    assert shown(b"[" * 300) == "[" * 300
    assert shown(b"[" * 301) == "[" * 300 + " ..."
    assert shown(b"") == ""
