"""The vectorised hash equals the reference implementation for every string, length, seed and layout."""

from collections.abc import Sequence

import numpy as np
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from controller.unit_hash import buckets_of, pack, unit_hashes, xxh64, xxh64_many, xxh64_spans

seeds = st.integers(0, 2**64 - 1)
# Runs of equal lengths take the vectorised path, lone strings the scalar one: both must be drawn often.
runs = st.lists(st.tuples(st.integers(0, 100), st.integers(1, 12), st.randoms(use_true_random=False)), max_size=4).map(
    lambda specs: [rng.randbytes(length) for length, count, rng in specs for _ in range(count)]
)


def reference(strings: list[bytes], seed: int = 0) -> list[int]:
    return [xxhash.xxh64_intdigest(string, seed) for string in strings]


@given(st.binary(max_size=200), seeds)
@example(b"", 0)
@example(b"x" * 32, 2**64 - 1)
def test_scalar_equals_the_reference(data: bytes, seed: int) -> None:
    assert xxh64(data, seed) == xxhash.xxh64_intdigest(data, seed)


@given(runs, seeds, st.binary(max_size=80))
def test_many_equal_the_reference(strings: list[bytes], seed: int, prefix: bytes) -> None:
    hashes = xxh64_many(*pack(strings), seed, prefix)
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == reference([prefix + string for string in strings], seed)


@pytest.mark.parametrize("prefix_length", [0, 1, 5, 8, 13, 40])
def test_every_length_around_the_block_sizes(prefix_length: int) -> None:
    rng = np.random.default_rng(prefix_length)
    prefix = rng.bytes(prefix_length)
    strings = [rng.bytes(length) for length in range(140) for _ in range(9)]
    assert xxh64_many(*pack(strings), prefix=prefix).tolist() == reference([prefix + string for string in strings])


def test_groups_longer_than_a_chunk_and_lengths_beyond_16_bits() -> None:
    strings = [str(n).encode() for n in range(70_000)] + [bytes(70_000)] * 2
    assert xxh64_many(*pack(strings)).tolist() == reference(strings)


@given(st.lists(st.text(max_size=40), max_size=30), st.text(max_size=12))
def test_units_of_text(units: list[str], salt: str) -> None:
    expected = reference([(salt + unit).encode() for unit in units])
    assert unit_hashes(units, salt).tolist() == expected
    assert unit_hashes([unit.encode() for unit in units], salt).tolist() == expected


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40), min_size=1))
def test_units_in_numpy_arrays(units: list[str]) -> None:
    expected = reference([("feed:" + unit).encode() for unit in units])
    assert unit_hashes(np.array(units), "feed:").tolist() == expected
    assert unit_hashes(np.array([unit.encode() for unit in units]), "feed:").tolist() == expected


def test_units_of_a_strided_numpy_array() -> None:
    units = np.array([b"u%d" % n for n in range(100)])
    assert unit_hashes(units[::-3], "").tolist() == reference(units[::-3].tolist())


@pytest.mark.parametrize(
    "units", [["a\0b", "c"], ["", ""], ["\0"], [b"\0", b"\0\0"], ["text", b"bytes"], [b"bytes", "é"]]
)
def test_units_that_the_fast_path_must_not_confuse(units: list[str | bytes]) -> None:
    encoded = [unit.encode() if isinstance(unit, str) else unit for unit in units]
    assert unit_hashes(units, "s").tolist() == reference([b"s" + unit for unit in encoded])


def test_units_longer_than_a_chunk_of_rows() -> None:
    units = [f"user{n}" for n in range(70_000)]
    assert unit_hashes(units, "feed:").tolist() == reference([("feed:" + unit).encode() for unit in units])


def test_no_units() -> None:
    assert unit_hashes([], "feed:").shape == (0,)
    assert unit_hashes(np.array([], "S"), "feed:").shape == (0,)


@pytest.mark.parametrize("units", [[5], ["a", 5], [None], [b"a", 1.5], "text", b"bytes"])
def test_units_of_other_types_are_refused(units: Sequence[object]) -> None:
    with pytest.raises(TypeError):
        unit_hashes(units, "feed:")  # type: ignore[arg-type]  # what is tested


def test_spans_may_overlap_and_lie_in_any_order() -> None:
    data = np.frombuffer(bytes(range(256)), np.uint8)
    starts, lengths = np.array([200, 0, 3, 3]), np.array([56, 256, 0, 9])
    expected = reference(
        [data[start : start + length].tobytes() for start, length in zip(starts, lengths, strict=True)]
    )
    assert xxh64_spans(data, starts, lengths).tolist() == expected


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 9), (8, 1), (2, -1)])
def test_spans_outside_the_data_are_refused(start: int, length: int) -> None:
    with pytest.raises(ValueError, match="inside the data's 8 bytes"):
        xxh64_spans(np.zeros(8, np.uint8), np.array([start]), np.array([length]))


@given(st.lists(seeds), st.integers(1, 2**31 - 1))
def test_buckets_are_the_remainder(hashes: list[int], buckets: int) -> None:
    assert buckets_of(np.array(hashes, np.uint64), buckets).tolist() == [h % buckets for h in hashes]
