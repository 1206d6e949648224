"""What a ranking log says of weight vectors that never served: its candidates, ranked anew.

For a vector, each logged request is ranked by its predictions again, and what would have come of the page that would
have been is told from the predictions: no traffic is needed, and none of it is unbiased. A ranking only chooses among
the candidates of one request, so what counts is how outcomes follow predictions within requests: least squares on what
was shown, by segment, with a constant of every request (a within estimator; Wooldridge 2010, ch. 10) and every place,

    y = a_request + g_place + B x + noise,     x the candidate's predictions, y signals, watch, leaving        (1)

Leaving ends what is shown, so a request's mean over what was shown depends on it, and its slopes would come out at half
their size. They are fitted without a_request, on x less its mean over all of the request's candidates, which no one's
leaving moves; the last place is left out, as nobody knows who would have gone on.

| symbol | shape | meaning |
|---|---|---|
| n, c, p, S, K, Y | | requests, candidates of each, places of a page, segments, signals, outcomes |
| B | (S, Y, K) | of (1) |
| m | (S, p, Y) | mean outcomes of what was shown at a place |
| X | (S, p, K) | mean predictions at a place, ranked by some weights |
| D | (S, p, K) | X by the vector - X by the baseline |

    outcome at a place: m + B D;   seen: e_p = prod_{q<p} (1 - leaving_q);   L = 1 - prod_q (1 - leaving_q)
    a component of a visit: sum over places of e (m + B D), over L                                             (2)

and a change is the ratio of (2) by the vector and by the baseline. Its error is a grouped jackknife's over units
(delete one group of 20; Kott 2001), with (1) fitted anew for each: the noise of the log, not the bias. What is not
told: how often people come, so nothing that is `delayed`; what the ranker cannot see; what is not linear.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from zlib import crc32

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from scipy.stats import qmc

from controller.core.estimate import BUCKETS, Metric
from controller.core.offline import Prediction
from controller.core.space import Space, Weight
from simulators.worlds import Floats

GROUPS = 20  # of units: the jackknife's
RIDGE = 1e-9  # of the trace: what is the same everywhere has no coefficient
IMPRESSIONS, WATCH = "impressions", "watch_s"
NEAR = 0.25  # of a side: how near the nearer half of the vectors are
LEAST_SE = 1e-6
MOST_PLACES = 126  # of a page
MOST_CANDIDATES = 4_000_000  # that are read of a log: about 500 MB


class NotRankable(Exception):
    """A file is no ranking log that can be ranked anew; the message says what is missing."""


class RankingLog(msgspec.Struct, frozen=True, eq=False):
    """A ranking log as arrays; NaN where nothing was shown."""

    weights: tuple[str, ...]  # that the predictions are multiplied with: p_click for pred_click
    signals: tuple[str, ...]
    predictions: NDArray[np.float32]  # (signals, n, c)
    labels: NDArray[np.float32]  # (J, n, c)
    position: NDArray[np.int8]  # (n, c) -1 where not shown
    segment: NDArray[np.int32]  # (n,)
    segments: tuple[str, ...]
    group: NDArray[np.int64]  # (n,) of the jackknife: by unit


def read(path: Path) -> RankingLog:
    """Read a log, or the first `MOST_CANDIDATES` rows of it. Raises `NotRankable`."""
    try:
        names = parquet.read_schema(path).names
        signals = tuple(name.removeprefix("pred_") for name in names if name.startswith("pred_"))
        wanted = ["request", "unit", "segment", "position", WATCH, *(f"label_{s}" for s in signals)]
        missing = [name for name in wanted if name not in names]
        if missing or not signals:
            raise NotRankable(
                f"{path}: no column {missing[0] if signals else 'pred_*'}: not a ranking log, which has request, unit, "
                f"segment, position, {WATCH}, and pred_* and label_* of each signal"
            )
        table = _rows(path, [*wanted, *(f"pred_{s}" for s in signals)])
        if not table.num_rows:
            raise NotRankable(f"{path}: no rows")
        return _arrays(table, signals, path)
    except (OSError, pa.ArrowException) as error:
        number = getattr(error, "errno", None)
        raise NotRankable(f"{path}: {os.strerror(number) if number else error}") from error


def _rows(path: Path, columns: list[str]) -> pa.Table:
    """The first rows, whole row groups of them."""
    file, read, rows = parquet.ParquetFile(path), list[int](), 0
    for group in range(file.num_row_groups):
        rows += file.metadata.row_group(group).num_rows
        if rows > MOST_CANDIDATES and read:
            break
        read.append(group)
    return file.read_row_groups(read, columns)


def _arrays(table: pa.Table, signals: tuple[str, ...], path: Path) -> RankingLog:
    for name in ("request", "unit", "segment"):
        if table[name].null_count:
            at = int(np.flatnonzero(table[name].is_null().to_numpy())[0])
            raise NotRankable(f"{path}: column {name!r}, row {at + 1}: nothing; expected a value in every row")
    request, requests = _codes(table["request"])
    starts = np.flatnonzero(np.diff(request, prepend=-1))
    c = np.diff(np.append(starts, len(request)))
    if len(c) == 0 or (c != c[0]).any():
        raise NotRankable(f"{path}: requests have {c.min() if len(c) else 0} to {c.max() if len(c) else 0} candidates")
    shape = (len(starts), int(c[0]))
    segment, names = _codes(table["segment"])
    unit, units = _codes(table["unit"])
    groups = np.array([crc32(name.encode()) % GROUPS for name in units])
    predicted = {s: _numbers(table[f"pred_{s}"], shape) for s in signals}
    for signal, values in predicted.items():
        if not np.isfinite(values).all():
            at = int((~np.isfinite(values)).reshape(-1).argmax())
            raise NotRankable(
                f"{path}: column 'pred_{signal}', row {at + 1}: found {values.flat[at]}; expected a number"
            )
    position = _numbers(table["position"], shape, -1.0)
    _refuse_gaps(path, position, [requests[request[at]] for at in starts])
    numbers = {name: _numbers(table[name], shape) for name in (*(f"label_{s}" for s in signals), WATCH)}
    for name, values in numbers.items():
        if (unknown := (position >= 0.0) & ~np.isfinite(values)).any():
            at = int(unknown.reshape(-1).argmax())
            raise NotRankable(
                f"{path}: column {name!r}, row {at + 1}: found nothing or no number, though the candidate was shown"
            )
    return RankingLog(
        weights=tuple(f"p_{signal}" for signal in signals),
        signals=signals,
        predictions=np.stack(list(predicted.values())),
        labels=np.stack(list(numbers.values())),
        position=position.astype(np.int8),
        segment=segment[starts],
        segments=names,
        group=groups[unit[starts]],
    )


def _refuse_gaps(path: Path, position: NDArray[np.float32], requests: Sequence[str]) -> None:
    """What was shown must stand at the places 0, 1, ...: a page's end is the last of them."""
    shown = np.sort(np.where(position == -1.0, np.inf, position), axis=1)
    places = np.isfinite(shown)
    wrong = (places & ((shown != np.arange(shown.shape[1])) | (shown > MOST_PLACES))).any(axis=1)
    if wrong.any():
        at = int(wrong.argmax())
        found = ", ".join(f"{place:g}" for place in shown[at][places[at]][:6])
        raise NotRankable(
            f"{path}: request {requests[at]!r}: found positions {found}; expected 0, 1, 2, ... at most {MOST_PLACES}"
        )


class Fitted(msgspec.Struct, frozen=True, eq=False):
    """(1), once without each of the groups g."""

    B: Floats  # (g, S, Y, K)
    m: Floats  # (g, S, p, Y)
    requests: Floats  # (g, S)


def fitted(log: RankingLog) -> Fitted:
    """Fit (1), leaving (the last outcome) apart. Raises `NotRankable` where nothing was shown."""
    places = int(log.position.max()) + 1
    if places < 1:
        raise NotRankable("the log shows nothing: no candidate has a position")
    shape = (GROUPS, len(log.segments))
    K, Y = len(log.signals), len(log.labels) + 1
    xx, xy = np.zeros((*shape, K + places, K + places)), np.zeros((*shape, K + places, Y))
    oo, ol = np.zeros_like(xx), np.zeros((*shape, K + places, 1))
    sums, count = np.zeros((*shape, places, Y)), np.zeros((*shape, places, Y))
    usual = log.predictions.mean(axis=2, dtype=np.float64).T  # (n, K)
    for g in range(GROUPS):
        for s in range(len(log.segments)):
            rows = np.flatnonzero((log.group == g) & (log.segment == s))
            x, y, at, request = _shown(log, rows, places)
            known = ~np.isnan(y)
            for out, values in ((sums, np.where(known, y, 0.0)), (count, known.astype(np.float64))):
                np.add.at(out[g, s], at, values)
            own = (x - np.pad(usual[rows], ((0, 0), (0, places)))[request])[known[:, -1]]
            oo[g, s], ol[g, s] = own.T @ own, own.T @ y[known[:, -1], -1:]
            x, y = _within(x, request), _within(np.where(known, y, 0.0), request)
            xx[g, s], xy[g, s] = x.T @ x, x.T @ y
    xx, xy, oo, ol, sums, count = (each.sum(axis=0) - each for each in (xx, xy, oo, ol, sums, count))
    seldom = [name for s, name in enumerate(log.segments) if (np.trace(xx[:, s], axis1=1, axis2=2) <= 0.0).any()]
    if seldom:
        raise NotRankable(f"the log shows too little of segment {seldom[0]!r} to learn from: too few requests or units")
    B = np.concatenate((_slopes(xx, xy[..., :-1], K), _slopes(oo, ol, K)), axis=2)
    m = sums / np.maximum(count, 1.0)
    m[:, :, -1, -1] = m[:, :, :-1, -1].mean(axis=2)  # whether people stay after the last place
    cells = np.bincount(log.group * shape[1] + log.segment, minlength=GROUPS * shape[1]).reshape(shape)
    return Fitted(B, m, (cells.sum(axis=0) - cells).astype(np.float64))


def _slopes(xx: Floats, xy: Floats, K: int) -> Floats:
    """Least squares of normal equations over predictions and places, (g, S, Y, K) of the predictions."""
    ridge = RIDGE * np.trace(xx, axis1=2, axis2=3)[..., None, None] * np.eye(xx.shape[-1])
    return np.asarray(np.linalg.solve(xx + ridge, xy)[:, :, :K].swapaxes(2, 3))


def _shown(
    log: RankingLog, rows: NDArray[np.intp], places: int
) -> tuple[Floats, Floats, NDArray[np.intp], NDArray[np.intp]]:
    """Of what was shown in these requests: predictions and places (i, K + p), outcomes (i, Y), place, request."""
    request, column = np.nonzero(log.position[rows] >= 0)
    at = log.position[rows][request, column].astype(np.intp)
    x = np.concatenate([log.predictions[:, rows][:, request, column].T, np.eye(places)[at]], axis=1)
    y = log.labels[:, rows][:, request, column].T
    last = np.bincount(request, minlength=len(rows))[request] - 1  # of what this request showed
    left = np.where(at == places - 1, np.nan, at == last)
    return x, np.concatenate([y, left[:, None]], axis=1), at, request


def _within(values: Floats, request: NDArray[np.intp]) -> Floats:
    """Less each request's mean."""
    n = np.bincount(request)
    means = np.stack([np.bincount(request, column) for column in values.T], axis=1) / np.maximum(n, 1)[:, None]
    return np.asarray(values - means[request])


def ranked(log: RankingLog, theta: Floats, places: int) -> Floats:
    """X by weights (signals,), once without each group (g, S, p, K)."""
    score = np.tensordot(theta.astype(np.float32), log.predictions, axes=1)
    order = np.argsort(-score, axis=1, kind="stable")[:, :places]
    shape = (GROUPS, len(log.segments), places)
    cell = ((log.group * shape[1] + log.segment)[:, None] * places + np.arange(places)).reshape(-1)
    picked = (np.take_along_axis(each, order, axis=1).reshape(-1) for each in log.predictions)
    sums = np.stack([np.bincount(cell, each, int(np.prod(shape))) for each in picked], axis=1).reshape(*shape, -1)
    count = np.bincount(cell, minlength=int(np.prod(shape))).reshape(*shape, 1)
    return np.asarray((sums.sum(axis=0) - sums) / np.maximum(count.sum(axis=0) - count, 1))


def levels(log: RankingLog, known: Fitted, moved: Floats) -> dict[str, Floats]:
    """(2) of every component, over the segments, given D (g, S, p, K): once without each group (g,)."""
    y = known.m + np.einsum("gsyk,gspk->gspy", known.B, moved)
    stays = np.cumprod(1.0 - np.clip(y[..., -1], 0.0, 1.0), axis=2)  # (g, S, p)
    seen = np.concatenate([np.ones_like(stays[..., :1]), stays[..., :-1]], axis=2)
    base = known.requests * (1.0 - np.prod(1.0 - known.m[..., -1], axis=2))  # visits, as at the baseline
    visits = base / np.maximum(1.0 - stays[..., -1], 1e-9)
    names = [*(f"{signal}s" for signal in log.signals), WATCH]
    found = {name: (visits * (seen * y[..., k]).sum(axis=2)).sum(axis=1) for k, name in enumerate(names)}
    return {IMPRESSIONS: (visits * seen.sum(axis=2)).sum(axis=1), **found}


def told(metrics: Sequence[Metric], log: RankingLog) -> list[Metric]:
    """Those metrics that a log can tell anything of."""
    known = {IMPRESSIONS, WATCH, *(f"{signal}s" for signal in log.signals)}
    return [m for m in metrics if m.response == "immediate" and {m.numerator, m.denominator} <= known | {BUCKETS}]


def predictions(
    log: RankingLog,
    weights: tuple[Weight, ...],
    metrics: Sequence[Metric],
    vectors: Sequence[Floats],
    watch: Callable[[int], None] = lambda done: None,
) -> Iterator[Prediction]:
    """The change of every metric that can be told, at every vector, against the baseline. Raises `NotRankable`."""
    names = [weight.name for weight in weights]
    for name in names:
        if name not in log.weights:
            raise NotRankable(
                f"the log has no column pred_{name.removeprefix('p_')} for the weight {name!r}; it has "
                + ", ".join(f"pred_{signal}" for signal in log.signals)
            )
    known, kept = fitted(log), told(metrics, log)
    columns = [names.index(name) if name in names else -1 for name in log.weights]

    def means(vector: Floats) -> Floats:
        return ranked(log, np.append(vector, 0.0)[columns], known.m.shape[2])

    at_baseline = means(np.array([weight.baseline for weight in weights]))
    base = _ratios(levels(log, known, 0.0 * at_baseline), kept)
    for done, vector in enumerate(vectors, 1):
        found = _ratios(levels(log, known, means(vector) - at_baseline), kept)
        for metric in kept:
            change = found[metric.name] / base[metric.name] - 1.0
            se = float(np.sqrt((GROUPS - 1) / GROUPS * np.sum((change - change.mean()) ** 2)))
            yield Prediction(tuple(map(float, vector)), metric.name, float(change.mean()), max(se, LEAST_SE))
        watch(done)


def _ratios(found: Mapping[str, Floats], metrics: Sequence[Metric]) -> dict[str, Floats]:
    one = np.ones(GROUPS)
    return {m.name: found[m.numerator] / (one if m.denominator == BUCKETS else found[m.denominator]) for m in metrics}


def vectors(weights: tuple[Weight, ...], n: int, seed: int = 0) -> list[Floats]:
    """So many vectors by a Sobol net: the first half of them within a quarter of each side around the baseline.

    Halves of a net are nets; of every second point some coordinate is always small, or always large.
    """
    space = Space(weights)
    net = qmc.Sobol(space.d, rng=np.random.default_rng(seed)).random_base2((n - 1).bit_length())[:n]
    near = slice((n + 1) // 2)
    net[near] = np.clip(space.baseline_unit + NEAR * (2.0 * net[near] - 1.0), 0.0, 1.0)
    return list(space.to_theta(net))


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Texts as numbers, and what they stand for."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0)
    return whole.indices.to_numpy(zero_copy_only=False), tuple(map(str, whole.dictionary.to_pylist()))


def _numbers(column: pa.ChunkedArray, shape: tuple[int, int], missing: float = np.nan) -> NDArray[np.float32]:
    values = column.cast(pa.float32()).to_numpy()
    filled = values if np.isnan(missing) else np.nan_to_num(values, nan=missing)
    return np.asarray(filled.reshape(shape), np.float32)


def csv_text(weights: tuple[Weight, ...], found: Sequence[Prediction]) -> str:
    """The file that `[offline] path` of a study reads."""
    lines = [
        ",".join([*(weight.name for weight in weights), "metric", "change", "se"]),
        *(
            ",".join([*(f"{w:.6g}" for w in row.theta), row.metric, f"{row.change:.6g}", f"{row.se:.3g}"])
            for row in found
        ),
    ]
    return "\n".join(lines) + "\n"
