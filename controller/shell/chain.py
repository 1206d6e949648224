"""The ledger's hash chain: how an entry is bound to the one before it, and what a broken entry looks like.

An entry's hash is SHA-256 over its columns, as the bytes that SQLite holds, and the hash before it. No IO.
"""

import hashlib
import struct
import zlib
from typing import Any, NamedTuple

import msgspec

GENESIS = bytes(32)  # `prev` of the first entry
# The raw row: text as the bytes in the file, so that broken UTF-8 can be read, and the types found there.
SELECT = (
    "SELECT seq, at_ms, CAST(kind AS BLOB), CAST(body AS BLOB), data, prev, hash,"
    " typeof(at_ms) || ' ' || typeof(kind) || ' ' || typeof(body) || ' ' || typeof(data)"
    " || ' ' || typeof(prev) || ' ' || typeof(hash) FROM ledger"
)

_DOMAIN = b"trimtab ledger 1\0"
_FRAME = struct.Struct(">32sqqQQq")
_HEAD = struct.Struct(">q32s")
_TYPES = ("integer text text null blob blob", "integer text text blob blob blob")


class Head(msgspec.Struct, frozen=True):
    """The last entry; seq 0 and 32 zero bytes before the first."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"entry {self.seq} ({self.hash.hex()[:12]})"

    def pack(self) -> bytes:
        """As 40 bytes."""
        return _HEAD.pack(self.seq, self.hash)

    @classmethod
    def unpack(cls, data: bytes) -> "Head":
        """What `pack` wrote."""
        return cls(*_HEAD.unpack(data))


NOTHING = Head(0, GENESIS)


class Row(NamedTuple):
    """A ledger row as `SELECT` gives it."""

    seq: int
    at_ms: int
    kind: bytes
    body: bytes
    data: bytes | None
    prev: bytes
    hash: bytes
    types: str = _TYPES[0]

    @property
    def head(self) -> Head:
        """The chain's head while this is the last row."""
        return Head(self.seq, self.hash)


def link(head: Head, at_ms: int, kind: bytes, body: bytes, data: bytes | None) -> Row:
    """The row that follows `head`."""
    row = Row(head.seq + 1, at_ms, kind, body, data, head.hash, b"")
    return row._replace(hash=digest(row))


def digest(row: Row) -> bytes:
    """The row's hash. All lengths come first and `prev` is 32 bytes, so no two rows share a framing."""
    lengths = len(row.kind), len(row.body), -1 if row.data is None else len(row.data)
    frame = _FRAME.pack(row.prev, row.seq, row.at_ms, *lengths)
    return hashlib.sha256(b"".join((_DOMAIN, frame, row.kind, row.body, row.data or b""))).digest()


def fault(row: Row) -> str | None:
    """What is wrong with a row taken by itself, or None."""
    if row.types not in _TYPES:
        return f"expected values of types {_TYPES[0]} (data may be a blob), found {row.types}"
    if len(row.prev) != len(GENESIS):
        return f"expected a prev of {len(GENESIS)} bytes, found {len(row.prev)}"
    if digest(row) != row.hash:
        return "its content is not what its hash was computed from"
    return None


def fault_after(head: Head, row: Row) -> str | None:
    """What is wrong with `row` as the one that follows `head`, its content included, or None."""
    if (found := fault(row)) is not None:
        return found
    if row.prev != head.hash:
        return f"does not follow entry {head.seq}: prev is not that entry's hash"
    try:
        row.kind.decode()
        msgspec.json.decode(row.body, type=dict[str, Any])
        if row.data is not None:
            zlib.decompress(row.data)
    except (msgspec.DecodeError, UnicodeDecodeError, zlib.error) as error:
        return f"does not parse: {error}"
    return None
