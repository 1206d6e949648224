"""The index of seen keys against a plain set."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core import dedupe, runs
from controller.core.dedupe import Index
from controller.core.runs import Words

NEVER = -(2**62)
HOUR = 3_600_000


def hashed(rng: np.random.Generator, n: int) -> Words:
    return rng.integers(0, 2**64, (n, 2), dtype=np.uint64)


def seen(index: Index, key: Words, end_ms: int = HOUR) -> tuple[list[bool], Index]:
    """Rows that arrive in one window, with a horizon that never passes."""
    n = len(key)
    repeat, index = dedupe.deduplicated(index, key, np.full(n, NEVER), np.full(n, end_ms), 0)
    return repeat.tolist(), index


@settings(max_examples=100, deadline=None)
@given(
    batches=st.lists(
        st.tuples(st.lists(st.integers(0, 60), min_size=1, max_size=30), st.integers(1, 5), st.booleans()), max_size=12
    ),
    alike=st.sampled_from([1, 7, 1000]),
)
def test_tells_repeats_as_a_set_would(batches: list[tuple[list[int], int, bool]], alike: int) -> None:
    """`alike` keys share one high word."""
    index, known = Index(), dict[int, int]()
    floor = 0
    for values, window, forget in batches:
        end = (floor + window) * HOUR
        key = np.array([(v // alike * 0x9E3779B97F4A7C15 % 2**64, v << 40) for v in values], np.uint64)
        repeat, index = seen(index, key, end)
        expected = []
        for v in values:
            expected.append(v in known)
            known.setdefault(v, end)
        assert repeat == expected
        if forget:
            floor += 2
            index = dedupe.expire(index, floor * HOUR)
            known = {v: e for v, e in known.items() if e > floor * HOUR}
    held = dedupe.keys(index)
    assert sorted(zip((held.lo >> np.uint64(40)).tolist(), held.end_ms.tolist(), strict=True)) == sorted(known.items())


def test_many_runs_and_merges_lose_nothing() -> None:
    rng = np.random.default_rng(5)
    key = hashed(rng, 60_000)
    index = Index()
    for k, part in enumerate(np.split(key, 60)):
        repeat, index = seen(index, part, (1 + k // 20) * HOUR)
        assert not any(repeat)
    assert len(index.runs) <= 8
    assert all((np.diff(run.hi.view(np.int64) ^ np.int64(-(2**63))) >= 0).all() for run in index.runs)
    repeat, same = seen(index, np.concatenate([key[::7], hashed(rng, 100)]), 4 * HOUR)
    assert repeat == [True] * len(key[::7]) + [False] * 100
    assert len(dedupe.keys(same).hi) == len(key) + 100


def test_a_key_costs_about_17_bytes() -> None:
    index = Index()
    for part in np.split(hashed(np.random.default_rng(1), 100_000), 10):
        _, index = seen(index, part)
    size = sum(run.hi.nbytes + run.lo.nbytes + run.filter.nbytes + run.starts.nbytes for run in index.runs)
    assert size / 100_000 <= 16 + 2 + 1


def test_a_window_is_forgotten_by_its_tag_and_its_slot_used_again() -> None:
    rng = np.random.default_rng(2)
    index = Index()
    for window in range(1, 40):
        _, index = seen(index, hashed(rng, 2000), window * HOUR)
        index = dedupe.expire(index, (window - 3) * HOUR)
    assert len(dedupe.keys(index).hi) == 3 * 2000
    assert sum(len(run.hi) for run in index.runs) <= 3 * 2 * 2000
    assert max(index.slots.values()) < 12


def test_too_many_windows_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedupe, "TAG", np.uint64(3))
    key = hashed(np.random.default_rng(2), 5)
    with pytest.raises(OverflowError, match="at most 4 windows can be kept: found 5"):
        dedupe.deduplicated(Index(), key, np.full(5, NEVER), np.arange(1, 6) * HOUR, 0)


def test_an_old_index_stays_as_it_was() -> None:
    rng = np.random.default_rng(4)
    a, b = hashed(rng, 3000), hashed(rng, 3000)
    _, first = seen(Index(), a)
    _, second = seen(first, b)
    assert not any(seen(first, b)[0])
    assert all(seen(second, b)[0])
    with pytest.raises(ValueError, match="read-only"):
        second.runs[0].hi[0] = 1


def test_segments_rebuild_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedupe, "RESTORED", 1500)
    rng = np.random.default_rng(6)
    key = hashed(rng, 4000)
    index = Index()
    segments: list[tuple[int, Words, Words]] = []
    for k, part in enumerate(np.split(key, 8)):
        _, index = seen(index, part, (1 + k % 3) * HOUR)
        segments += [(end, *words) for end, words in dedupe.fresh_by_window(index).items()]
        index = msgspec.structs.replace(index, fresh=())
    again = dedupe.rebuilt({HOUR: 3, 2 * HOUR: 3, 3 * HOUR: 2}, iter(segments), None)
    assert content(again) == content(index)
    assert all(seen(again, key)[0])


def content(index: Index) -> set[tuple[int, int, int]]:
    held = dedupe.keys(index)
    return set(zip(held.hi.tolist(), held.lo.tolist(), held.end_ms.tolist(), strict=True))


@pytest.mark.parametrize("n", [1, 2, 17, 5000])
def test_positions_are_those_of_a_plain_search(n: int) -> None:
    rng = np.random.default_rng(n)
    hi = np.sort(np.concatenate([rng.integers(0, 2**64, n, dtype=np.uint64), np.full(3, 2**64 - 1, np.uint64)]))
    run = runs.run_of(hi, np.zeros_like(hi), {0: len(hi)})
    asked = np.concatenate([hi, hi - np.uint64(1), hi + np.uint64(1), np.array([0, 2**63], np.uint64)])
    assert (runs._positions(run, asked) == np.searchsorted(hi, asked)).all()
