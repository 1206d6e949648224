"""What a recommender embeds: which arm and which weights serve a unit, and the value model itself.

`Client` keeps the study's table (docs/serving.md) up to date in a background thread. `assign` and `assign_many`
only read memory: they never wait for the network, and never raise.

Notation: n units or candidates, W weights, A arms, S segment columns (column 0 is `all`), R = A x S rows.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import redis
from numpy.typing import ArrayLike, NDArray
from redis.backoff import NoBackoff
from redis.retry import Retry
from xxhash import xxh64_intdigest

from controller.assignment import STUDY, STUDY_RULE, Assignment, Form, decode, key
from controller.serving_follower import Follower
from controller.serving_table import Table, Weights, baseline_table, compile_table
from controller.unit_hash import Packed, Strings, buckets_of, unit_hashes, xxh64_many

SMALLEST_PREDICTION = 1e-9  # the power form takes logarithms: predictions below this count as this
UNKNOWN_BUCKET = -1
_ARROW_WIDTHS = {"string": np.int32, "binary": np.int32, "large_string": np.int64, "large_binary": np.int64}
_FEW = 1000  # below so many units a call of xxhash for each is faster than numpy's cost per operation
_TIMEOUT_S = 2.0  # of one Redis call in the background

# n units, fastest first: Arrow's layout or an Arrow string array, a numpy array of dtype S, a sequence of str or bytes.
Units = Packed | Strings | NDArray[np.bytes_] | NDArray[np.str_] | Any


class Assigned(msgspec.Struct, frozen=True, eq=False):
    """What serves one unit. Events echo `version` and `arm`; `weights` (W,) are in the order of `Client.weights`."""

    arm: str
    version: int  # 0: served without a valid table
    weights: Weights
    bucket: int  # UNKNOWN_BUCKET when no table was read yet or the unit is unusable


class AssignedMany(msgspec.Struct, frozen=True, eq=False):
    """What serves n units: unit i has arm `arms[arm[i]]` and the weights `weights[row[i]]`."""

    version: int  # 0: served without a valid table
    arm: NDArray[np.int16]  # (n,) index into `arms`
    row: NDArray[np.int32]  # (n,) index into `weights`
    bucket: NDArray[np.int32]  # (n,)
    arms: tuple[str, ...]  # A
    weights: Weights  # (R, W), read-only

    def unit_weights(self) -> Weights:
        """The weights of every unit (n, W), as `score` takes them."""
        return self.weights[self.row]


class Coded(NamedTuple):
    """Segments of n units as indices into a few names: many times faster to look up than n strings."""

    codes: NDArray[np.integer[Any]]  # (n,)
    names: Sequence[str | None]


class Status(msgspec.Struct, frozen=True):
    """How the client is doing, for the product's own monitoring. Counts are since construction."""

    version: int  # of the table held; 0: none yet
    epoch: int
    age_ms: int | None  # since the table held was published
    expired: bool  # the table held serves its fallback arm
    connected: bool  # the last attempt to read Redis succeeded
    running: bool  # the background thread lives
    last_error: str | None
    taken: int  # tables taken
    refused: int  # tables that did not parse, or that this client cannot serve
    older: int  # tables of an older version than the one held
    missing: int  # times that the key went absent
    read_failures: int  # failed attempts to read Redis
    fallbacks: int  # units served without a valid table
    unusable: int  # units of a wrong type, or whose segment was: served like `fallbacks`, and counted there too


def score(predictions: ArrayLike, weights: ArrayLike, form: Form = "linear") -> NDArray[np.float64]:
    """The value model: one score per candidate (n,) from predictions (n, W) and weights (W,) or (n, W).

    linear: sum_w weight * p. power: prod_w p ** weight = exp(sum_w weight * log p), where a prediction below
    `SMALLEST_PREDICTION` (so also one <= 0) counts as that. A NaN prediction gives a NaN score.
    Raises `ValueError` on shapes that do not fit and on another form.
    """
    p, w = np.asarray(predictions, np.float64), np.asarray(weights, np.float64)
    if p.ndim != 2 or w.shape not in ((p.shape[1],), p.shape):
        raise ValueError(f"expected predictions (n, W) and weights (W,) or (n, W), found {p.shape} and {w.shape}")
    if form == "linear":
        return _weighted_sum(p, w)
    if form == "power":
        return np.exp(_weighted_sum(np.log(np.maximum(p, SMALLEST_PREDICTION)), w))
    raise ValueError(f"the form must be 'linear' or 'power', found {form!r}")


def _weighted_sum(values: Weights, weights: Weights) -> Weights:
    return values @ weights if weights.ndim == 1 else np.einsum("nw,nw->n", values, weights)


def wall_clock_ms() -> int:
    """Now, in ms since the epoch."""
    return time.time_ns() // 1_000_000


class Client:
    """Serves one study's assignments from memory. Construct one per process, after any fork; then it is thread-safe."""

    def __init__(
        self,
        study: str,
        connection: str | redis.Redis,
        baseline: Mapping[str, float],
        *,
        form: Form = "linear",
        poll_s: float = 5.0,
        clock: Callable[[], int] = wall_clock_ms,
    ) -> None:
        """Start to follow the study's table. Redis need not be reachable.

        `connection`: a Redis URL or connection. `baseline`: weight name -> value, used until a table was read, and
        for weights that a table does not have; its order is the order of all weights here. `form`: how the product
        scores; a table of another form is refused. `poll_s`: how often the key is read besides the announcements.
        `clock`: now in ms since the epoch, on the clock of the study's daemon.
        Raises `ValueError` on a study, a URL, a baseline or a form that cannot be.
        """
        _require_known(study, form)
        if not baseline:
            raise ValueError("baseline must name at least one weight, found none")
        values = _finite(baseline)
        self.study = study
        self.weights = tuple(values)
        self.form = form
        self._clock = clock
        self._owned = isinstance(connection, str)
        self._redis = _connect(connection) if isinstance(connection, str) else connection
        self._follower = Follower(
            key(study),
            self._redis,
            lambda data: compile_table(decode(data), study, form, values),
            baseline_table(values),
            poll_s,
            clock,
        )

    def assign(self, unit: str | bytes, segment: str | None = None, now_ms: int | None = None) -> Assigned:
        """What serves this unit now. Never raises: a unit of a wrong type is served with the fallback weights."""
        table = self._follower.table
        try:
            column = table.columns.get(segment, 0)
            hashed = xxh64_intdigest(table.salt + (unit.encode() if isinstance(unit, str) else unit))
            if (self._clock() if now_ms is None else now_ms) > table.valid_until_ms:
                return self._fallback(table, column)
            bucket = hashed % table.size
            arm = table.arm_of[bucket]
            return Assigned(table.arms[arm], table.version, table.rows[arm * len(table.columns) + column], bucket)
        except Exception as fault:  # noqa: BLE001  # nothing that a request passes in may fail the request
            self._unusable("assign", fault, 1)
            return self._fallback(table, 0)

    def assign_many(
        self,
        units: Units,
        segments: str | Sequence[str | None] | Coded | None = None,
        now_ms: int | None = None,
    ) -> AssignedMany:
        """What serves n units now; `Units` says what they may be. `segments`: one for all, `Coded`, or one a unit.

        Never raises: if one unit or segment is unusable, all n are served with the fallback weights.
        """
        table = self._follower.table
        try:
            n, columns = _count(units), _columns(table, segments)
            if isinstance(columns, np.ndarray) and columns.shape != (n,):
                raise ValueError(f"expected a segment for each of {n} units, found {len(columns)}")
            hashes = _hashes(units, table.salt)
            if (self._clock() if now_ms is None else now_ms) > table.valid_until_ms:
                return self._fallback_many(table, n, columns)
            bucket = buckets_of(hashes, table.size)
            arm = table.arm_array[bucket]
            row = np.multiply(arm, len(table.columns), dtype=np.int32)
            row += columns
            return AssignedMany(table.version, arm, row, bucket, table.arms, table.weights)
        except Exception as fault:  # noqa: BLE001  # as in assign
            n = _count(units)
            self._unusable("assign_many", fault, n)
            return self._fallback_many(table, n, 0)

    @property
    def version(self) -> int:
        """Version of the table held, expired or not; 0 before the first one."""
        return self._follower.table.version

    @property
    def table(self) -> Assignment | None:
        """The table held, expired or not; None before the first one."""
        return self._follower.table.source

    def wait(self, after: int = 0, timeout_s: float = 5.0) -> bool:
        """Wait until a table with a version above `after` is held; False when that took longer than `timeout_s`."""
        return self._follower.wait(after, timeout_s)

    def status(self) -> Status:
        """How the client is doing."""
        follower, table, now_ms = self._follower, self._follower.table, self._clock()
        names = ("taken", "refused", "older", "missing", "read_failures", "fallbacks", "unusable")
        return Status(
            version=table.version,
            epoch=table.epoch,
            age_ms=None if table.source is None else now_ms - table.source.published_ms,
            expired=table.source is not None and now_ms > table.valid_until_ms,
            connected=follower.connected,
            running=follower.running(),
            last_error=follower.last_error,
            **{name: follower.counts[name] for name in names},
        )

    def close(self) -> None:
        """Stop following; the table held goes on being served until it expires."""
        self._follower.close()
        if self._owned:
            self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _fallback(self, table: Table, column: int) -> Assigned:
        self._follower.counts.add("fallbacks")
        row = table.rows[table.fallback * len(table.columns) + column]
        return Assigned(table.arms[table.fallback], 0, row, UNKNOWN_BUCKET)

    def _fallback_many(self, table: Table, n: int, columns: NDArray[np.int32] | int) -> AssignedMany:
        self._follower.counts.add("fallbacks", n)
        row = np.full(n, table.fallback * len(table.columns), np.int32)
        row += columns
        arm, bucket = np.full(n, table.fallback, np.int16), np.full(n, UNKNOWN_BUCKET, np.int32)
        return AssignedMany(0, arm, row, bucket, table.arms, table.weights)

    def _unusable(self, call: str, fault: Exception, n: int) -> None:
        self._follower.counts.add("unusable", n)
        self._follower.last_error = f"{call}: {type(fault).__name__}: {fault}"


def _require_known(study: Any, form: Any) -> None:
    """Raise `ValueError` on a study or a form for which no table can be."""
    if not (isinstance(study, str) and STUDY.fullmatch(study)):
        raise ValueError(f"study must be {STUDY_RULE}, found {study!r}")
    if form not in ("linear", "power"):
        raise ValueError(f"form must be 'linear' or 'power', found {form!r}")


def _finite(baseline: Mapping[str, float]) -> dict[str, float]:
    try:
        values = {name: float(value) for name, value in baseline.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"baseline must map weight names to numbers, found {baseline!r}") from error
    odd = [name for name, value in values.items() if not math.isfinite(value)]
    if odd:
        raise ValueError(f"baseline must hold finite numbers, found {values[odd[0]]} for {odd[0]!r}")
    return values


def _connect(url: str) -> redis.Redis:
    """A connection that gives up soon: the thread that uses it does the trying again."""
    return redis.Redis.from_url(
        url,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        **({} if url.startswith("unix:") else {"socket_keepalive": True}),
        health_check_interval=5,
        retry=Retry(NoBackoff(), 0),
    )


def _columns(table: Table, segments: str | Sequence[str | None] | Coded | None) -> NDArray[np.int32] | int:
    """Segment columns, of all units or one a unit (n,). A negative code means no segment, as an unknown name does."""
    if segments is None or isinstance(segments, str):
        return table.columns.get(segments, 0)
    if isinstance(segments, Coded):
        codes = np.asarray(segments.codes).astype(np.int64)  # also of unsigned ones, beside which -1 is no number
        if codes.max(initial=-1) >= len(segments.names):
            raise ValueError(f"codes must be below {len(segments.names)}, the number of names")
        of_code = np.array([*(table.columns.get(name, 0) for name in _named(segments.names)), 0], np.int32)
        column: NDArray[np.int32] = of_code[np.maximum(codes, -1)]
        return column
    return np.fromiter((table.columns.get(segment, 0) for segment in _named(segments)), np.int32, len(segments))


def _named(segments: Any) -> Any:
    """Segments as Python strings: a scalar of an Arrow array equals no name."""
    return segments.to_pylist() if hasattr(segments, "to_pylist") else segments


def _hashes(units: Any, salt: bytes) -> NDArray[np.uint64]:
    if isinstance(units, Packed):
        return xxh64_many(units.data, units.offsets, prefix=salt)
    units = _plain(units)
    if len(units) < _FEW:
        each = [xxh64_intdigest(salt + (u.encode() if isinstance(u, str) else u)) for u in _listed(units)]
        return np.fromiter(each, np.uint64, len(each))
    if hasattr(units, "buffers"):  # an Arrow array
        packed = _arrow_layout(units)
        return xxh64_many(packed.data, packed.offsets, prefix=salt)
    return unit_hashes(units, salt.decode())


def _plain(units: Any) -> Any:
    """Units of any kind as an Arrow array of texts end to end, a numpy array or a sequence, however many there are."""
    if hasattr(units, "combine_chunks"):  # an Arrow chunked array
        units = units.combine_chunks()
    if hasattr(units, "buffers"):  # an Arrow array
        kind = str(units.type)
        if kind in _ARROW_WIDTHS:
            return units
        texts = [f"large_{name}" for name in ("string", "binary") if name in kind]  # of a dictionary, a view
        return units.cast(texts[0]) if texts else units
    return units.to_numpy() if hasattr(units, "to_numpy") else units  # a pandas series


def _listed(units: Any) -> Sequence[str | bytes]:
    """Units as Python strings. Raises `TypeError` on what is no sequence of them."""
    if isinstance(units, np.ndarray):
        units = units.tolist()
    elif hasattr(units, "to_pylist"):
        units = units.to_pylist()
    if isinstance(units, str) or not isinstance(units, Sequence):
        raise TypeError(f"expected a sequence of str or bytes, found {type(units).__name__}")
    return units


def _arrow_layout(array: Any) -> Packed:
    """Data and offsets of an Arrow (large) string or binary array without nulls."""
    if str(array.type) not in _ARROW_WIDTHS or array.null_count:
        raise TypeError(f"expected texts without nulls, found {array.type} with {array.null_count} nulls")
    _, offsets, data = array.buffers()
    if offsets is None or not len(array):
        return Packed(np.zeros(0, np.uint8), np.zeros(1, np.int64))
    at = np.frombuffer(offsets, _ARROW_WIDTHS[str(array.type)])[array.offset : array.offset + len(array) + 1]
    text = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return Packed(text[at[0] : at[-1]], (at - at[0]).astype(np.int64))


def _count(units: Units) -> int:
    """How many units there are; 0 for what cannot say."""
    try:
        # Arrow lets an array of length 0 leave its offsets out.
        return max(len(units.offsets) - 1, 0) if isinstance(units, Packed) else len(units)
    except Exception:  # noqa: BLE001  # anything may come here
        return 0
