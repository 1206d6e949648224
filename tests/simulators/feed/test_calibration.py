"""The simulated feed beside the real app; the figures it is held to are those of the data."""

import csv
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from simulators.feed import targets
from simulators.feed.calibration import figures, tally
from simulators.feed.fit import seen_of
from simulators.feed.pages import shelf_of
from simulators.feed.people import people_of
from simulators.feed.shipped import SHORTVIDEO
from simulators.feed.targets import real_together

SIGNALS = ("is_click", "long_view", "is_like", "is_comment", "is_follow", "is_forward", "is_hate")


def test_every_figure_is_held_by_people_it_was_not_fitted_to() -> None:
    found = tally(SHORTVIDEO, people=16_000, days=7, seed=21)
    made = figures(found, people_of(SHORTVIDEO, shelf_of(SHORTVIDEO).items, 16_000, 21))
    assert len(made) == 136
    noise = {"hourly volume": 2.0, "hourly click rate": 1.5, "signals": 1.5, "pairs": 1.5, "return gap": 1.5}
    missed = [each for each in made if abs(each.simulated - each.real) > noise.get(each.group, 1.0) * each.tolerance]
    assert missed == []


@pytest.fixture
def data() -> Path:
    if "TRIMTAB_DATA" not in os.environ:
        pytest.skip("TRIMTAB_DATA is not set: the folder with kuairand/")
    return Path(os.environ["TRIMTAB_DATA"]) / "kuairand"


def test_targets_are_those_of_the_data(data: Path) -> None:
    real = json.loads((data / "kuairand_calibration.json").read_text())
    assert real["n_rows"] == targets.IMPRESSIONS
    together = tuple(tuple(real["cooccurrence_count"][a][b] for b in SIGNALS) for a in SIGNALS)
    assert together == targets.TOGETHER
    hours = real["hourly_27k_standard"]
    assert tuple(int(hour["exposures"]) for hour in hours) == targets.HOURLY_IMPRESSIONS
    assert tuple(int(float(hour["clicks"])) for hour in hours) == targets.HOURLY_CLICKS
    assert tuple(int(day["exposures"]) for day in real["daily_27k_standard"]) == targets.DAILY_IMPRESSIONS
    assert tuple(real["return_gap_days_count"].values()) == targets.RETURN_GAP_DAYS
    random = real["hourly_27k_random"]
    assert sum(int(hour["exposures"]) for hour in random) == targets.RANDOM_IMPRESSIONS
    assert int(sum(float(hour["clicks"]) for hour in random)) == targets.RANDOM_CLICKS
    assert {each["gap_bin"]: int(each["cnt"]) for each in real["time_gap_bins_27k"]} == targets.PAUSES


def test_covariates_are_those_of_the_data(data: Path) -> None:
    with (data / "user_features_pure.csv").open() as lines:
        users = list(csv.DictReader(lines))
    for feature, counts in targets.USERS.items():
        found = Counter(user[feature] for user in users)
        assert {name: found[name] for name in counts} == counts
        assert set(found) - set(counts) <= {"UNKNOWN"}
    with (data / "video_features_basic_pure.csv").open() as lines:
        videos = list(csv.DictReader(lines))
    for feature, known in targets.VIDEOS.items():
        values = [video[feature].split(",")[0] or "none" for video in videos]
        found = Counter(name if name in known else "other" for name in values)
        assert {name: found[name] for name in known} == known
    durations = sorted(float(video["video_duration"]) / 1000 for video in videos if video["video_duration"])
    for q, seconds in targets.DURATION_QUANTILES_S.items():
        assert durations[min(int(len(durations) * q), len(durations) - 1)] == pytest.approx(seconds, abs=0.006)


def test_signals_are_fitted_in_expectation() -> None:
    seen = seen_of(SHORTVIDEO)
    assert np.abs(seen.together / real_together() - 1.0).max() < 0.02
    assert abs(seen.enjoyment) < 0.01
    assert seen.tomorrow == pytest.approx(targets.RETURN_GAP_DAYS[0] / sum(targets.RETURN_GAP_DAYS), abs=0.003)
    assert seen.pages_per_day == pytest.approx(SHORTVIDEO.pages_per_day, rel=0.01)
