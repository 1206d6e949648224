"""The published table: which bucket is served by which arm, and each arm's weights.

This is the contract that serving clients of any language read from Redis, so it
stands alone: the core writes it, `controller.serving` reads it, neither imports the
other. Sizes below: B buckets, A arms, W weights.
"""

import re
from typing import Final, Literal

import msgspec

Form = Literal["linear", "power"]
Stage = Literal["verify", "explore", "confirm", "ramp", "hold", "paused", "rolled_back"]

STUDY: Final = re.compile(r"[a-z0-9_-]{1,100}")
STUDY_RULE = "1 to 100 of the characters a-z, 0-9, _ and -"
CONTROL = "control"
ALL = "all"  # the segment that serves every unit whose segment has no weights of its own
MAX_VERSION = 2**53  # numbers of Lua and JavaScript are doubles: beyond it two versions could compare as one
VERSIONS_PER_EPOCH = 1_000_000  # version = epoch * this + n, so a version names one table for ever


class UnitHash(msgspec.Struct, frozen=True):
    """How a unit becomes a bucket: `xxh64(salt + unit) mod buckets`."""

    salt: str
    buckets: int
    name: Literal["xxh64"] = "xxh64"


class Arm(msgspec.Struct, frozen=True):
    """One weight vector (W floats) per segment; `theta` always has the segment `all`."""

    arm: str
    role: str  # control, explore, candidate or promoted; clients must live with roles to come
    theta: dict[str, tuple[float, ...]]


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One table. Times are ms since the epoch on the daemon's clock."""

    schema: Literal[1] = 1
    study: str
    version: int
    epoch: int
    stage: str  # a `Stage`; clients must live with stages to come
    published_ms: int
    decided_through_ms: int
    valid_until_ms: int | None  # None: never expires
    unit_hash: UnitHash
    form: Form
    weights: tuple[str, ...]
    fallback: str
    arms: tuple[Arm, ...]  # A; control is one of them
    buckets: tuple[int, ...]  # B indices into `arms`


class _Named(msgspec.Struct):
    name: Literal["xxh64"]


class _Always(msgspec.Struct):
    """What a table always has, though a program that makes one need not say it."""

    schema: Literal[1]
    unit_hash: _Named


def key(study: str) -> str:
    """The Redis key that holds a study's table, and the channel that announces it."""
    return f"trimtab:{study}:assignment"


def encode(assignment: Assignment) -> bytes:
    """The table as canonical JSON: one table, one sequence of bytes."""
    return msgspec.json.encode(assignment)


def decode(data: bytes) -> Assignment:
    """Read a table; raises `msgspec.ValidationError` (a `ValueError`) naming the place when it is not one.

    A table whose bucket indices or arms contradict each other is refused as well.
    """
    table = _read(data)
    if not 0 <= table.version <= MAX_VERSION:
        raise msgspec.ValidationError(f"expected 0 to {MAX_VERSION}, found {table.version} - at `$.version`")
    if len(set(table.weights)) != len(table.weights):
        raise msgspec.ValidationError(f"weights must be distinct: found {list(table.weights)} - at `$.weights`")
    names = [arm.arm for arm in table.arms]
    if len(set(names)) != len(names) or table.fallback not in names:
        raise msgspec.ValidationError(f"arms must be distinct and hold the fallback {table.fallback!r}: found {names}")
    if len(table.buckets) != table.unit_hash.buckets:
        raise msgspec.ValidationError(
            f"expected {table.unit_hash.buckets} entries in buckets, found {len(table.buckets)} - at `$.buckets`"
        )
    if table.buckets and not (min(table.buckets) >= 0 and max(table.buckets) < len(names)):
        raise msgspec.ValidationError(f"bucket indices must lie in 0..{len(names) - 1} - at `$.buckets`")
    for arm in table.arms:
        if ALL not in arm.theta:
            raise msgspec.ValidationError(f"arm {arm.arm!r} has no weights for segment {ALL!r} - at `$.arms`")
        for segment, theta in arm.theta.items():
            if len(theta) != len(table.weights):
                raise msgspec.ValidationError(
                    f"arm {arm.arm!r}, segment {segment!r}: expected {len(table.weights)} weights, found {len(theta)}"
                )
    return table


def _read(data: bytes) -> Assignment:
    try:
        data.decode()
    except UnicodeDecodeError as error:  # msgspec does not look at what it skips
        raise msgspec.ValidationError(f"expected UTF-8: {error}") from error
    msgspec.json.decode(data, type=_Always)
    return msgspec.json.decode(data, type=Assignment)
