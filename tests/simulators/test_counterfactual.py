"""Counterfactual replay: what a log tells of vectors that never served, beside the truth."""

from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import compute, parquet

from controller.core.space import Space
from controller.shell.offline_file import read_predictions
from simulators import counterfactual
from simulators.counterfactual import (
    GROUPS,
    LEAST_SE,
    NEAR,
    Fitted,
    NotRankable,
    RankingLog,
    _refuse_gaps,
    csv_text,
    fitted,
    levels,
    predictions,
    ranked,
    read,
    told,
    vectors,
)
from simulators.feed.crowd import feed_population
from simulators.feed.ranking_log import write
from simulators.feed.shipped import SHORTVIDEO
from simulators.feed.truth import truth_of
from simulators.worlds import HOUR_MS, Floats
from tests.simulators.feed.small import BOUNDS, serving

FEED = msgspec.structs.replace(SHORTVIDEO, events_per_hour=8_000.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    bounds = (BOUNDS[0] + 8 * HOUR_MS, BOUNDS[0] + 11 * HOUR_MS)
    write(FEED, feed_population(FEED, 1, "log:"), serving(FEED.baseline), bounds, path, lambda _: None)
    return path


@pytest.fixture(scope="module")
def log(path: Path) -> RankingLog:
    return read(path)


def test_a_log_is_read_row_by_row_and_a_unit_s_requests_are_of_one_group(log: RankingLog, path: Path) -> None:
    table, shape = parquet.read_table(path), log.position.shape
    first = np.arange(shape[0]) * shape[1]
    units, segments = (table[name].take(first).to_pylist() for name in ("unit", "segment"))
    assert [log.segments[s] for s in log.segment] == segments
    group_of = dict(zip(units, log.group.tolist(), strict=True))
    assert [group_of[unit] for unit in units] == log.group.tolist()
    assert set(group_of.values()) == set(range(GROUPS))

    def column(name: str, missing: float = np.nan) -> NDArray[np.float32]:
        return np.asarray(compute.fill_null(table[name].cast("float"), missing).to_numpy().reshape(shape))

    assert np.array_equal(log.position, column("position", -1.0))
    for s, signal in enumerate(log.signals):
        np.testing.assert_array_equal(log.predictions[s], column(f"pred_{signal}"))
        np.testing.assert_array_equal(log.labels[s], column(f"label_{signal}"))
    np.testing.assert_array_equal(log.labels[-1], column("watch_s"))


def test_of_a_long_log_the_first_row_groups_are_read(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet.write_table(parquet.read_table(path).slice(0, 640), tmp_path / "log.parquet", row_group_size=160)
    for most, requests in ((1, 10), (319, 10), (320, 20), (400, 20)):
        monkeypatch.setattr(counterfactual, "MOST_CANDIDATES", most)
        assert len(read(tmp_path / "log.parquet").position) == requests


def small() -> RankingLog:
    """160 requests of 6, of which up to 4 were shown, in two segments, 8 a group; labels follow predictions."""
    n, c, p = 160, 6, 4
    rng = np.random.default_rng(11)
    predicted = rng.random((2, n, c)).astype(np.float32)
    position, shown = np.full((n, c), -1, np.int8), rng.integers(1, p + 1, n)
    for own, many in zip(position, shown, strict=True):
        own[rng.permutation(c)[:many]] = np.arange(many)
    labels = (rng.random((3, 1, 1)) * predicted[0] + predicted[1] + rng.random((3, n, c))).astype(np.float32)
    labels[:, position < 0] = np.nan
    segment = rng.integers(0, 2, n).astype(np.int32)
    return RankingLog(
        ("p_a", "p_b"), ("a", "b"), predicted, labels, position, segment, ("x", "y"), np.arange(n) % GROUPS
    )


def test_slopes_are_those_of_least_squares_with_a_constant_of_every_request_and_place() -> None:
    log = small()
    known, p = fitted(log), 4
    for g, s in ((0, 0), (0, 1), (7, 1)):
        kept = np.flatnonzero((log.group != g) & (log.segment == s))
        assert known.requests[g, s] == len(kept)
        i, column = np.nonzero(log.position[kept] >= 0)
        at, x = log.position[kept][i, column], log.predictions[:, kept][:, i, column].T.astype(float)
        y, last = log.labels[:, kept][:, i, column].T, at == (log.position[kept].max(axis=1))[i]
        place = np.eye(p)[at]
        slopes = np.linalg.lstsq(np.hstack((x, place, np.eye(len(kept))[i])), y, rcond=None)[0][:2].T
        assert known.B[g, s, :-1] == pytest.approx(slopes, abs=1e-5)
        before_end = at < p - 1  # nobody knows who would have gone on after the last place
        centred = x - log.predictions[:, kept].mean(axis=2).T[i]
        leaving = np.linalg.lstsq(np.hstack((centred, place))[before_end], last[before_end], rcond=None)[0][:2]
        assert known.B[g, s, -1] == pytest.approx(leaving, abs=1e-5)
        means = np.array([y[at == q].mean(axis=0) for q in range(p)])
        assert known.m[g, s, :, :-1] == pytest.approx(means, rel=1e-5)
        left = [last[at == q].mean() for q in range(p - 1)]
        assert known.m[g, s, :, -1] == pytest.approx([*left, np.mean(left)])


def test_a_log_of_single_items_tells_nothing_of_what_follows_predictions_within_a_request() -> None:
    log = small()
    first = np.where(log.position == 0, 0, -1).astype(np.int8)
    with pytest.raises(NotRankable, match="too little of segment 'x' to learn from"):
        fitted(msgspec.structs.replace(log, position=first, labels=np.where(first == 0, log.labels, np.nan)))


def test_what_weights_rank_first_is_averaged_place_by_place() -> None:
    log, theta, places = small(), np.array([1.0, -0.5]), 4
    found = ranked(log, theta, places)
    for g, s in ((0, 0), (19, 1)):
        pages = []
        for i in np.flatnonzero((log.group != g) & (log.segment == s)):
            order = sorted(range(6), key=lambda k: -float(theta @ log.predictions[:, i, k]))
            pages.append(log.predictions[:, i, order[:places]].T)
        assert found[g, s] == pytest.approx(np.mean(pages, axis=0), rel=1e-5)


def test_components_are_those_of_visits_that_go_on_page_after_page_until_they_are_left() -> None:
    rng, log = np.random.default_rng(6), small()
    m, B = rng.uniform(0.1, 0.4, (GROUPS, 2, 3, 4)), rng.normal(0.0, 0.3, (GROUPS, 2, 4, 2))
    moved, requests = rng.normal(0.0, 0.3, (GROUPS, 2, 3, 2)), rng.integers(100, 1000, (GROUPS, 2)).astype(float)
    expected = np.zeros((4, GROUPS))  # impressions, two signals, watch
    for s in range(2):
        visits: Floats = requests[:, s] * (1.0 - np.prod(1.0 - m[:, s, :, 3], axis=1))  # a request's, as it was logged
        for _ in range(400):
            for q in range(3):
                y = m[:, s, q] + (B[:, s] @ moved[:, s, q, :, None])[..., 0]  # (g, 4)
                expected += visits * np.concatenate((np.ones((1, GROUPS)), y[:, :3].T))
                visits = visits * (1.0 - np.clip(y[:, 3], 0.0, 1.0))
    found = levels(log, Fitted(B, m, requests), moved)
    assert list(found) == ["impressions", "as", "bs", "watch_s"]
    assert np.array(list(found.values())) == pytest.approx(expected)


def test_half_of_the_vectors_are_near_the_baseline_and_half_anywhere() -> None:
    space = Space(FEED.weights)
    asked = [space.to_unit(vector) for vector in vectors(FEED.weights, 100, seed=3)]
    near, far = np.array(asked[:50]), np.array(asked[50:])
    off = near - space.baseline_unit
    assert np.abs(off).max() <= NEAR + 1e-9
    assert (off.min(axis=0) < -0.9 * np.minimum(NEAR, space.baseline_unit) + 1e-9).all()
    assert (off.max(axis=0) > 0.9 * np.minimum(NEAR, 1.0 - space.baseline_unit) - 1e-9).all()
    assert (far.min(axis=0) < 0.1).all()
    assert (far.max(axis=0) > 0.9).all()
    assert near.min() >= 0.0
    assert near.max() <= 1.0
    assert not np.array_equal(asked, [space.to_unit(vector) for vector in vectors(FEED.weights, 100, seed=4)])


def test_a_log_tells_the_direction_and_its_bias_is_known(log: RankingLog) -> None:
    asked = vectors(FEED.weights, 24, seed=1)
    found = list(predictions(log, FEED.weights, FEED.metrics, asked))
    truth = truth_of(SHORTVIDEO)
    true = np.array([truth.immediate({"all": vector}).change for vector in asked])
    for k, (metric, likeness, low, high) in enumerate(
        (("watch", 0.75, 0.5, 1.1), ("likes", 0.75, 0.2, 1.0), ("ctr", 0.95, 0.75, 1.2))
    ):
        changes = np.array([each.change for each in found if each.metric == metric])
        assert np.corrcoef(changes, true[:, k])[0, 1] > likeness, metric
        assert low < np.polyfit(true[:, k], changes, 1)[0] < high, metric  # a share of the change is seen


def departures(*, differ: float) -> RankingLog:
    """Pages of 6 of 16, a chance to leave of .12 + .3 x after each item; people `differ` in it as in x."""
    n, c, p = 20_000, 16, 6
    rng = np.random.default_rng(5)
    person = rng.standard_normal((n, 1))
    x = 0.1 * rng.standard_normal((n, c)) + 0.05 * person
    predicted = np.stack([x, 0.1 * rng.standard_normal((n, c))]).astype(np.float32)
    order = np.argsort(-predicted.sum(axis=0), axis=1)[:, :p]
    leaves = rng.random((n, p)) < 0.12 + 0.3 * np.take_along_axis(x, order, axis=1) + differ * person
    seen: NDArray[np.bool_] = np.cumsum(leaves, axis=1) - leaves == 0
    position, labels = np.full((n, c), -1, np.int8), np.full((3, n, c), np.nan, np.float32)
    np.put_along_axis(position, order, np.where(seen, np.arange(p), -1).astype(np.int8), axis=1)
    for label in labels:
        np.put_along_axis(label, order, np.where(seen, 0.0, np.nan).astype(np.float32), axis=1)
    alike = np.zeros(n, np.int32)
    return RankingLog(("p_a", "p_b"), ("a", "b"), predicted, labels, position, alike, ("all",), np.arange(n) % GROUPS)


@pytest.mark.parametrize("differ", [0.0, 0.03])
def test_slopes_of_leaving_are_those_that_people_leave_by(differ: float) -> None:
    """Leaving ends a page: against what was shown of it slopes came out at a third to a half of their size."""
    slope = fitted(departures(differ=differ)).B[:, 0, -1, 0]
    error = np.sqrt((GROUPS - 1) * np.var(slope))
    assert error < 0.05
    assert slope.mean() == pytest.approx(0.3, abs=2.5 * error)


def test_errors_are_those_of_other_logs(tmp_path: Path) -> None:
    asked, changes, errors = vectors(FEED.weights, 4, seed=2), [], []
    for seed in range(6):
        path = tmp_path / f"{seed}.parquet"
        bounds = (BOUNDS[0] + 8 * HOUR_MS, BOUNDS[0] + 9 * HOUR_MS)
        few = msgspec.structs.replace(FEED, events_per_hour=6_000.0)
        write(few, feed_population(few, seed, "log:"), serving(FEED.baseline), bounds, path, lambda _: None)
        found = list(predictions(read(path), FEED.weights, FEED.metrics, asked))
        changes.append([each.change for each in found])
        errors.append([each.se for each in found])
    ratio = np.std(changes, axis=0, ddof=1) / np.mean(errors, axis=0)
    assert 0.6 < np.median(ratio) < 1.5


def test_the_baseline_changes_nothing(log: RankingLog) -> None:
    done: list[int] = []
    found = list(predictions(log, FEED.weights, FEED.metrics, [FEED.baseline] * 2, done.append))
    assert [(each.change, each.se) for each in found] == [(0.0, LEAST_SE)] * 6
    assert done == [1, 2]


def test_a_study_reads_the_file(log: RankingLog, tmp_path: Path) -> None:
    asked = vectors(FEED.weights, 6)
    found = list(predictions(log, FEED.weights, FEED.metrics, asked))
    file = tmp_path / "predictions.csv"
    file.write_text(csv_text(FEED.weights, found))
    rows, mistakes = read_predictions(file, FEED.weights, tuple(metric.name for metric in FEED.metrics))
    assert not mistakes
    assert len(rows) == len(found) == 18
    assert [row.change for row in rows] == pytest.approx([each.change for each in found], rel=1e-4, abs=1e-9)


def test_what_a_log_cannot_tell_is_left_out(log: RankingLog) -> None:
    assert [metric.name for metric in told(FEED.metrics, log)] == ["watch", "likes", "ctr"]
    later = [msgspec.structs.replace(metric, response="delayed") for metric in FEED.metrics]
    assert told(later, log) == []


def test_files_that_are_no_ranking_log_are_named(tmp_path: Path, path: Path, log: RankingLog) -> None:
    with pytest.raises(NotRankable, match=r"nothing\.parquet: No such file or directory$"):
        read(tmp_path / "nothing.parquet")
    parquet.write_table(pa.table({"request": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(NotRankable, match=r"no column pred_\*: not a ranking log, which has request, unit"):
        read(tmp_path / "other.parquet")
    parquet.write_table(parquet.read_table(path).slice(0, 40), tmp_path / "cut.parquet")
    with pytest.raises(NotRankable, match="8 to 16 candidates"):
        read(tmp_path / "cut.parquet")
    table = parquet.read_table(path).slice(0, 1600)
    for name, values, message in (
        ("unit", pa.nulls(table.num_rows, pa.string()), r"column 'unit', row 1: nothing"),
        ("pred_like", pa.array([0.1, 0.1, 0.1, np.nan] * (table.num_rows // 4)), r"'pred_like', row 4: found nan"),
        (
            "label_like",
            pa.nulls(table.num_rows, pa.int8()),
            r"column 'label_like', row \d+: found nothing or no number, ",
        ),
        ("position", compute.add(table["position"], 1), r"found positions 1, 2.*; expected 0, 1, 2, \.\.\."),
        ("position", compute.fill_null(table["position"], -2), r"found positions -2, .*; expected 0, 1, 2, \.\.\."),
        ("position", compute.fill_null(compute.cast(table["position"], "float"), -0.5), r"found positions -0\.5, "),
    ):
        at = table.column_names.index(name)
        parquet.write_table(table.set_column(at, name, values), tmp_path / "odd.parquet")
        with pytest.raises(NotRankable, match=message):
            read(tmp_path / "odd.parquet")
    long = np.full((2, 130), -1.0, np.float32)
    long[1, :128] = np.arange(128)
    with pytest.raises(NotRankable, match="request 'b': found positions 0, 1, 2"):
        _refuse_gaps(path, long, ("a", "b"))
    hidden = msgspec.structs.replace(log, position=np.full_like(log.position, -1))
    with pytest.raises(NotRankable, match="shows nothing"):
        list(predictions(hidden, FEED.weights, FEED.metrics, []))
    renamed = (msgspec.structs.replace(FEED.weights[1], name="p_watch"),)
    with pytest.raises(
        NotRankable, match=r"no column pred_watch for the weight 'p_watch'; it has pred_click, pred_long"
    ):
        list(predictions(log, renamed, FEED.metrics, []))
