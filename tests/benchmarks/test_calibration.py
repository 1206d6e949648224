"""That the calibration measures: a statement that is wrong on purpose is seen to be wrong."""

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks import _calibration_intervals as intervals
from benchmarks import _calibration_promotions as promotions
from benchmarks import _calibration_srm as srm
from benchmarks import _calibration_stops as stops
from benchmarks import calibration
from benchmarks._arena_scores import Promotion
from benchmarks._calibration_figures import Job, Outcome, clustered, share
from controller.core import safety
from simulators.handmade import QUICK
from simulators.optimum import best_feasible
from simulators.study import study_of


def alone(work: Callable[[Job], Outcome], jobs: Sequence[Job], title: str) -> list[Outcome]:
    return [work(job) for job in jobs]


def drawn(scale: float, runs: int = 12, rows: int = 200) -> list[intervals.Errors]:
    rng = np.random.default_rng(1)
    return [
        intervals.Errors("quick", run, {"settled": scale * rng.standard_normal((rows, len(QUICK.metrics)))})
        for run in range(runs)
    ]


def test_a_wrong_variance_is_seen_as_undercoverage() -> None:
    right, wrong, timid = (intervals.coverage(QUICK, "settled", drawn(scale)) for scale in (1.0, 1.3, 0.8))
    assert [f.holds for f in right] == [True] * 2
    assert [f.value for f in right] == pytest.approx([0.95] * 2, abs=0.015)
    assert [f.value for f in wrong] == pytest.approx([0.868] * 2, abs=0.02)  # P(|z| < 1.96 / 1.3)
    assert [f.holds for f in (*wrong, *timid)] == [False] * 4


def test_a_bias_shows_in_one_tail() -> None:
    shifted = [msgspec.structs.replace(e, z={"settled": e.z["settled"] + 1.0}) for e in drawn(1.0)]
    [watch, _] = intervals.coverage(QUICK, "settled", shifted)
    assert "0.1% too low, 16." in watch.what or "0.2% too low, 16." in watch.what or "too low, 17." in watch.what
    assert watch.holds is False


def test_runs_are_the_clusters() -> None:
    hit, run = np.repeat([1.0, 0.0, 1.0, 1.0], 100), np.repeat(np.arange(4.0), 100)
    assert clustered(hit, run) == pytest.approx((0.75, 0.25))  # four runs' worth, not four hundred rows'


def test_what_is_not_known_is_no_error() -> None:
    [errors] = drawn(1.0, runs=1)
    errors.z["settled"][:50, 0] = np.nan
    watch, ctr = intervals.coverage(QUICK, "settled", [errors])
    assert (watch.n, ctr.n) == (150, 200)


def test_a_watched_study_is_judged_by_the_truth_of_its_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "HOURS", 12)
    errors = intervals.watched(("quick", 3))
    settled, sealed = errors.z["settled"], errors.z["sealed"]
    assert settled.shape == sealed.shape == (4 * 4, 2)  # hours 1 to 4, four arms: the first hour has control alone
    assert np.array_equal(settled, sealed)  # nothing is late
    assert 0.4 < np.std(settled) < 1.8
    assert len(errors.z["posterior dealt"]) == len(errors.z["ahead dealt"]) > 4


def test_a_sequence_that_is_too_narrow_stops_harmless_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    job = stops.Job("one map, no past known", stops.LIMITS, 60.0, 1, 40)
    assert (stops.stops(job).look > stops.LOOKS).all()
    monkeypatch.setattr(safety, "radius", lambda variance, alpha, tight_sd: 1.645 * np.sqrt(variance))
    assert np.mean(stops.stops(job).look <= stops.LOOKS) > 0.1  # a 5 % test at every look


def test_what_breaks_a_limit_is_stopped_and_never_before_a_look_could() -> None:
    found = stops.stops(stops.Job("confirm, ramp and hold", (-0.03, 0.0), 6.0, 2, 20))
    assert (found.look <= 30).all()
    assert found.sd[0] > found.sd[5] > found.sd[29]
    assert found.sd[30] > found.sd[29]  # the ramp's first share is a sequence of its own


def test_the_estimates_of_a_batch_are_those_of_single_runs() -> None:
    rng = np.random.default_rng(5)
    total = rng.integers(10**6, 10**9, (3, stops.BUCKETS, 3))
    arm_of = (rng.random(stops.BUCKETS) < 0.4).astype(np.int16)
    together = stops.estimated(total, arm_of, None)
    for run in range(3):
        single = stops.estimated(total[[run]], arm_of, None)
        assert together.change[:, 0, run] == pytest.approx(single.change[:, 0, 0])
        assert together.covariance[:, 0, run, run] == pytest.approx(single.covariance[:, 0, 0, 0])


def test_a_sample_ratio_check_that_takes_units_for_fresh_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(srm._alarms((0, 3)))
    monkeypatch.setattr(srm, "PLAN", safety.SafetyPlan(srm_alpha=0.5))
    assert all(srm._alarms((0, 3)))


def test_losses_are_found_where_there_are_units_enough() -> None:
    confirm, explore, _, one = srm.CASES
    assert np.mean(srm._losses((confirm, 400_000), 10)) == 1.0
    assert np.mean(srm._losses((explore, 400_000), 10)) == 1.0
    assert np.mean(srm._losses((one, 3_000), 10)) == 0.0
    sent = pickle.loads(pickle.dumps((confirm, 100_000)))  # as another process gets it
    assert srm._losses(sent, 10) == srm._losses((confirm, 100_000), 10)


def test_in_the_costly_world_every_gain_breaks_a_guardrail() -> None:
    world = promotions.COSTLY.world
    assert best_feasible(world).gain < 0.002
    free = best_feasible(world, constrained=False)
    assert free.gain > 0.03
    assert free.change["ctr"] < -0.05


def claimed(gain: float, off: float, good: bool = True) -> promotions.Study:
    return promotions.Study(Promotion(56, gain + off, 0.003, gain, gain, good), "confirm")


def test_promotions_are_counted_and_a_biased_claim_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotions, "CASES", {"aa": (40, 4), "small": (40, 8)})
    rng = np.random.default_rng(2)

    def found(bias: float) -> dict[tuple[str, str], bool | None]:
        def spread(work: object, jobs: Sequence[int], title: str) -> list[promotions.Study]:
            none = promotions.Study(None, "explore")
            return [none if "aa" in title or j < 4 else claimed(0.02, bias + 0.003 * rng.normal()) for j in jobs]

        return {(f.case, f.what): f.holds for f in promotions.measured(None, spread)}  # type: ignore[arg-type]  # no run is played

    fair = found(0.0)
    assert (fair["aa", "promoted"], fair["small", "promoted within 72 h"]) == (True, True)
    assert fair["small", "the same in standard errors"] is True
    assert found(0.003)["small", "the same in standard errors"] is False


def test_a_study_ends_once_no_test_can_end_in_time() -> None:
    assert promotions.last_start(study_of(promotions.COSTLY.world).plan) == 72 - 24 - 6


def test_a_share_is_held_against_what_is_asked() -> None:
    assert share("", "", [True] * 12 + [False] * 388, most=0.03).holds is True
    assert share("", "", [True] * 13 + [False] * 387, most=0.03).holds is False
    assert share("", "", [True, False]).holds is None


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert calibration.main(["--claims", "srm", "--studies", "2", "--json", str(file)]) == 0
    assert "sound studies" in capsys.readouterr().out
    assert {figure["n"] for figure in json.loads(file.read_bytes())["srm"]} == {0, 2}
