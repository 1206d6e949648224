"""Why a JSON row was refused, field by field. Off the fast path: only rows that msgspec refused come here."""

import re

import msgspec
from msgspec import Raw

from controller.core.rows import MAX_TEXT, MAX_TIME_MS, MAX_VALUE, MAX_VERSION, Layout

REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # all that msgspec raises on bad bytes

_LITERAL = re.compile(rb"(?<=[:\[,\s])(?:NaN|-?Infinity)(?=[,\]}\s])")
_BEYOND = float("inf")  # stands for a number that no float holds
_ABSENT = Raw(b"null")  # null is the same as absent, but for a component


class Fields(msgspec.Struct):
    """An event whose fields are found, but not read yet."""

    id: Raw = _ABSENT
    ts_ms: Raw = _ABSENT
    version: Raw = _ABSENT
    arm: Raw = _ABSENT
    unit: Raw = _ABSENT
    segment: Raw = _ABSENT
    bucket: Raw = _ABSENT
    values: Raw = _ABSENT


def why_refused(row: bytes, layout: Layout) -> str:
    """The reason why a row was refused; `malformed` covers all that is not one JSON object."""
    try:
        row.decode()
        fields = msgspec.json.decode(row, type=Fields)
    except UnicodeDecodeError:
        return "not_utf8"
    except (msgspec.MsgspecError, RecursionError):
        return "non_finite" if _has_literal(row) else "malformed"
    try:
        return _first_fault(fields, layout) or "malformed"
    except (msgspec.MsgspecError, RecursionError):
        return "malformed"


def is_json(data: bytes) -> bool:
    """Whether it is exactly one JSON value."""
    try:
        msgspec.json.decode(data, type=Raw)
    except REFUSED:
        return False
    return True


def is_utf8(data: bytes) -> bool:
    """Whether it is UTF-8, which msgspec asks only of what it reads, not of what it skips."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _first_fault(fields: Fields, layout: Layout) -> str | None:
    """The first field that breaks its contract, in the order of the checks on Arrow columns."""
    return (
        _text_fault(fields.id, absent="no_id")
        or _integer_fault(fields.ts_ms, MAX_TIME_MS, "bad_timestamp", absent="no_ts_ms")
        or _integer_fault(fields.version, MAX_VERSION, "out_of_range", absent="no_version")
        or _text_fault(fields.arm)
        or _text_fault(fields.unit)
        or _text_fault(fields.segment, limited=False)
        or _integer_fault(fields.bucket, layout.buckets - 1, "out_of_range")
        or _values_fault(fields.values, layout)
    )


def _text_fault(raw: Raw, absent: str | None = None, limited: bool = True) -> str | None:
    """`absent`: the reason where it is; None: it may be."""
    text = _read(raw)
    if text is None or text == "":
        return absent
    if not isinstance(text, str):
        return "wrong_type"
    return "too_large" if limited and len(text) > MAX_TEXT else None


def _integer_fault(raw: Raw, high: int, reason: str, absent: str | None = None) -> str | None:
    number = _read(raw)
    if number is None:
        return absent
    if isinstance(number, bool) or not isinstance(number, int):
        return reason if number == _BEYOND else "wrong_type"
    return None if 0 <= number <= high else reason


def _values_fault(raw: Raw, layout: Layout) -> str | None:
    try:
        found = msgspec.json.decode(raw, type=dict[str, Raw] | None)
    except msgspec.ValidationError:
        return "wrong_type"
    if found is None:
        return "no_values"
    lowest = dict(zip(layout.components, layout.lowest, strict=True))
    faults = (_value_fault(_read(found[name]), lowest[name]) for name in layout.components if name in found)
    return next(filter(None, faults), None)


def _value_fault(value: object, lowest: float) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "wrong_type"
    if abs(value) > MAX_VALUE:
        return "out_of_range"
    return "negative" if value < lowest else None


def _read(raw: Raw) -> object:
    """What a JSON value is."""
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError:
        return _BEYOND


def _has_literal(row: bytes) -> bool:
    """Whether it would be JSON but for a NaN or an infinity, which some encoders write out."""
    cleaned = _LITERAL.sub(b"0", row)
    return cleaned != row and is_json(cleaned)
