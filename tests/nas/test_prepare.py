import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date, datetime
from pathlib import Path
from threading import Event

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas.columns import labels, numbers
from nas.encoding import FARTHEST, encode, learned
from nas.prepare import Sources, prepare
from nas.readers import Source
from nas.schema import DataError, Field, Head, Schema
from nas.splits import Split, part_of
from tests.nas.files import SCHEMA, parquet_file, parts, world


def changed(name: str, values: object) -> pa.Table:
    table = world(200)
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    found = parts(tmp_path)
    assert len(found.train) + len(found.valid) + len(found.test) == 3000
    dense = np.concatenate([np.asarray(part.features.dense) for part in (found.train, found.valid, found.test)])
    assert abs(np.asarray(found.train.features.dense).mean()) < 1e-4
    assert dense.shape == (3000, 2)
    assert found.encoding.table_rows == (1 + 6) + (1 + 4) + (1 + 5)
    assert found.train.features.bags[0].shape[1] == 3
    assert not np.isnan(np.asarray(found.train.truth)).any()


def test_the_digest_names_the_data_and_a_prepared_folder_is_used_again(tmp_path: Path) -> None:
    first = parts(tmp_path)
    stamp = (tmp_path / "prepared" / "prepared.json").stat().st_mtime_ns
    again = prepare(
        Sources(whole=Source("parquet", (str(tmp_path / "log.parquet"),))),
        SCHEMA,
        Split(by="group", valid=0.2, test=0.2),
        tmp_path / "prepared",
    )
    assert again.digest == first.digest
    assert (tmp_path / "prepared" / "prepared.json").stat().st_mtime_ns == stamp
    (tmp_path / "other").mkdir()
    assert parts(tmp_path / "other", rows=2990).digest != first.digest


def test_files_are_the_same_however_their_paths_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parquet_file(tmp_path, world(300))
    (tmp_path / "sub").mkdir()
    said: list[str] = []
    for folder, path in ((tmp_path, "log.parquet"), (tmp_path, "./log.parquet"), (tmp_path / "sub", "../log.parquet")):
        monkeypatch.chdir(folder)
        sources = Sources(whole=msgspec.structs.replace(source, files=(path,)))
        prepare(sources, SCHEMA, Split(by="group"), tmp_path / "prepared", said.append)
    assert [text.split()[0] for text in said] == ["reading", "encoded"]


def test_a_kill_in_the_last_write_leaves_a_folder_that_is_prepared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.write_bytes

    def torn(path: Path, raw: bytes) -> int:
        if path.name.startswith("prepared.json"):
            whole(path, raw[:9])
            raise KeyboardInterrupt
        return whole(path, raw)

    monkeypatch.setattr(Path, "write_bytes", torn)
    with pytest.raises(KeyboardInterrupt):
        parts(tmp_path, rows=300)
    monkeypatch.undo()
    assert len(parts(tmp_path, rows=300).train)


def test_of_two_that_prepare_one_folder_the_second_waits_and_uses_what_the_first_made(tmp_path: Path) -> None:
    source, split = Sources(whole=parquet_file(tmp_path, world(2000))), Split(by="group", valid=0.2, test=0.2)
    alone = prepare(source, SCHEMA, split, tmp_path / "alone")
    said: list[str] = []
    told: list[str] = []
    waits = Event()

    def say(text: str) -> None:
        said.append(text)
        assert waits.wait(60)

    def tell(text: str) -> None:
        told.append(text)
        waits.set()

    with ThreadPoolExecutor(2) as pool:
        found = [*pool.map(lambda _: prepare(source, SCHEMA, split, tmp_path / "prepared", say, tell), range(2))]
    assert [text.split()[0] for text in said] == ["reading", "encoded"]
    assert [text.split()[0] for text in told] == ["waiting"]
    for one in found:
        assert one.digest == alone.digest
        for name, array in alone.train.arrays().items():
            np.testing.assert_array_equal(one.train.arrays()[name], array)


def test_rows_that_are_used_are_replaced_by_no_others(tmp_path: Path) -> None:
    source = Sources(whole=parquet_file(tmp_path, world(300)))

    def digest(seed: int, using: ExitStack | None = None) -> str:
        return prepare(source, SCHEMA, Split(seed=seed), tmp_path / "prepared", using=using).digest

    with ExitStack() as first:
        held = digest(0, first)
        with ExitStack() as second:
            assert digest(0, second) == held
        with pytest.raises(DataError, match="prepared: another command uses the rows there, which are of other files"):
            digest(1)
        assert digest(0) == held
    assert digest(1) != held


def test_who_is_killed_while_it_prepares_keeps_nobody_out(tmp_path: Path) -> None:
    parquet_file(tmp_path, world(300))
    code = (
        "import sys, time; from pathlib import Path; from nas import prepare; from tests.nas.files import parts\n"
        "prepare._refuse_empty = lambda *_: (print('begun', flush=True), time.sleep(60))\n"
        "parts(Path(sys.argv[1]), rows=300)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.kill()
    said: list[str] = []
    source, split = Sources(whole=Source("parquet", (str(tmp_path / "log.parquet"),))), Split(by="group")
    assert len(prepare(source, SCHEMA, split, tmp_path / "prepared", said.append).train)
    assert said[0].startswith("reading training rows")


def test_what_is_prepared_where_nothing_can_be_written_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, lock = Sources(whole=parquet_file(tmp_path, world(300))), tmp_path / "prepared.lock"
    first = prepare(source, SCHEMA, Split(), tmp_path / "prepared")
    lock.unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    assert prepare(source, SCHEMA, Split(), tmp_path / "prepared").digest == first.digest
    assert not lock.exists()


def test_rows_that_somebody_reads_stay_while_others_are_prepared_in_their_place(tmp_path: Path) -> None:
    first = parts(tmp_path, rows=300)
    before = np.array(first.train.labels)
    second = parts(tmp_path, rows=300, split=Split(by="rows", valid=0.3, test=0.3))
    assert len(second.train) != len(before)
    np.testing.assert_array_equal(first.train.labels, before)


def test_chunks_do_not_change_what_is_learned() -> None:
    table = world(500)
    whole = learned([table], SCHEMA)
    pieces = learned([table.slice(i, 90) for i in range(0, 500, 90)], SCHEMA)
    assert [code.values for code in whole.sparse] == [code.values for code in pieces.sparse]
    assert np.allclose([(c.mean, c.sd) for c in whole.dense], [(c.mean, c.sd) for c in pieces.dense], rtol=1e-9)


def test_an_unseen_category_and_nan_have_the_documented_treatment() -> None:
    encoding = learned([world(300)], SCHEMA)
    odd = changed("city", ["nowhere", None, *["c1"] * 198])
    odd = odd.set_column(0, "age", pa.array([float("nan"), None, *[40.0] * 198]))
    odd = odd.set_column(4, "tags", pa.array(["t1|never|t2|t3", "", *["t0"] * 198]))
    coded = encode(odd, encoding)
    start = encoding.sparse[0].start
    assert coded.sparse[:3, 0].tolist() == [start, start, start + 1 + encoding.sparse[0].values.index("c1")]
    assert coded.dense[:2, 0].tolist() == [0.0, 0.0]
    bag = encoding.bags[0]
    assert coded.bags[0][0].tolist() == [bag.start + 2, bag.start, bag.start + 3]  # never: unknown; t3: beyond longest
    assert coded.bags[0][1].tolist() == [-1, -1, -1]


def test_rows_that_a_field_cuts_are_told(tmp_path: Path) -> None:
    table = world(300)
    tags = [text[:8] for text in table["tags"].to_pylist()]
    tags[0], tags[200], tags[201] = "t0|t1|t2|t3|t4", "t0|t1|t2|t3", "|t0||t1|t2|"
    source = Sources(whole=parquet_file(tmp_path, table.set_column(4, "tags", pa.array(tags))))
    said: list[str] = []
    for _ in range(2):
        prepare(source, SCHEMA, Split(), tmp_path / "prepared", tell=said.append)
    assert said == [
        "tags: 2 of 300 rows hold more than 3 values, up to 5; the first are kept, more with a larger `longest` of its "
        "[[fields]]"
    ]


def test_an_empty_item_of_a_list_is_none() -> None:
    encoding = learned([world(300)], SCHEMA)
    bag = encoding.bags[0]
    wanted = [[bag.start + 1 + bag.values.index(f"t{i}") for i in (0, 1, 2)]] * 4
    texts = ["|t0|t1|t2", "t0||t1| |NULL|t2|t3", "t0|t1|t2|", "t0|t1|t2", *["t0"] * 196]
    lists = [["", "t0", None, "t1", "t2"], *[["t0", "t1", "t2"]] * 3, *[["t0"]] * 195, None]
    for values in (texts, lists):
        assert encode(changed("tags", values), encoding).bags[0][:4].tolist() == wanted


def test_rare_is_what_few_rows_hold() -> None:
    texts = ["z|z|t0", "t0|t1|", "|t1", *[""] * 197]
    lists = [["z", "z", "t0", "z"], ["t0", None, "t1"], ["t1", ""], *[None] * 197]
    for values in (texts, lists, ["z|z", *[None] * 199]):
        table = changed("tags", values)
        found = learned([table.slice(0, 1), table.slice(1)], SCHEMA).bags[0].values
        assert found == (("t0", "t1") if values[1] else ())


def test_hashed_and_quantile_fields() -> None:
    schema = Schema(
        fields=(
            Field(name="income", kind="dense", transform="quantile"),
            Field(name="city", kind="categorical", buckets=3),
        ),
        heads=SCHEMA.heads,
    )
    coded = encode(world(2000), learned([world(2000)], schema))
    assert abs(coded.dense.mean()) < 0.01
    assert abs(coded.dense.std() - 1) < 0.01
    assert set(np.unique(coded.sparse)) <= {1, 2, 3}


def test_a_quantile_is_a_rank_also_where_values_repeat() -> None:
    schema = Schema(fields=(Field(name="spent", kind="dense", transform="quantile"),), heads=SCHEMA.heads)
    rng = np.random.default_rng(4)
    spent = np.where(rng.random(2000) < 0.9, 0.0, rng.exponential(10.0, 2000))
    table = pa.table({"spent": spent, "click": [0.0] * 2000, "like": [0.0] * 2000, "true_like": [0.5] * 2000})
    code = learned([table], schema)
    coded = encode(table, code).dense[:, 0]
    assert abs(coded.mean()) < 1e-5
    assert abs(coded.std() - 1.0) < 1e-3
    ranks, first = stats.rankdata(spent) / 2000, np.quantile(spent, 59 / 64)
    told = coded * code.dense[0].sd + code.dense[0].mean
    known = (spent == 0.0) | (spent >= first)  # between frequent zeros and the next knot nobody knows the ranks
    np.testing.assert_allclose(told[known], ranks[known], atol=0.02)
    assert encode(pa.table({"spent": [np.nextafter(0.0, 1.0)]}), code).dense[0, 0] == pytest.approx(
        coded[spent == 0.0][0]
    )
    assert encode(pa.table({"spent": pa.array([None], pa.float64())}), code).dense[0, 0] == 0.0


def test_a_vocabulary_is_of_rows_that_are_trained_on(tmp_path: Path) -> None:
    n = 300
    city = ["seen"] * n
    click: list[float | None] = [float(i % 2) for i in range(n)]
    for row in range(0, n, 5):
        city[row], click[row] = "never shown", None
    table = world(n)
    for name, values in (("city", city), ("click", click), ("like", click)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    source = Sources(whole=parquet_file(tmp_path, table))
    found = prepare(source, SCHEMA, Split(by="time", valid=0.2, test=0.2), tmp_path / "prepared")
    assert found.encoding.sparse[0].values == ("seen",)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "click",
            [2.0, *[0.0] * 199],
            r"log\.parquet, row 1, column 'click': found 2; as a label expected 0, 1 or nothing",
        ),
        (
            "age",
            ["old", *["1"] * 199],
            r"log\.parquet, row 1, column 'age': found 'old'; expected a number, or what data\.missing lists",
        ),
        ("age", [*["1"] * 199, "n/a"], r"row 200, column 'age': found 'n/a'"),
        ("age", [float("inf"), *[1.0] * 199], r"row 1, column 'age': infinite"),
        ("age", [1.0, 1e300, *[1.0] * 198], r"row 2, column 'age': found 1e\+300; expected a number, at most 1e\+30"),
        ("age", [[1.0]] * 200, "column 'age' holds lists, so its field is of kind \"multi\""),
        ("click", ["true", *["0"] * 199], r"row 1, column 'click': found 'true'.*a text is one where `positive`"),
        ("true_like", [1.5, *[0.5] * 199], r"row 1, column 'true_like': found 1.5; expected a probability"),
        ("like", [0.0] * 200, r"head 'like': no training row's 'like' is 1"),
        ("ts_ms", [None, *range(199)], r"log\.parquet, row 1, column 'ts_ms': a row has no time"),
        ("ts_ms", [datetime(2026, 1, 1)] * 200, r"log\.parquet: column 'ts_ms': found timestamp\[us\]; expected numb"),
        ("age", [date(2026, 1, 1)] * 200, r"log\.parquet: column 'age': found date32\[day\]; expected numbers"),
        ("like", [date(2026, 1, 1)] * 200, r"column 'like': found date32\[day\]; expected numbers; as a label 0, 1"),
        ("like", [[1.0]] * 200, r"log\.parquet: column 'like': found list<.*>; expected values"),
        ("request", [{"a": 1}] * 200, r"log\.parquet: column 'request': found struct<.*>; expected values"),
        (
            "age",
            pa.array(["1", "NULL", "old", *["2"] * 197]).dictionary_encode(),
            r"log\.parquet, row 3, column 'age': found 'old'; expected a number",
        ),
        (
            "request",
            ["r0", None, *["r1"] * 198],
            r"log\.parquet, row 2, column 'request': nothing says of which request",
        ),
        ("request", [*["r1"] * 199, " "], r"row 200, column 'request': nothing says of which request"),
        ("request", [float("nan"), *range(199)], r"row 1, column 'request': nothing says of which request"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, values: object, message: str) -> None:
    source = parquet_file(tmp_path, changed(name, values))
    with pytest.raises(DataError, match=message):
        prepare(Sources(whole=source), SCHEMA, Split(by="time", valid=0.2, test=0.2), tmp_path / "prepared")


@pytest.mark.parametrize("missing", ["", "NULL"])
def test_rows_that_name_no_request_are_not_one_group(missing: str, tmp_path: Path) -> None:
    source = parquet_file(tmp_path, changed("request", [*map(str, range(150)), *[missing] * 50]))
    with pytest.raises(DataError, match=r"log\.parquet, row 151, column 'request': nothing says of which request"):
        prepare(Sources(whole=source), SCHEMA, Split(by="group", valid=0.2, test=0.2), tmp_path / "prepared")


def test_the_row_that_is_named_is_the_file_s_own(tmp_path: Path) -> None:
    first = parquet_file(tmp_path, world(300))
    wrong = world(300).set_column(0, "age", pa.array([*["1"] * 123, "old", *["1"] * 176]))
    second = parquet_file(tmp_path, wrong, "second.parquet")
    source = Source("parquet", (*first.files, *second.files))
    with pytest.raises(DataError, match=r"second\.parquet, row 124, column 'age': found 'old'"):
        prepare(Sources(whole=source), SCHEMA, Split(by="group", valid=0.2, test=0.2), tmp_path / "prepared")


def test_what_is_not_prepared_rows_is_never_removed(tmp_path: Path) -> None:
    source = parquet_file(tmp_path, world(300))
    split = Split(by="group", valid=0.2, test=0.2)
    with pytest.raises(DataError, match=r"log\.parquet: lies in"):
        prepare(Sources(whole=source), SCHEMA, split, tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    with pytest.raises(DataError, match="holds something else than prepared rows"):
        prepare(Sources(whole=source), SCHEMA, split, tmp_path / "mine")
    assert (tmp_path / "log.parquet").exists()
    assert (tmp_path / "mine" / "notes").exists()
    folder = tmp_path / "prepared"
    folder.mkdir()
    (folder / "preparing").touch()
    inside = parquet_file(folder, world(300))
    with pytest.raises(DataError, match=r"log\.parquet: lies in .*prepared, which prepared rows take the place of"):
        prepare(Sources(whole=inside), SCHEMA, split, folder)
    assert (folder / "log.parquet").exists()
    with pytest.raises(DataError, match="no such file"):  # a preparation that ended early
        prepare(Sources(whole=Source("parquet", ("none",))), SCHEMA, split, folder)
    assert len(prepare(Sources(whole=source), SCHEMA, split, folder).train) > 0


def test_moments_hold_beside_a_large_mean() -> None:
    """Milliseconds since 1970 that spread over an hour."""
    rng = np.random.default_rng(3)
    values = 1.7e12 + rng.normal(0.0, 3.6e6, 900)
    table = world(900).set_column(0, "age", pa.array(values))
    (code, _) = learned([table.slice(i, 90) for i in range(0, 900, 90)], SCHEMA).dense
    assert (code.mean, code.sd) == pytest.approx((values.mean(), values.std()), rel=1e-9)


def test_a_new_row_lies_no_further_out_than_training_rows_can() -> None:
    encoding = learned([world(900)], SCHEMA)
    coded = encode(world(900).set_column(0, "age", pa.array([1e29, -1e29, *[40.0] * 898])), encoding)
    assert coded.dense[:2, 0].tolist() == [FARTHEST, -FARTHEST]


def test_an_empty_part_is_refused(tmp_path: Path) -> None:
    source = parquet_file(tmp_path, world(5))
    with pytest.raises(DataError, match="part is empty"):
        prepare(Sources(whole=source), SCHEMA, Split(by="group", valid=0.3, test=0.3), tmp_path / "prepared")


def test_validation_rows_that_count_nothing_are_refused(tmp_path: Path) -> None:
    table = world(200).append_column("w", pa.array(np.r_[np.ones(100), np.zeros(50), np.ones(50)]))
    schema = msgspec.structs.replace(SCHEMA, weight="w")
    source = parquet_file(tmp_path, table)
    with pytest.raises(DataError, match="head 'click': no validation row of a 'w' above 0 has a 'click'"):
        prepare(Sources(whole=source), schema, Split(by="time", valid=0.2, test=0.25), tmp_path / "prepared")


def test_rows_without_any_label_are_left_out_and_a_missing_label_is_unobserved(tmp_path: Path) -> None:
    table = world(600)
    click = [None if i % 3 == 0 else v for i, v in enumerate(table["click"].to_pylist())]
    like = [None if i % 6 == 0 else v for i, v in enumerate(table["like"].to_pylist())]
    table = table.set_column(5, "click", pa.array(click)).set_column(6, "like", pa.array(like))
    source = Sources(whole=parquet_file(tmp_path, table))
    untold = msgspec.structs.replace(
        SCHEMA, heads=tuple(msgspec.structs.replace(head, truth=None) for head in SCHEMA.heads)
    )
    found = prepare(source, untold, Split(), tmp_path / "untold")
    everything = np.concatenate([np.asarray(p.labels) for p in (found.train, found.valid, found.test)])
    assert np.isnan(everything).sum(axis=0).tolist() == [100, 0]
    assert len(everything) == 500
    told = prepare(source, SCHEMA, Split(), tmp_path / "told")  # not shown, but it could have been: its truth counts
    assert len(told.train) == len(found.train)
    assert len(told.valid) + len(told.test) > len(found.valid) + len(found.test)


def test_given_files_stay_what_they_are(tmp_path: Path) -> None:
    sources = Sources(
        train=parquet_file(tmp_path, world(300, 1), "a"),
        valid=parquet_file(tmp_path, world(100, 2), "b"),
        test=parquet_file(tmp_path, world(50, 3), "c"),
    )
    found = prepare(sources, SCHEMA, Split(), tmp_path / "prepared")
    assert (len(found.train), len(found.valid), len(found.test)) == (300, 100, 50)


def test_time_splits_hold_out_the_newest(tmp_path: Path) -> None:
    found = parts(tmp_path, split=Split(by="time", valid=0.1, test=0.2))
    times = [np.asarray(p.time) for p in (found.train, found.valid, found.test)]
    assert times[0].max() < times[1].min() <= times[1].max() < times[2].min()
    assert [len(t) for t in times] == [2100, 300, 600]


@given(seed=st.integers(0, 99), fold=st.integers(0, 9))
def test_equal_features_stay_together_and_folds_rotate(seed: int, fold: int) -> None:
    table = pa.concat_tables([world(50), world(50), world(60)])
    split = Split(by="distinct", folds=10, fold=fold, seed=seed)
    part = part_of(table, 0, SCHEMA, split, None)
    assert (part[:50] == part[50:100]).all()
    test_of_next = part_of(table, 0, SCHEMA, Split(by="distinct", folds=10, fold=(fold + 1) % 10, seed=seed), None) == 2
    assert ((part == 1) == test_of_next).all()


def test_any_number_is_a_seed() -> None:
    drawn = [part_of(world(100), 0, SCHEMA, Split(seed=seed), None).tolist() for seed in (-2, -1, 0, 20260101)]
    assert all(drawn.count(one) == 1 for one in drawn)


def test_requests_stay_whole() -> None:
    part = part_of(world(400), 0, SCHEMA, Split(by="group", valid=0.3, test=0.3), None)
    assert (part.reshape(-1, 10) == part.reshape(-1, 10)[:, :1]).all()
    assert len(np.unique(part)) == 3


def test_a_time_in_nanoseconds_is_a_number() -> None:
    table = pa.table({"ts_ms": np.arange(5) * 10**9 + 1_700_000_000_123_456_789})
    found = numbers(table, "ts_ms", SCHEMA)
    assert np.diff(found) == pytest.approx(1e9)


def test_labels_may_be_texts() -> None:
    table = pa.table({"y": [" 50000+.", "- 50000."]})
    head = Head(name="rich", label="y", positive="50000+.")
    assert labels(table, head, SCHEMA).tolist() == [1.0, 0.0]


@pytest.mark.skipif("TRIMTAB_DATA" not in os.environ, reason="TRIMTAB_DATA names no folder with census_income")
def test_census_income_is_read(tmp_path: Path) -> None:
    from benchmarks._nas_census import census, source

    folder = Path(os.environ["TRIMTAB_DATA"]) / "census_income"
    found = prepare(Sources(whole=source(folder)), census("income"), Split(by="distinct", folds=10), tmp_path / "p")
    rate = np.asarray(found.train.labels).mean()
    assert 0.05 < rate < 0.08
    assert sum(map(len, (found.train, found.valid, found.test))) == 99_762
