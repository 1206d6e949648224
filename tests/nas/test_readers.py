import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from nas.columns import ROW
from nas.encoding import encode, learned
from nas.layouts import AVAZU, CRITEO, KDD12, avazu, criteo, kdd12, ranking_log
from nas.readers import Source
from nas.schema import DataError, Field, Head, Schema
from nas.splits import Split, part_of, requests
from tests.nas.files import SCHEMA, parquet_file, world


def read(source: Source, schema: Schema) -> pa.Table:
    return pa.concat_tables(source.chunks(schema))


def test_csv_tsv_gzip_and_parquet_hold_the_same(tmp_path: Path) -> None:
    table = world(200)
    csv.write_csv(table, tmp_path / "a.csv")
    csv.write_csv(table, tmp_path / "a.tsv", csv.WriteOptions(delimiter="\t"))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    parquet.write_table(table, tmp_path / "a.parquet")
    files = {"a.csv": "csv", "a.tsv": "tsv", "a.csv.gz": "csv", "a.parquet": "parquet"}
    for name, layout in files.items():
        found = read(Source(layout, (str(tmp_path / name),)), SCHEMA)  # type: ignore[arg-type]
        assert found["city"].to_pylist() == table["city"].to_pylist(), name
        assert [float(v) for v in found["click"].to_pylist()] == table["click"].to_pylist(), name


@pytest.mark.parametrize("rows", [1, 20_000])
def test_a_text_in_another_encoding_is_named_by_its_line(rows: int, tmp_path: Path) -> None:
    wrong = b"x,1\n" * rows + b'"a, caf\xe9",0\n'
    (tmp_path / "a.csv").write_bytes(b"name,click\n" + wrong)
    with pytest.raises(
        DataError, match=rf"a\.csv, line {rows + 2}, column 1: found the byte 0xe9; expected text in UTF"
    ):
        read(Source("csv", (str(tmp_path / "a.csv"),)), ONE_COLUMN)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"click\tname\n" + b"1\tx\n" * rows + b"0\t\xfc\n"))
    with pytest.raises(DataError, match=rf"a\.tsv\.gz, line {rows + 2}, column 2: found the byte 0xfc"):
        read(Source("tsv", (str(tmp_path / "a.tsv.gz"),)), ONE_COLUMN)


def test_a_file_that_is_broken_otherwise_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(b"name,click\n" + b"x,1\n" * 100_000)
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "plain.csv.gz").write_bytes(b"name,click\nx,1\n")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "long.csv").write_bytes(b"name,click\n" + b'"' + b"x" * 200_000 + b'\xe9",1\n')
    for name in ("cut.csv.gz", "plain.csv.gz", "folder.csv", "long.csv"):
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            read(Source("csv", (str(tmp_path / name),)), ONE_COLUMN)


def test_a_header_as_spreadsheets_write_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbf"city, town",click\r\n"a, b",1\r\nc,0\r\n')
    fields = (Field(name="city, town", kind="categorical"),)
    schema = Schema(fields=fields, heads=(Head(name="click", label="click"),))
    assert read(Source("csv", (str(path),)), schema)["city, town"].to_pylist() == ["a, b", "c"]
    path.write_text("click,click\n1,0\n")
    with pytest.raises(DataError, match="the header names 'click' twice"):
        read(Source("csv", (str(path),)), schema)


ONE_COLUMN = Schema(fields=(Field(name="name", kind="categorical"),), heads=(Head(name="click", label="click"),))


def test_between_tabs_a_stray_quote_joins_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    texts = ['"x', 'y"', '5" pipe', '"', '"a" or "b"', "plain"]
    path.write_text("name\tclick\n" + "".join(f"{text}\t1\n" for text in texts))
    assert read(Source("tsv", (str(path),)), ONE_COLUMN)["name"].to_pylist() == texts
    path.write_text('"name"\t"click"\n"say ""x"""\t"1"\n""\t0\n\'é\'\t0\n"é"\t0\n')  # as pandas quotes
    found = read(Source("tsv", (str(path),)), ONE_COLUMN)
    assert found["name"].to_pylist() == ['say "x"', "", "'é'", "é"]
    assert found["click"].to_pylist() == ["1", "0", "0", "0"]
    path.write_text('name\tclick\n"a\tb"\t1\n')
    with pytest.raises(DataError, match=r"a\.tsv: not readable as tsv: .*Expected 2 columns, got 3"):
        read(Source("tsv", (str(path),)), ONE_COLUMN)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("lines", "where"),
    [
        (["u1,1", '5" nail,0', '"u2,1', "u3,0"], "line 6, column 1"),  # one value up to the end: a row of one column
        (["u1,1", 'u2,"1', "u3,0"], "line 5, column 2"),  # which Arrow takes where it is the last column
        (["u1,1", '"u2,1', 'u3",0', "u4,1"], "line 5, column 1"),  # up to another stray quote
    ],
)
def test_a_quote_that_nothing_closes_is_named_by_its_line(
    lines: list[str], where: str, packed: bool, tmp_path: Path
) -> None:
    schema = Schema(fields=(Field(name="name", kind="categorical"),), heads=(Head(name="click", label="click"),))
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    sound = ["name,click", '"Oslo, ""No""",1', "", 'a"b,0', '"c"d,0']
    text = "\n".join([*sound[:3], *lines]).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    with pytest.raises(DataError, match=rf"{path.name}, {where}: found a quote that nothing closes"):
        read(Source("csv", (str(path),)), schema)
    path.with_name("b.csv").write_text("\r\n".join(sound))
    found = read(Source("csv", (str(path.with_name("b.csv")),)), schema)
    assert found["name"].to_pylist() == ['Oslo, "No"', 'a"b', "cd"]


def test_criteo_and_kdd12_know_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("".join("\t".join(["1", *["3"] * 13, *[text] * 26]) + "\n" for text in ('"ab', "cd", 'e"', '"f"')))
    assert read(Source("criteo", (str(path),)), criteo())["C1"].to_pylist() == ['"ab', "cd", 'e"', '"f"']
    path.write_text("".join("\t".join(["1", "1", *[text] * 10]) + "\n" for text in ('"7', "8", '9"')))
    assert read(Source("kdd12", (str(path),)), kdd12())["ad"].to_pylist() == ['"7', "8", '9"']


@pytest.mark.parametrize("blank", ["\n", "\r\n \r\n", "\ufeff\n\n"])
def test_lines_before_the_header_that_hold_nothing_are_passed_over(blank: str, tmp_path: Path) -> None:
    for name, layout, by in (("a.csv", "csv", ","), ("a.tsv", "tsv", "\t")):
        (tmp_path / name).write_text(f"{blank}name{by}click\nx{by}1\n\ny{by}0\n", encoding="utf-8", newline="")
        found = read(Source(layout, (str(tmp_path / name),)), ONE_COLUMN)  # type: ignore[arg-type]
        assert found["name"].to_pylist() == ["x", "y"]
    (tmp_path / "c.tsv").write_text("\n" + "\t".join(CRITEO) + "\n")
    (table,) = Source("criteo", (str(tmp_path / "c.tsv"),)).chunks(criteo(), labels=False)
    assert table["I1"].to_pylist() == ["I1"]
    (tmp_path / "a.csv").write_text(blank)
    with pytest.raises(DataError, match=r"a\.csv: the file is empty"):
        read(Source("csv", (str(tmp_path / "a.csv"),)), ONE_COLUMN)


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.string(), 2)])
def test_lists_of_every_form_are_multi_valued(kind: pa.DataType, tmp_path: Path) -> None:
    table = world(40)
    tags = pa.array([[f"t{i % 3}", "t3"] for i in range(40)], kind)
    source = parquet_file(tmp_path, table.set_column(table.column_names.index("tags"), "tags", tags))
    (chunk,) = source.chunks(SCHEMA)
    encoding = learned([chunk], SCHEMA)
    assert encoding.bags[0].values == ("t0", "t1", "t2", "t3")
    assert (encode(chunk, encoding).bags[0][:, :2] > encoding.bags[0].start).all()
    part = part_of(chunk, 0, SCHEMA, Split(by="distinct"), None)
    plain = chunk.set_column(chunk.column_names.index("tags"), "tags", tags.cast(pa.list_(pa.string())))
    assert (part == part_of(plain, 0, SCHEMA, Split(by="distinct"), None)).all()


@pytest.mark.parametrize("values", [[{"a": 1}] * 40, [[{"a": 1}]] * 40])
def test_what_is_neither_a_value_nor_a_list_of_values_is_named(values: list[object], tmp_path: Path) -> None:
    table = world(40)
    source = parquet_file(tmp_path, table.set_column(table.column_names.index("tags"), "tags", pa.array(values)))
    with pytest.raises(DataError, match=r"log.parquet: column 'tags': found .*struct.*; expected values or lists of"):
        list(source.chunks(SCHEMA))


def test_a_missing_column_is_named_with_what_the_file_has(tmp_path: Path) -> None:
    csv.write_csv(world(5).drop_columns("device"), tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a\.csv: there is no column 'device'; the file has age, income, city"):
        read(Source("csv", (str(tmp_path / "a.csv"),)), SCHEMA)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: there is no such file"):
        read(Source("csv", (str(tmp_path / "none.csv"),)), SCHEMA)
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="not readable as parquet"):
        read(Source("parquet", (str(tmp_path / "x.parquet"),)), SCHEMA)
    (tmp_path / "e.csv").write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        read(Source("csv", (str(tmp_path / "e.csv"),)), SCHEMA)
    (tmp_path / "r.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(DataError, match="Expected 2 columns, got 1"):
        read(
            Source("csv", (str(tmp_path / "r.csv"),)),
            Schema(fields=(Field(name="a", kind="dense"),), heads=(Head(name="b", label="b"),)),
        )


def test_criteo_and_avazu(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("\t".join(["1", *["3"] * 13, *["ab"] * 26]) + "\n")
    found = read(Source("criteo", (str(tmp_path / "c.tsv"),)), criteo())
    assert set(found.column_names) - {ROW} == set(CRITEO)
    assert found["label"].to_pylist() == ["1"]
    (tmp_path / "a.csv").write_text(",".join(AVAZU) + "\n" + ",".join(["1", "0", "14102100", *["x"] * 21]) + "\n")
    found = read(Source("avazu", (str(tmp_path / "a.csv"),)), avazu())
    assert found["hour"].to_pylist() == ["14102100"]


def test_kdd12_counts_become_weighted_rows(tmp_path: Path) -> None:
    (tmp_path / "k.tsv").write_text(
        "\n".join("\t".join(line) for line in (["2", "5", *["7"] * 10], ["0", "1", *["8"] * 10])) + "\n"
    )
    found = read(Source("kdd12", (str(tmp_path / "k.tsv"),)), kdd12())
    rows = sorted(zip(found["ad"].to_pylist(), found["label"].to_pylist(), found["weight"].to_pylist(), strict=True))
    assert rows == [("7", "0", 3.0), ("7", "1", 2.0), ("8", "0", 1.0)]
    assert len(KDD12) == 12


def test_libsvm_takes_dense_by_index_and_the_rest_as_a_bag(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("+1 1:0.5 7:1 9:1\n-1 7:1 8:0\n")
    schema = Schema(
        fields=(Field(name="1", kind="dense"), Field(name="indices", kind="multi")),
        heads=(Head(name="y", label="label"),),
    )
    found = read(Source("libsvm", (str(tmp_path / "s.txt"),)), schema)
    assert found.drop_columns(ROW).to_pydict() == {
        "label": ["1", "0"],
        "indices": [["7", "9"], ["7"]],
        "qid": [None, None],
        "1": ["0.5", "0"],
    }
    (tmp_path / "bad.txt").write_text("1 1:0.5\n0 oops\n")
    with pytest.raises(DataError, match=r"no column 'y'; the file has label, indices, qid, 1"):
        read(
            Source("libsvm", (str(tmp_path / "s.txt"),)),
            Schema(fields=schema.fields, heads=(Head(name="y", label="y"),)),
        )
    with pytest.raises(DataError, match="line 2: found 'oops'"):
        read(Source("libsvm", (str(tmp_path / "bad.txt"),)), schema)


def test_libsvm_s_qid_is_a_request_and_no_index(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_text("1 qid:17 7:1 1:0.5\n0 qid:17 8:1e0 9:0.00\n0 qid:18 7:1\n")
    schema = Schema(
        fields=(Field(name="1", kind="dense"), Field(name="indices", kind="multi")),
        heads=(Head(name="y", label="label"),),
        request="qid",
    )
    found = read(Source("libsvm", (str(path),)), schema)
    assert found["indices"].to_pylist() == [["7"], ["8"], ["7"]]
    assert found["qid"].to_pylist() == ["17", "17", "18"]
    first, second, third = requests(found, schema)
    assert first == second != third


@pytest.mark.parametrize("value", ["abc", "", "nan", "inf"])
def test_a_libsvm_value_that_is_no_number_is_named(value: str, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text(f"1 7:1\n0 7:{value} 8:1\n")
    schema = Schema(fields=(Field(name="indices", kind="multi"),), heads=(Head(name="y", label="label"),))
    with pytest.raises(
        DataError, match=rf"s\.txt, line 2: found '7:{value}'; expected a finite number behind the colon"
    ):
        read(Source("libsvm", (str(tmp_path / "s.txt"),)), schema)


def test_kdd12_lines_to_be_scored_are_one_row_each_with_their_counts_or_without(tmp_path: Path) -> None:
    lines = [[str(ad)] * 10 for ad in range(3)]
    for name, counts in (("counted.tsv", ["2", "5"]), ("plain.tsv", [])):
        (tmp_path / name).write_text("".join("\t".join([*counts, *line]) + "\n" for line in lines))
        found = pa.concat_tables(Source("kdd12", (str(tmp_path / name),)).chunks(kdd12(), labels=False))
        assert found["ad"].to_pylist() == ["0", "1", "2"]
    for line in (CRITEO, CRITEO[1:]):
        (tmp_path / "c.tsv").write_text("\t".join(line) + "\n")
        (table,) = Source("criteo", (str(tmp_path / "c.tsv"),)).chunks(criteo(), labels=False)
        assert table[CRITEO[1]].to_pylist() == [CRITEO[1]]


def test_libsvm_lines_to_be_scored_may_have_no_label(tmp_path: Path) -> None:
    schema = Schema(
        fields=(Field(name="1", kind="dense"), Field(name="indices", kind="multi")),
        heads=(Head(name="y", label="label"),),
    )
    for name, text in (("with.txt", "+1 1:0.5 7:1\n"), ("without.txt", "1:0.5 7:1\n")):
        (tmp_path / name).write_text(text)
        found = pa.concat_tables(Source("libsvm", (str(tmp_path / name),)).chunks(schema, labels=False))
        assert (found["1"].to_pylist(), found["indices"].to_pylist()) == (["0.5"], [["7"]])
    (tmp_path / "gaps.txt").write_text("7:1\n\n# nothing\n8:1\n")
    found = pa.concat_tables(Source("libsvm", (str(tmp_path / "gaps.txt"),)).chunks(schema, labels=False))
    assert found["indices"].to_pylist() == [["7"], [], [], ["8"]]
    (tmp_path / "gaps.txt").write_text("1 7:1\n\n# nothing\n0 8:1 oops\n")
    with pytest.raises(DataError, match="line 4: found 'oops'"):
        read(Source("libsvm", (str(tmp_path / "gaps.txt"),)), schema)
    with pytest.raises(DataError, match=r"line 1: found '1:0\.5' where a label belongs"):
        read(Source("libsvm", (str(tmp_path / "without.txt"),)), schema)


def test_a_ranking_log_is_understood_by_its_prefixes(tmp_path: Path) -> None:
    log = pa.table(
        {
            "request": ["r", "r"], "ts_ms": [1, 2], "unit": ["u", "u"], "item": ["a", "b"], "shown": [True, False],
            "user_age": [1.0, 2.0], "item_tag": ["x", "y"], "context_hours": [[1], [2]],
            "label_click": [1.0, None], "pred_click": [0.1, 0.2],
        }
    )  # fmt: skip
    schema = ranking_log(log.schema)
    assert [(f.name, f.kind) for f in schema.fields] == [
        ("user_age", "dense"), ("item_tag", "categorical"), ("context_hours", "multi"),
    ]  # fmt: skip
    assert [head.name for head in schema.heads] == ["click"]
    fixed = pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2))
    assert ranking_log(log.append_column("user_last", fixed).schema).fields[-1].kind == "multi"
    with pytest.raises(DataError, match="no label_share"):
        ranking_log(log.schema, ("share",))
    with pytest.raises(ValueError, match="serving ranker's prediction"):
        Schema(fields=(Field(name="pred_click", kind="dense"),), heads=schema.heads)


def test_truth_stands_in_a_file_with_the_same_keys(tmp_path: Path) -> None:
    keys = {"request": ["r1", "r1"], "item": ["a", "b"]}
    parquet.write_table(pa.table({**keys, "x": [1.0, 2.0], "y": [1.0, 0.0]}), tmp_path / "log.parquet")
    parquet.write_table(pa.table({**keys, "p": [0.7, 0.2]}), tmp_path / "truth.parquet")
    schema = Schema(fields=(Field(name="x", kind="dense"),), heads=(Head(name="y", label="y", truth="p"),))
    files = (str(tmp_path / "log.parquet"),), (str(tmp_path / "truth.parquet"),)
    found = read(Source("parquet", files[0], truth=files[1]), schema)
    assert found["p"].to_pylist() == [0.7, 0.2]
    parquet.write_table(pa.table({**keys, "item": ["b", "a"], "p": [0.7, 0.2]}), tmp_path / "truth.parquet")
    with pytest.raises(DataError, match="request, item differ"):
        read(Source("parquet", files[0], truth=files[1]), schema)
    parquet.write_table(pa.table({**keys, "x": [3.0, 4.0], "y": [0.0, 1.0]}), tmp_path / "second.parquet")
    both = (*files[0], str(tmp_path / "second.parquet"))
    twice = {"request": ["r1"] * 4, "item": ["a", "b"] * 2}
    parquet.write_table(pa.table({**twice, "p": [0.7, 0.2, 0.3, 0.4]}), tmp_path / "truth.parquet")
    together = pa.concat_tables(
        table.replace_schema_metadata() for table in Source("parquet", both, truth=files[1]).chunks(schema)
    )
    assert together["p"].to_pylist() == [0.7, 0.2, 0.3, 0.4]
    parquet.write_table(pa.table({**keys, "p": [0.7, 0.2]}), tmp_path / "truth.parquet")
    with pytest.raises(DataError, match="request, item differ"):
        list(Source("parquet", both, truth=files[1]).chunks(schema))
    (tmp_path / "truth.parquet").write_text("no Parquet")
    with pytest.raises(DataError, match=r"truth\.parquet: not readable as Parquet"):
        read(Source("parquet", files[0], truth=files[1]), schema)
    lists = Schema(fields=(Field(name="z", kind="categorical"),), heads=schema.heads)
    parquet.write_table(pa.table({**keys, "p": [0.7, 0.2]}), tmp_path / "truth.parquet")
    parquet.write_table(pa.table({**keys, "z": [["a"], ["b"]], "y": [1.0, 0.0]}), tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"log\.parquet: column 'z' holds lists"):
        read(Source("parquet", files[0], truth=files[1]), lists)
