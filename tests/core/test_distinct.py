"""Units counted in bounded memory, against sets."""

import numpy as np
import pytest

from controller.core import distinct
from controller.core.distinct import Seen, met, nobody, rebuilt, units, unwritten

BUCKETS = 100


def crowd(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(bucket, hash) of n different units."""
    unit_hash = np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)
    return (unit_hash % np.uint64(BUCKETS)).astype(np.int32), unit_hash


def seen(n: int, seed: int = 0) -> Seen:
    return met(nobody(BUCKETS), *crowd(n, seed))


def test_few_units_are_counted_exactly_but_for_bits_that_they_share() -> None:
    bucket, _ = crowd(20_000)
    np.testing.assert_allclose(units(seen(20_000)), np.bincount(bucket, minlength=BUCKETS), atol=3)


def test_units_that_share_bits_are_allowed_for() -> None:
    """Three million units in four million bits: a third of them finds its bit set already."""
    n = 3_000_000
    bucket, unit_hash = crowd(n)
    found, real = units(met(nobody(BUCKETS), bucket, unit_hash)), np.bincount(bucket, minlength=BUCKETS)
    assert found.sum() == pytest.approx(n, rel=2e-3)
    m = 8 * nobody(BUCKETS).bits.shape[-1]
    t = n / BUCKETS / m
    assert np.std(found - real) == pytest.approx(np.sqrt(m * (np.exp(t) - t - 1.0)), rel=0.3)  # Whang et al., eq. 6


def test_where_the_first_map_is_full_a_sixteenth_of_the_units_is_counted() -> None:
    state = nobody(BUCKETS)
    for seed in range(4):
        state = met(state, *crowd(2_500_000, seed))
    assert units(state).sum() == pytest.approx(10_000_000 / 16, rel=0.01)


def test_one_full_bucket_leaves_the_first_map_to_the_others() -> None:
    """Of its bits 94 % are set, which still tells its units within 3 %; of all bits 3 % are."""
    rng, count = np.random.default_rng(3), np.append(120_000, np.full(BUCKETS - 1, 1_000))
    bucket = np.repeat(np.arange(BUCKETS, dtype=np.int32), count)
    found = units(met(nobody(BUCKETS), bucket, rng.integers(0, 2**64, len(bucket), dtype=np.uint64)))
    assert found == pytest.approx(count, rel=0.03)


def test_neither_order_nor_repeats_nor_cuts_change_a_bit() -> None:
    bucket, unit_hash = crowd(5_000)
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(5_000), 3))
    state = nobody(BUCKETS)
    for part in np.array_split(order, 7):
        state = met(state, bucket[part], unit_hash[part])
    assert state.bits.tobytes() == seen(5_000).bits.tobytes()


def test_units_that_are_known_leave_the_state_as_it_is() -> None:
    state = seen(1_000)
    assert met(state, *crowd(1_000)) is state


def test_memory_does_not_grow_with_units_or_buckets() -> None:
    assert nobody(1_000).bits.nbytes <= 2 * distinct.MAP_BITS // 8
    assert nobody(100_000).bits.nbytes <= 2 * 100_000 * distinct.LEAST_BITS // 8


def test_segments_give_the_same_bits_back() -> None:
    bucket, unit_hash = crowd(4_000)
    first = met(nobody(BUCKETS), bucket[:3_000], unit_hash[:3_000])
    whole = met(first, np.repeat(bucket, 2), np.repeat(unit_hash, 2))
    places = distinct.fresh(whole)
    assert len(places) == len(np.unique(places)) == int(np.bitwise_count(whole.bits).sum())
    assert rebuilt(BUCKETS, [places]).bits.tobytes() == whole.bits.tobytes()
    assert rebuilt(BUCKETS, [distinct.fresh(first), places]).segments == 2
    again = unwritten(rebuilt(BUCKETS, [places]))
    assert (distinct.fresh(again).tolist(), again.segments) == (places.tolist(), 0)


def test_an_arm_that_loses_people_loses_as_large_a_part_of_the_count() -> None:
    """Also where a third of the bits is shared, and in the second map."""
    for n in (100_000, 3_000_000, 9_000_000):
        bucket, unit_hash = crowd(n)
        kept = (bucket >= 40) | (np.random.default_rng(2).random(n) > 0.1)
        before, after = (
            units(met(nobody(BUCKETS), bucket[some], unit_hash[some])) for some in (slice(None), np.flatnonzero(kept))
        )
        assert after[:40].sum() / before[:40].sum() == pytest.approx(0.9, abs=0.01)
        assert np.array_equal(after[40:], before[40:])
