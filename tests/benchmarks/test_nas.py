"""The measurement of `nas` in seconds: its parts measure what they say, and it goes on where it stopped."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from pyarrow import parquet
from rich.console import Console
from scipy.stats import kendalltau

pytest.importorskip("torch", reason="pip install 'trimtab[nas]'")

from benchmarks._nas_ranking import kendall, ranking, rankings
from benchmarks._nas_scale import SHORT, OutOfTime, Stage
from benchmarks._nas_world import CANDIDATES, HEADS, write_world
from benchmarks.nas import _data

TINY = msgspec.structs.replace(
    SHORT, requests=200, rows=1000, supernet_rows=2000, nets=4, strategies=("single-any",), adapt_rows=0, valid_rows=500
)


def stage(folder: Path, minutes: float = 5.0) -> Stage:
    return Stage(folder, minutes, Console(quiet=True))


def test_the_world_is_the_same_for_a_seed_and_its_labels_follow_its_truth(tmp_path: Path) -> None:
    log, truth = write_world(tmp_path / "a", 400, 3)
    again, _ = write_world(tmp_path / "b", 400, 3)
    assert parquet.read_table(log).equals(parquet.read_table(again))
    labels, p = parquet.read_table(log), parquet.read_table(truth)
    assert labels["item"].equals(p["item"])
    assert len(labels) == 400 * CANDIDATES
    for head in HEADS:
        true = np.asarray(p[f"true_{head}"])
        spread = 4 * np.sqrt((true * (1 - true)).sum())
        assert abs(np.asarray(labels[f"label_{head}"]).sum() - true.sum()) < spread


def test_a_ranking_by_hand() -> None:
    truth = np.arange(20.0)
    right, wrong = ranking("same", truth, truth), ranking("reversed", -truth, truth)
    assert (right.tau.mean, right.tau_best_half.mean, right.regret_at_5) == pytest.approx((1.0, 1.0, 0.0))
    assert (wrong.tau.mean, wrong.regret_at_5) == pytest.approx((-1.0, 15.0))
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, 30).astype(float), rng.integers(0, 9, 30).astype(float)
    assert kendall(x, y) == pytest.approx(kendalltau(x, y).statistic)


def test_a_stage_goes_on_where_it_stopped(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> int:
        calls.append(1)
        return 7

    assert stage(tmp_path).once("seven", int, compute) == 7
    assert stage(tmp_path, minutes=0).once("seven", int, compute) == 7
    assert len(calls) == 1
    with pytest.raises(OutOfTime):
        stage(tmp_path, minutes=0).once("eight", int, compute)


def test_networks_are_ranked_and_a_second_call_computes_nothing(tmp_path: Path) -> None:
    parts = _data(tmp_path, TINY)
    found = rankings(stage(tmp_path), TINY, parts)
    assert [one.name for one in found][:4] == ["log FLOPs", "log parameters", "one seed against another", "single-any"]
    assert rankings(stage(tmp_path, minutes=0), TINY, parts) == found
