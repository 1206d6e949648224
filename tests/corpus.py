"""A seeded corpus of mutated engagement events: what a topic holds after bugs, bit rot and malice.

`mutated(10_000)` gives (kind, record value) pairs; the same seed gives the same corpus. The study they are made for
is `PLAN`; `event(i)` are its good events, every one accepted by it.
"""

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from controller.core.events import Component, EventPlan

PLAN = EventPlan(
    components=(Component("impressions"), Component("clicks"), Component("delta", negative=True)),
    segments=("new", "returning"),
    salt="feed:",
    buckets=1000,
)
START_MS = 1_700_000_000_000

Mutation = Callable[[Random, dict[str, Any]], bytes]

_JUNK: tuple[Any, ...] = (
    *(None, True, False, "", "x", "NaN", "1", [], [1], {}, {"a": 1}),
    *(0, -1, 0.5, -0.0, 1e9, 9.1e9, -9.1e9, 1e308, 2**31, 2**53, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400),
    *("\u0000", "é", "\U0001f600", "y" * 300, "z" * 70_000),
)
_LITERALS = (
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1e-999", b"1e" + b"9" * 50),
    *(b"0x10", b"01", b"+1", b"1.", b".5", b"--1", b"1_000", b"9" * 5000, b"1" + b"0" * 400),
    *(b"nan", b"null", b"true", b"'x'", b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\x"', b'"\n"'),
    *(b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"'),
)
_PATHS = ("id", "ts_ms", "unit", "segment", "version", "arm", "bucket", "values", "values.impressions", "values.delta")


def event(index: int) -> dict[str, Any]:
    """A good event, unlike all others."""
    return {
        "id": f"{index:012x}",
        "ts_ms": START_MS + index,
        "unit": f"u{index * 7919 % 100_003}",
        "segment": ("new", "returning", "other")[index % 3],
        "version": 12_000_417 + index % 5,
        "arm": f"e{index % 9}",
        "values": {"impressions": 10, "clicks": index % 4, "delta": round(index % 601 / 10 - 30, 1)},
    }


def encoded(row: dict[str, Any]) -> bytes:
    """The event as clients send it."""
    return json.dumps(row, separators=(",", ":")).encode()


def mutated(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` records, every kind of mutation in turn."""
    rng = Random(seed)
    kinds = list(MUTATIONS.items())
    for index in range(count):
        kind, mutate = kinds[index % len(kinds)]
        yield kind, mutate(rng, event(rng.randrange(1_000_000)))


def _bit_flip(rng: Random, row: dict[str, Any]) -> bytes:
    data = bytearray(encoded(row))
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _wrong_type(rng: Random, row: dict[str, Any]) -> bytes:
    _put(row, rng.choice(_PATHS), rng.choice(_JUNK))
    return encoded(row)


def _literal(rng: Random, row: dict[str, Any]) -> bytes:
    _put(row, rng.choice(_PATHS), "@@")
    return encoded(row).replace(b'"@@"', rng.choice(_LITERALS))


def _absent(rng: Random, row: dict[str, Any]) -> bytes:
    for name in rng.sample(sorted(row), rng.randrange(1, 4)):
        del row[name]
    return encoded(row)


def _huge(rng: Random, row: dict[str, Any]) -> bytes:
    number = rng.choice((1, -1)) * rng.choice((10 ** rng.randrange(9, 40), 2 ** rng.randrange(30, 70)))
    _put(row, rng.choice(("ts_ms", "version", "bucket", "values.impressions", "values.delta")), number)
    return encoded(row)


def _nested(rng: Random, row: dict[str, Any]) -> bytes:
    depth = rng.choice((10, 900, 1100, 20_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    deep = opening * depth + b"1" + closing * (depth if rng.random() < 0.7 else 0)
    _put(row, rng.choice((*_PATHS, "extra", "values.extra")), "@@")
    return encoded(row).replace(b'"@@"', deep)


def _not_utf8(rng: Random, row: dict[str, Any]) -> bytes:
    _put(row, rng.choice(("id", "unit", "segment", "arm", "extra")), "a@@b")
    bad = rng.choice((b"\xff", b"\x80", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\xaf"))
    return encoded(row).replace(b"@@", bad)


def _truncated(rng: Random, row: dict[str, Any]) -> bytes:
    data = encoded(row)
    return data[: rng.randrange(len(data))]


def _concatenated(rng: Random, row: dict[str, Any]) -> bytes:
    return encoded(row) + rng.choice((b"", b" ", b",", b"\x00", b"\r", b"]")) + encoded(event(rng.randrange(1_000_000)))


def _lines(rng: Random, row: dict[str, Any]) -> bytes:
    """Newline-separated events, some of them mutated, with blank lines."""
    chosen = rng.sample((_bit_flip, _wrong_type, _literal, _absent, _truncated, _not_utf8), 3)
    lines = [mutate(rng, event(rng.randrange(1_000_000))) for mutate in chosen]
    return rng.choice((b"\n", b"\r\n", b"\n\n", b"\n \t\n")).join([*lines, encoded(row), b""])


def _repeated_key(rng: Random, row: dict[str, Any]) -> bytes:
    again = rng.choice(_PATHS[:7])
    value = json.dumps(rng.choice((row.get(again), rng.choice(_JUNK)))).encode()
    twice = b'"' + again.encode() + b'":' + value
    return b"{" + twice + b"," + encoded(row)[1:] if rng.random() < 0.5 else encoded(row)[:-1] + b"," + twice + b"}"


def _unknown(rng: Random, row: dict[str, Any]) -> bytes:
    names = ("likes", "é", "", 'quo"te', "back\\slash", "\u0001", "n" * 400, f"c{rng.randrange(10**6)}", "c0", "x0")
    for name in rng.sample(names, rng.randrange(1, 4)):
        row["values"][name] = rng.choice(_JUNK)
    return encoded(row)


def _spliced(rng: Random, row: dict[str, Any]) -> bytes:
    data, other = encoded(row), encoded(event(rng.randrange(1_000_000)))
    cut = rng.randrange(len(data))
    return data[:cut] + other[rng.randrange(len(other)) :] if rng.random() < 0.5 else data[:cut] + data[cut + 3 :]


def _noise(rng: Random, _row: dict[str, Any]) -> bytes:
    return rng.choice(
        (b"", b" ", b"\n", b"\n\n", b"null", b"[]", b"{}", b"3", b'""', b"\xef\xbb\xbf{}", rng.randbytes(40))
    )


def _marked(rng: Random, row: dict[str, Any]) -> bytes:
    """A byte order mark, another encoding, or text around the object."""
    data = encoded(row)
    return rng.choice(
        (b"\xef\xbb\xbf" + data, data.decode().encode("utf-16"), b"x" + data, data + b"x", b"[" + data + b"]")
    )


MUTATIONS: dict[str, Mutation] = {
    "bit_flip": _bit_flip,
    "wrong_type": _wrong_type,
    "literal": _literal,
    "absent": _absent,
    "huge": _huge,
    "nested": _nested,
    "not_utf8": _not_utf8,
    "truncated": _truncated,
    "concatenated": _concatenated,
    "lines": _lines,
    "repeated_key": _repeated_key,
    "unknown": _unknown,
    "spliced": _spliced,
    "noise": _noise,
    "marked": _marked,
}


def _put(row: dict[str, Any], path: str, value: object) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        row = row[parent]
    row[name] = value
