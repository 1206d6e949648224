"""Counterfactual replay: what a log tells of vectors that never served, beside the truth."""

from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import compute, parquet

from controller.shell.offline_file import read_predictions
from simulators.counterfactual import (
    GROUPS,
    NotRankable,
    RankingLog,
    _refuse_gaps,
    csv_text,
    fitted,
    predictions,
    read,
    told,
    vectors,
)
from simulators.feed.crowd import feed_population
from simulators.feed.ranking_log import write
from simulators.feed.shipped import SHORTVIDEO
from simulators.feed.truth import truth_of
from simulators.worlds import HOUR_MS
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
    found = list(predictions(log, FEED.weights, FEED.metrics, [FEED.baseline]))
    assert [each.change for each in found] == [0.0] * 3


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


def test_files_that_are_no_ranking_log_are_named(tmp_path: Path, path: Path, log: RankingLog) -> None:
    with pytest.raises(NotRankable, match=r"nothing\.parquet: No such file or directory$"):
        read(tmp_path / "nothing.parquet")
    parquet.write_table(pa.table({"request": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(NotRankable, match=r"no column pred_\*: not a ranking log, which has request, unit"):
        read(tmp_path / "other.parquet")
    parquet.write_table(parquet.read_table(path).slice(0, 40), tmp_path / "cut.parquet")
    with pytest.raises(NotRankable, match="8 to 16 candidates"):
        read(tmp_path / "cut.parquet")
    table = parquet.read_table(path)
    for name, values, message in (
        ("unit", pa.nulls(table.num_rows, pa.string()), r"column 'unit', row 1: nothing"),
        ("pred_like", pa.array([0.1, 0.1, 0.1, np.nan] * (table.num_rows // 4)), r"'pred_like', row 4: found nan"),
        ("position", compute.add(table["position"], 1), r"found positions 1, 2.*; expected 0, 1, 2, \.\.\."),
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
