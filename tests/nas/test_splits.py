"""Which part a row belongs to: shares and cuts by counting, and the draw against its published generator."""

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from numpy.typing import NDArray

from nas.columns import ROW
from nas.schema import DataError, Field, Head, Schema
from nas.splits import PARTS, TEST, TRAIN, VALID, Split, hashed, mixed, part_of, requests, time_cuts

SCHEMA = Schema(
    fields=(Field(name="a", kind="categorical"), Field(name="b", kind="categorical")),
    heads=(Head(name="click", label="click"),),
    time="at",
    request="request",
    missing=("-",),
)


def table(n: int, **columns: object) -> pa.Table:
    """Rows that all differ in both features, of requests of four."""
    plain = {"a": np.arange(n), "b": np.arange(n)[::-1], "at": np.arange(float(n)), "request": np.arange(n) // 4}
    return pa.table({**plain, **columns})


def parts(split: Split, rows: pa.Table) -> NDArray[np.uint8]:
    return part_of(rows, 0, SCHEMA, split, None)


def test_the_newest_are_held_out_in_the_shares_that_were_asked_for() -> None:
    times = np.random.default_rng(0).permutation(200.0 + np.arange(100.0))
    split = Split(by="time", valid=0.1, test=0.2)
    cuts = time_cuts(iter((times[:30], times[30:])), split)
    assert (cuts.valid, cuts.test) == (270.0, 280.0)
    part = part_of(table(100, at=times), 0, SCHEMA, split, cuts)
    assert part.tolist() == [TRAIN if at < 270 else VALID if at < 280 else TEST for at in times]
    between = time_cuts([np.array([0.0, 1.0, 2.0])], Split(by="time", valid=0.3, test=0.3))
    assert (between.valid, between.test) == (1.0, 2.0), "a cut is a time that some row has"


def test_a_split_by_time_needs_times() -> None:
    untimed = Schema(fields=SCHEMA.fields, heads=SCHEMA.heads)
    for schema, cuts in ((untimed, time_cuts([np.arange(9.0)], Split())), (SCHEMA, None)):
        with pytest.raises(DataError, match="names no time column"):
            part_of(table(9), 0, schema, Split(by="time"), cuts)


@pytest.mark.parametrize("by", ["rows", "group", "distinct"])
def test_a_draw_has_the_shares_that_were_asked_for_and_is_the_seed_s(by: str) -> None:
    n = 20_000
    rows, drawn = table(n, request=np.arange(n)), []
    for seed in (0, 1):
        part = parts(Split(by=by, valid=0.1, test=0.3, seed=seed), rows)  # type: ignore[arg-type]
        shares = np.bincount(part, minlength=len(PARTS)) / n
        error = np.sqrt(np.array([0.6 * 0.4, 0.1 * 0.9, 0.3 * 0.7]) / n)
        assert (np.abs(shares - [0.6, 0.1, 0.3]) < 4 * error).all()
        drawn.append(part)
    assert np.mean(drawn[0] == drawn[1]) == pytest.approx(0.6**2 + 0.1**2 + 0.3**2, abs=0.02)


@pytest.mark.parametrize("by", ["rows", "group", "distinct"])
def test_every_row_is_tested_in_one_fold_and_validates_the_one_before(by: str) -> None:
    rows = table(3000, request=np.arange(3000))
    part = np.array([parts(Split(by=by, folds=3, fold=fold), rows) for fold in range(3)])  # type: ignore[arg-type]
    assert ((part == TEST).sum(axis=0) == 1).all()
    assert (np.roll(part, 1, axis=0)[part == TEST] == VALID).all()
    assert (np.abs((part == TEST).mean(axis=1) - 1 / 3) < 4 * np.sqrt(2 / 9 / 3000)).all()


@pytest.mark.parametrize("by", ["rows", "group", "distinct"])
def test_a_row_s_part_does_not_depend_on_how_the_data_are_read(by: str) -> None:
    rows, split = table(100), Split(by=by, valid=0.3, test=0.3)  # type: ignore[arg-type]
    pieces = [part_of(rows.slice(at, 30), at, SCHEMA, split, None) for at in range(0, 100, 30)]
    assert np.concatenate(pieces).tolist() == parts(split, rows).tolist()


def test_rows_that_differ_in_one_feature_or_have_them_exchanged_are_drawn_apart() -> None:
    n, split = 4000, Split(by="distinct", valid=0.3, test=0.3)
    x, other = np.arange(n), np.arange(n) + n
    first = parts(split, table(n, a=x, b=x + 1))
    for a, b in ((other, x + 1), (x, other), (x + 1, x)):
        assert np.mean(first == parts(split, table(n, a=a, b=b))) == pytest.approx(0.16 + 2 * 0.09, abs=0.04)


def test_keys_are_spread_as_by_splitmix64() -> None:
    """The generator's first numbers from state 0: https://prng.di.unimi.it/splitmix64.c."""
    expected = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
    assert [int(mixed(np.zeros(1, np.uint64), seed)[0]) for seed in range(3)] == list(expected)
    assert mixed(np.zeros(1, np.uint64), -1).tolist() == mixed(np.zeros(1, np.uint64), 2**64 - 1).tolist() == [0]


def test_a_hash_is_that_of_the_value_s_text_and_of_a_list_that_of_its_values() -> None:
    found = hashed(pa.chunked_array([[7, None], [7, 8]]))
    assert found.tolist() == [xxhash.xxh64_intdigest(text) for text in (b"7", b"None", b"7", b"8")]
    assert len(hashed(pa.chunked_array([], pa.string()))) == 0
    lists = hashed(pa.chunked_array([[["ab", "c"], ["a", "bc"], ["ab", "c"]]]))
    assert lists[0] == lists[2] != lists[1]


@pytest.mark.parametrize("unsaid", ["-", "", None])
def test_a_row_of_no_request_is_named(unsaid: str | None) -> None:
    rows = table(4, request=["r", "r", unsaid, "s"], **{ROW: [7, 8, 9, 10]})
    with pytest.raises(DataError, match=r"row 9, column .request.: nothing says of which request the row is"):
        requests(rows, SCHEMA)
    assert len(np.unique(requests(rows.slice(0, 2), SCHEMA))) == 1
    unnamed = Schema(fields=SCHEMA.fields, heads=SCHEMA.heads)
    with pytest.raises(DataError, match="names no request column"):
        requests(rows, unnamed)
