"""The table's bytes: canonical, as other programs read them, and refused when they contradict themselves."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.assignment import Arm, Assignment, UnitHash, decode, encode, key

TABLE = Assignment(
    study="feed",
    version=12000418,
    epoch=12,
    stage="explore",
    published_ms=1700003605000,
    decided_through_ms=1700003600000,
    valid_until_ms=1700014400000,
    unit_hash=UnitHash(salt="feed:", buckets=4),
    form="linear",
    weights=("p_click", "p_like", "p_watch"),
    fallback="control",
    arms=(
        Arm("control", "control", {"all": (1.0, 2.0, 0.5)}),
        Arm("e1", "explore", {"all": (1.0, 2.6, 0.4), "new": (1.0, 3.0, 0.4)}),
    ),
    buckets=(0, 0, 1, 0),
)


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(encode(TABLE)) | fields).encode()


def test_the_bytes_are_the_contract() -> None:
    assert json.loads(encode(TABLE)) == {
        "schema": 1,
        "study": "feed",
        "version": 12000418,
        "epoch": 12,
        "stage": "explore",
        "published_ms": 1700003605000,
        "decided_through_ms": 1700003600000,
        "valid_until_ms": 1700014400000,
        "unit_hash": {"name": "xxh64", "salt": "feed:", "buckets": 4},
        "form": "linear",
        "weights": ["p_click", "p_like", "p_watch"],
        "fallback": "control",
        "arms": [
            {"arm": "control", "role": "control", "theta": {"all": [1.0, 2.0, 0.5]}},
            {"arm": "e1", "role": "explore", "theta": {"all": [1.0, 2.6, 0.4], "new": [1.0, 3.0, 0.4]}},
        ],
        "buckets": [0, 0, 1, 0],
    }
    assert key("feed") == "trimtab:feed:assignment"


def test_a_table_survives_its_bytes_and_the_same_table_has_the_same_bytes() -> None:
    assert decode(encode(TABLE)) == TABLE
    assert encode(decode(encode(TABLE))) == encode(TABLE)


def test_a_reader_ignores_fields_it_does_not_know() -> None:
    assert decode(changed(comment="later")) == TABLE


def test_no_expiry_is_null() -> None:
    assert decode(changed(valid_until_ms=None)).valid_until_ms is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"buckets": [0, 0, 1]}, r"expected 4 entries in buckets, found 3"),
        ({"buckets": [0, 0, 2, 0]}, r"must lie in 0..1"),
        ({"buckets": [0, -1, 0, 0]}, r"must lie in 0..1"),
        ({"fallback": "e9"}, r"fallback 'e9'"),
        ({"arms": []}, r"fallback 'control'"),
        ({"arms": [{"arm": "control", "role": "control", "theta": {"new": [1, 2, 3]}}], "buckets": [0] * 4}, "'all'"),
        ({"arms": [{"arm": "control", "role": "control", "theta": {"all": [1]}}], "buckets": [0] * 4}, "expected 3"),
        ({"arms": [{"arm": "control", "role": "control", "theta": {"all": [1, 2, 3]}}] * 2}, "distinct"),
        ({"schema": 2}, r"\$\.schema"),
        ({"form": "cubic"}, r"\$\.form"),
        ({"version": "1"}, r"\$\.version"),
        ({"version": 2**53 + 1}, r"found 9007199254740993 - at `\$\.version`"),
        ({"weights": ["p_click"] * 3}, r"weights must be distinct"),
        ({"unit_hash": {"name": "md5", "salt": "", "buckets": 4}}, r"\$\.unit_hash\.name"),
    ],
)
def test_contradictions_are_refused_with_their_place(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        decode(changed(**fields))


@given(st.binary(max_size=200))
def test_garbage_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # msgspec's two errors share no narrower type
        decode(data)


@given(st.integers(0, len(encode(TABLE)) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_another_sound_table_or_a_value_error(at: int, byte: int) -> None:
    data = bytearray(encode(TABLE))
    data[at] = byte
    try:
        table = decode(bytes(data))
    except ValueError:
        return
    assert len(table.buckets) == table.unit_hash.buckets
    assert all(0 <= arm < len(table.arms) for arm in table.buckets)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b'{"later": "\xff", ' + encode(TABLE)[1:], "UTF-8"),
        (encode(TABLE).replace(b'"schema":1,', b""), "schema"),
        (encode(TABLE).replace(b',"name":"xxh64"', b""), "unit_hash"),
    ],
)
def test_what_a_client_of_another_language_refuses_is_refused(data: bytes, place: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=place):
        decode(data)
