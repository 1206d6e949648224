import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.assignment import Arm, Stage
from controller.core.rollout import (
    FROZEN,
    HOLDBACK,
    MOVES,
    OTHERS,
    RESUMED,
    Deal,
    IllegalMove,
    all_control,
    check_move,
    joined,
    nested,
    room_beside,
    shuffled,
    without,
)

CONTROL = Arm("control", "control", {"all": (1.0,)})
STAGES: tuple[Stage, ...] = get_args(Stage)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_can_be_paused_and_rolled_back(stage: Stage) -> None:
    for safe in FROZEN - {stage}:
        check_move(stage, safe)
    check_move(stage, stage)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_leads_to_explore_and_only_tests_lead_to_more_traffic(stage: Stage) -> None:
    assert stage == "explore" or "explore" in MOVES[stage]
    assert ("hold" in MOVES[stage]) == (stage == "ramp")
    assert ("ramp" in MOVES[stage]) == (stage in ("confirm", "hold", "paused"))


def test_resuming_is_always_legal() -> None:
    assert set(RESUMED) == set(STAGES) - FROZEN
    for after in RESUMED.values():
        check_move("paused", after)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("after", STAGES)
def test_an_illegal_move_names_what_could_follow(stage: Stage, after: Stage) -> None:
    if after == stage or after in MOVES[stage]:
        check_move(stage, after)
        return
    with pytest.raises(IllegalMove, match=f"{stage} -> {after}: from {stage} only") as caught:
        check_move(stage, after)
    assert all(legal in str(caught.value) for legal in MOVES[stage])


@given(st.integers(20, 2000), st.integers(1, 16), st.integers(1, 100), st.integers(0, 2**32))
def test_shuffled_shares_are_exact(buckets: int, arms: int, percent: int, seed: int) -> None:
    arm_of = shuffled(buckets, arms, percent / 100, np.random.default_rng(seed))
    counts = np.bincount(arm_of, minlength=arms + 1)
    each = percent * buckets // (100 * arms)
    assert counts[1:].tolist() == [each] * arms
    assert counts[0] == buckets - arms * each
    assert len(counts) == arms + 1


def test_a_share_is_not_lost_to_rounding() -> None:
    assert shuffled(100, 1, 0.29, np.random.default_rng(0)).sum() == 29  # 0.29 x 100 is 28.999999999999996


def test_shuffling_deals_every_bucket_alike() -> None:
    rng = np.random.default_rng(0)
    dealt = np.mean([shuffled(50, 4, 0.4, rng) > 0 for _ in range(2000)], axis=0)
    assert np.abs(dealt - 0.4).max() < 5 * np.sqrt(0.24 / 2000)


@given(st.integers(10, 2000), st.lists(st.floats(0.0, 1.0), min_size=2, max_size=5), st.integers(0, 2**32))
def test_a_larger_share_holds_every_smaller_one(buckets: int, shares: list[float], seed: int) -> None:
    ramp = [nested(buckets, share, seed, "c1") for share in sorted(shares)]
    for share, arm_of in zip(sorted(shares), ramp, strict=True):
        assert arm_of.sum() == int(share * buckets + 1e-9)
    for smaller, larger in itertools.pairwise(ramp):
        assert (larger >= smaller).all()


def test_nested_orders_differ_between_studies_and_vectors() -> None:
    first = nested(1000, 0.5, 1, "c1")
    for other in (nested(1000, 0.5, 2, "c1"), nested(1000, 0.5, 1, "c2")):
        assert abs(np.mean(first == other) - 0.5) < 0.1


@given(st.floats(0.01, 0.95), st.floats(0.0, 0.4), st.integers(0, 5))
def test_beside_a_test_control_keeps_its_part_and_the_candidate_its_buckets(
    share: float, wanted: float, seed: int
) -> None:
    beside = room_beside(share, wanted)
    plain, shared = nested(200, share, seed, "c1"), nested(200, share, seed, "c1", beside)
    assert np.array_equal(plain == 1, shared == 1)
    assert (shared == OTHERS).sum() == int(beside * 200 + 1e-9)
    assert (shared == 0).sum() >= (shared == OTHERS).sum() + HOLDBACK * 200


@pytest.mark.parametrize("buckets", [20, 33, 50, 101, 1000])
def test_where_buckets_are_few_no_share_is_more_and_the_holdback_no_less_than_asked(buckets: int) -> None:
    last = nested(buckets, 0.95, 1, "c1")
    assert np.mean(last == 0) >= HOLDBACK
    at_risk = nested(buckets, 0.2, 1, "c1", room_beside(0.2, 0.2))
    assert np.mean(at_risk != 0) <= 0.4
    assert np.mean((last == 0) & (at_risk == 0)) >= HOLDBACK  # nobody else ever has them
    assert np.mean(last == 1) > 0.95 - 1.0 / buckets - 1e-9  # and a bucket less at most


def test_what_a_large_share_leaves_is_halved_between_control_and_others() -> None:
    assert room_beside(0.8, 0.2) == pytest.approx(0.075)
    assert room_beside(0.2, 0.2) == 0.2
    assert room_beside(0.96, 0.2) == 0.0


def test_what_explores_beside_a_test_takes_only_what_the_test_leaves_out() -> None:
    arms = tuple(Arm(f"e{k}", "explore", CONTROL.theta) for k in range(3))
    trial = Deal(7, "confirm", (CONTROL, arms[0]), nested(100, 0.3, 0, "c1", 0.2), np.zeros((1, 100, 1)), 7)
    one, other = (joined(trial, 8, arms[1:], 2, np.random.default_rng(seed)) for seed in (0, 1))
    assert np.bincount(one.buckets).tolist() == [50, 30, 10, 10]
    tested = trial.buckets != OTHERS
    assert (one.buckets[tested] == trial.buckets[tested]).all()
    assert not np.array_equal(one.buckets, other.buckets)
    assert (one.id, one.trial, one.names) == (8, 7, ("control", "e0", "e1", "e2"))
    assert one.history is trial.history
    alone = joined(trial, 8, arms[1:2], 2, np.random.default_rng(0))
    assert np.bincount(alone.buckets).tolist() == [60, 30, 10], "one vector for two arms has the share of one"
    assert without(one, 9, [2]).trial == 7
    assert without(one, 9, [2]).history is trial.history
    assert without(one, 9, [1]).trial == 0


def test_without_gives_the_buckets_of_an_arm_to_control() -> None:
    arms = (CONTROL, *(Arm(f"e{k}", "explore", {"all": (float(k),)}) for k in (1, 2, 3)))
    buckets = np.array([0, 1, 2, 3, 3, 2, 1, 0], np.int16)
    left = without(Deal(4, "explore", arms, buckets), 5, [1, 3])
    assert (left.id, left.stage, left.names) == (5, "explore", ("control", "e2"))
    assert left.buckets.tolist() == [0, 0, 1, 0, 0, 1, 0, 0]
    assert buckets.tolist() == [0, 1, 2, 3, 3, 2, 1, 0]


def test_all_control_has_one_arm() -> None:
    deal = all_control(3, "paused", CONTROL, 6)
    assert deal.names == ("control",)
    assert deal.buckets.tolist() == [0] * 6
