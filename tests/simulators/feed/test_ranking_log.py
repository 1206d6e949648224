"""The ranking log: the design's columns, what serving made of the predictions, and a truth that labels follow."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from simulators.feed.crowd import feed_population
from simulators.feed.items import DAY_MS
from simulators.feed.pages import EXAMINED
from simulators.feed.ranking_log import truth_path, write
from simulators.feed.targets import SIGNALS
from simulators.feed.watch import PASSED_S
from tests.simulators.feed.small import BOUNDS, GREEDY, SMALL, serving


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, pa.Table]:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    served = serving(SMALL.baseline, GREEDY)
    done = write(
        SMALL, feed_population(SMALL, 1, "log:"), served, (BOUNDS[0], BOUNDS[1] + 7_200_000), path, lambda _: None
    )
    rows, true = parquet.read_table(path), parquet.read_table(truth_path(path))
    assert done.candidates == len(rows) == 16 * done.requests
    assert done.shown == sum(rows["shown"].to_pylist())
    return rows, true


def numbers(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name].cast(pa.float64()).to_numpy())


def test_columns_are_the_designs(log: tuple[pa.Table, pa.Table]) -> None:
    rows, _ = log
    names = set(rows.column_names)
    assert {
        "request",
        "ts_ms",
        "unit",
        "segment",
        "item",
        "shown",
        "position",
        "watch_s",
        "version",
        "arm",
        "theta",
    } <= names
    assert {f"label_{signal}" for signal in SIGNALS} | {f"pred_{signal}" for signal in SIGNALS} <= names
    assert {name.split("_")[0] for name in names} >= {"user", "item", "context"}
    assert not any(name.startswith("true") for name in names)


def test_the_truth_has_the_same_keys_in_the_same_order(log: tuple[pa.Table, pa.Table]) -> None:
    rows, true = log
    assert rows["request"].to_pylist() == true["request"].to_pylist()
    assert rows["item"].to_pylist() == true["item"].to_pylist()
    assert len(set(zip(rows["request"].to_pylist(), rows["item"].to_pylist(), strict=True))) == len(rows)


def test_labels_are_known_of_what_was_shown_only(log: tuple[pa.Table, pa.Table]) -> None:
    rows, _ = log
    shown = np.array(rows["shown"].to_pylist())
    for name in ("position", "watch_s", *(f"label_{signal}" for signal in SIGNALS)):
        assert np.array_equal(np.array([value is not None for value in rows[name].to_pylist()]), shown)


def test_the_page_is_what_theta_makes_of_the_predictions(log: tuple[pa.Table, pa.Table]) -> None:
    rows, _ = log
    theta = np.array([[row[f"p_{signal}"] for signal in SIGNALS] for row in rows["theta"].to_pylist()])
    predictions = np.stack([numbers(rows, f"pred_{signal}") for signal in SIGNALS], axis=1)
    rank = np.argsort(np.argsort(-(theta * predictions).sum(axis=1).reshape(-1, 16), axis=1), axis=1).reshape(-1)
    position = numbers(rows, "position")
    shown = np.isfinite(position)
    assert np.mean(rank[shown] == position[shown]) > 0.999  # float32 may tie


def test_a_log_that_begins_within_a_quarter_of_an_hour_holds_the_predictions_that_ranked(tmp_path: Path) -> None:
    """At midnight the ranker is trained anew: pages before and after it are of other predictions."""
    path, begin_ms = tmp_path / "log.parquet", BOUNDS[0] // DAY_MS * DAY_MS + DAY_MS - 7 * 60_000
    people = feed_population(SMALL, 1, "log:")
    write(SMALL, people, serving(SMALL.baseline), (begin_ms, begin_ms + 1_800_000), path, lambda _: None)
    rows = parquet.read_table(path)
    score = sum(weight * numbers(rows, f"pred_{s}") for weight, s in zip(SMALL.baseline, SIGNALS, strict=True))
    score = np.asarray(score).reshape(-1, 16)
    first = score[numbers(rows, "position").reshape(-1, 16) == 0]
    assert len(first) == len(score) > 200
    assert np.mean(first < score.max(axis=1) * (1 - 1e-5)) < 0.001  # float32 may tie


def test_labels_follow_the_true_probabilities(log: tuple[pa.Table, pa.Table]) -> None:
    rows, true = log
    top = numbers(rows, "position") == 0
    for signal in ("click", "long_view", "like"):
        p, y = numbers(true, f"true_{signal}")[top], numbers(rows, f"label_{signal}")[top]
        for low, high in ((0.0, 0.5), (0.5, 1.0)):
            bounds = np.quantile(p, [low, high])
            of = (p >= bounds[0]) & (p <= bounds[1])
            assert abs(y[of].mean() - p[of].mean()) < 4 * np.sqrt(p[of].mean() / of.sum())


def test_watch_time_follows_the_true_mean_where_an_item_was_examined(log: tuple[pa.Table, pa.Table]) -> None:
    rows, true = log
    position, watch_s = numbers(rows, "position"), numbers(rows, "watch_s")
    for place, examined in enumerate(EXAMINED):
        at = position == place
        mean = examined * numbers(true, "true_watch_s")[at] + (1 - examined) * PASSED_S
        assert abs(watch_s[at].mean() - mean.mean()) < 4 * watch_s[at].std() / np.sqrt(at.sum()), place


def test_predictions_are_wrong_in_the_ways_they_are_meant_to_be(log: tuple[pa.Table, pa.Table]) -> None:
    rows, true = log
    p, q = (np.log(x / (1 - x)) for x in (numbers(true, "true_click"), numbers(rows, "pred_click")))
    casual = np.array(rows["segment"].to_pylist()) == "casual"
    fit = {of: np.polyfit(p[mask], q[mask], 1) for of, mask in (("core", ~casual), ("casual", casual))}
    assert 0.5 < np.corrcoef(p, q)[0, 1] < 0.95
    assert fit["casual"][0] < 0.85 * fit["core"][0]


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(OSError, match="nowhere"):
        write(
            SMALL,
            feed_population(SMALL, 1, "x:"),
            serving(SMALL.baseline),
            BOUNDS,
            Path("/nowhere/x.parquet"),
            lambda _: None,
        )
