import json
import re
from pathlib import Path

import msgspec
import pytest
from pyarrow import csv

from nas.baselines import Baseline
from nas.design_file import DataTable, RetrainTable, SearchTable, SupernetTable, ValueTable, head_weights_of, load
from nas.recipe import Recipe
from nas.schema import DataError, Field, Head
from nas.space import FULL, SMALL
from nas.splits import Split
from nas.value import ValueModel
from nas.workplace import architecture_named
from tests.nas.files import parquet_file, world

DOCS = Path(__file__).parents[2] / "docs" / "nas.md"

TEXT = """
[data]
layout = "parquet"
files = ["log.parquet"]
time = "ts_ms"
request = "request"

[split]
by = "group"

[[fields]]
name = "age"
kind = "dense"

[[fields]]
name = "city"
kind = "categorical"

[[heads]]
name = "click"
label = "click"
truth = "true_click"

[[heads]]
name = "like"
label = "like"
truth = "true_like"

[value]
weights = { click = 1.0, like = 4.0 }

[recipe]
learning_rate = 0.02
batch_size = 128

[space]
preset = "small"

[supernet]
rows = 4000

[search]
evaluations = 8
population = 4
children = 4
limits = [{ objective = "flops", at_most = 1e6 }]

[retrain]
seeds = 2
"""


def written(folder: Path, text: str = TEXT) -> Path:
    (folder / "design.toml").write_text(text)
    return folder / "design.toml"


def test_a_design_becomes_plans(tmp_path: Path) -> None:
    design = load(written(tmp_path))
    assert design.space == SMALL
    assert design.value() == ValueModel("linear", (1.0, 4.0))
    assert design.supernet_plan(1000, (1.0, 1.0)).rows == 4000
    plan = design.search_plan(6000)
    assert (plan.evaluations, plan.rules.limits[0].at_most, plan.adapt.batch_size) == (8, 1e6, 16)
    assert load(written(tmp_path, TEXT.replace('preset = "small"', "blocks = 5"))).space.blocks == 5
    assert load(written(tmp_path, TEXT.replace('[space]\npreset = "small"', ""))).space == FULL


def test_losses_follow_the_value_where_the_file_asks_for_it(tmp_path: Path) -> None:
    tables, value = load(written(tmp_path)).tables, ValueModel("linear", (1.0, 4.0))
    assert tables.value is not None
    asked = msgspec.structs.replace(tables, value=msgspec.structs.replace(tables.value, losses="value"))
    assert head_weights_of(tables, value, (0.5, 0.1)) == (1.0, 1.0)
    assert head_weights_of(asked, None, (0.5, 0.1)) == (1.0, 1.0)
    assert head_weights_of(asked, value, (0.5, 0.1)) == pytest.approx((0.2959, 1.7041), abs=1e-3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "learning_rate",
            "learning_rat",
            "unknown field `learning_rat` - at `recipe`; accepted: learning_rate, schedule",
        ),
        ("evaluations", "evaluatoins", "unknown field `evaluatoins` - at `search`; accepted: evaluations, rows"),
        ("evaluations = 8", "evaluations = 0", r"search\.evaluations: found 0; expected 1 or more$"),
        ("evaluations = 8", "tournament = 0", r"search\.tournament: found 0; expected 1 or more$"),
        ("evaluations = 8", "known = 1.5", r"search\.known: found 1\.5; expected a share, 0 to 1$"),
        ("evaluations = 8", "seed = -1", r"search\.seed: found -1; expected 0 or more"),
        ("rows = 4000", "seed = -1", r"supernet\.seed: found -1; expected 0 or more"),
        ("evaluations = 8", "adapt = 0.5", "search.adapt: found 0.5; expected a share of one training, at most 0.02"),
        ("evaluations = 8", 'method = "grid"', "'grid' - at `search.method`; accepted: evolution, random"),
        ("evaluations = 8", 'objectives = ["flops"]', "found flops; expected loss among them"),
        ("evaluations = 8", 'objectives = ["loss", "loss"]', "found loss, loss; expected each once$"),
        ("at_most = 1e6", "at_most = 0", r"at_most: found 0(\.0)?; expected above 0 - at `search.limits"),
        ("rows = 4000", "rows = -5", r"supernet\.rows: found -5; expected 1 or more$"),
        ("rows = 4000", "epochs = inf", r"supernet\.epochs: found inf; expected a number above 0$"),
        ("rows = 4000", "warmup = 0.5", r"supernet\.warmup: found 0\.5; expected a share of the rows, at most 0\.02$"),
        ("seeds = 2", "seeds = 0", r"retrain\.seeds: found 0; expected 1 or more$"),
        (
            'kind = "categorical"',
            'kind = "multi"\nseparator = ""',
            r"field city\.separator: found nothing; expected a text - at `fields\[1\]`$",
        ),
        ("batch_size = 128", "batch_size = 0", r"recipe\.batch_size: found 0; expected 1 or more$"),
        (
            'kind = "dense"',
            'kind = "number"',
            r"Invalid enum value 'number' - at `fields\[0\]\.kind`; accepted: categorical, dense, multi",
        ),
        (
            'kind = "categorical"',
            'kind = "categorical"\ntransform = "standard"',
            r"fields\[1\]\.transform: 'city' is categorical; it belongs to dense fields",
        ),
        (
            'kind = "categorical"',
            'kind = "categorical"\nmin_count = 2\nbuckets = 9',
            r"fields\[1\]\.min_count: belongs to fields without buckets; 'city' is hashed into 9",
        ),
        (
            'kind = "categorical"',
            'kind = "categorical"\nlongest = 3',
            r"fields\[1\]\.longest: .* belongs to multi fields",
        ),
        ('kind = "categorical"', 'kind = "multi"\ntransform = "log"', r"fields\[1\]\.transform: 'city' is multi"),
        *(
            ('kind = "dense"', f'kind = "dense"\n{key}', r"fields\[0\]\.[a-z_]*: 'age' is dense; it belongs to")
            for key in ("buckets = 5", "min_count = 3", 'separator = ","', "longest = 9")
        ),
        (
            'time = "ts_ms"',
            'heads = ["click"]',
            r"data\.heads: belongs to files of layout ranking-log; found 'parquet'",
        ),
        ('time = "ts_ms"', 'header = ["a"]', r"data\.header: belongs to files of layout csv, tsv, avazu; found"),
        (
            'layout = "parquet"',
            'layout = "csv"\ntruth = ["t"]',
            r"data\.truth: belongs to files of layout ranking-log, pa",
        ),
        ('layout = "parquet"', 'layout = "ranking-log"\nheads = ["click"]', r"data\.heads: chooses among a log's own"),
        ('name = "age"', 'name = "click"', "'click' is a label: it must not be an input"),
        (
            'kind = "dense"',
            "",
            r"design\.toml: .*required field `kind` - at `fields\[0\]`; accepted: categorical, dense, multi",
        ),
        ('layout = "parquet"', "", "missing required field `layout` - at `data`; accepted: avazu, criteo, csv"),
        (
            'time = "ts_ms"\nrequest = "request"\n\n[split]\nby = "group"',
            '[split]\nby = "time"',
            r"design\.toml: split\.by: found 'time', but data\.time is not there",
        ),
        ('request = "request"', "", r"split\.by: found 'group', but data\.request is not there"),
        ('files = ["log.parquet"]', "", "expected `files` to be split, or all of"),
        ('files = ["log.parquet"]', 'files = ["log.parquet", "./log.parquet"]', r"log\.parquet stands twice: a model"),
        ('files = ["log.parquet"]', 'train = ["a"]\nvalid = ["b"]\ntest = ["a"]', "a stands twice: a model"),
        ('files = ["log.parquet"]', 'train = ["a"]', "or all of `train`, `valid` and `test`"),
        ('preset = "small"', 'preset = "tiny"', "found 'tiny'; expected one of full, small"),
        ('name = "city"', 'name = "age"', r"design\.toml: fields: 'age' stands twice"),
        ('name = "like"', 'name = "click"', r"design\.toml: heads: 'click' stands twice"),
        ('preset = "small"', 'blocks = "3"', r"Expected `int`, got `str` - at `space\.blocks`"),
        ('preset = "small"', 'norms = ["batch"]', r"'batch' - at `space\.norms\[0\]`; accepted: layer, none, rms"),
        ('preset = "small"', "bloks = 3", "unknown key 'bloks'"),
        ('by = "group"', "valid = 0.9\ntest = 0.9", "found 1.8 together; expected some rows left"),
        ('by = "group"', "folds = 5\nvalid = 0.2", r"split\.valid: belongs to a split without folds"),
        ('by = "group"', "folds = 5\nfold = 1\ntest = 0.2", r"split\.test: belongs to a split without folds"),
        ('by = "group"', "fold = 1", r"split\.fold: belongs to a split with folds"),
        ('by = "group"', 'by = "time"\nseed = 1', r"split\.seed: belongs to a split that is drawn; by time"),
        (
            'files = ["log.parquet"]',
            'train = ["a"]\nvalid = ["b"]\ntest = ["c"]',
            r"split: divides data\.files; data\.",
        ),
        ('objective = "flops"', 'objective = "watts"', "Invalid enum value 'watts'"),
        ('objective = "flops", at_most', 'objective = "flops", at_mos', "at_mos"),
        ("[data]", "[data", "not TOML"),
        (
            'layout = "parquet"',
            'layout = "excel"',
            "Invalid enum value 'excel' - at `data.layout`; accepted: avazu, criteo, csv",
        ),
    ],
)
def test_each_mistake_is_named_by_its_place(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load(written(tmp_path, TEXT.replace(old, new)))


@pytest.mark.parametrize(("layout", "name"), [("parquet", "log.parquet"), ("csv", "log.csv")])
def test_a_column_to_be_dropped_that_is_in_no_file_is_refused(layout: str, name: str, tmp_path: Path) -> None:
    parquet_file(tmp_path, world(30))
    csv.write_csv(world(30), tmp_path / "log.csv")
    text = TEXT.replace('layout = "parquet"\nfiles = ["log.parquet"]', f'layout = "{layout}"\nfiles = ["{name}"]')
    load(written(tmp_path, text.replace("time =", 'drop = ["device", "tags"]\ntime =')))
    wanted = (
        r"data\.drop: there is no column 'devise' \(did you mean device\?\); the files have age, income, city, device"
    )
    with pytest.raises(DataError, match=wanted):
        load(written(tmp_path, text.replace("time =", 'drop = ["tags", "devise"]\ntime =')))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("weights = { click = nan, like = 4.0 }", "the weight of 'click' is nan; expected a finite number"),
        ('weights = { click = 1.0 }\nfile = "theta.json"', "value: found weights and file; expected one of them"),
        ('redis = "redis://127.0.0.1:1/0"', "value.redis: needs `study`, and `heads`"),
    ],
)
def test_a_value_model_that_cannot_be_had_is_named(value: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load(written(tmp_path, TEXT.replace("weights = { click = 1.0, like = 4.0 }", value))).value()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('form = "power"\nfile = "theta.json"', r"design\.toml: value\.form: belongs to value\.weights, which is not"),
        ('form = "power"\nredis = "redis://h/0"\nstudy = "feed"', r"value\.form: belongs to value\.weights"),
        ('weights = { click = 1.0 }\nstudy = "feed"', r"value\.study: belongs to value\.redis"),
        ('weights = { click = 1.0 }\narm = "e1"', r"value\.arm: belongs to value\.redis"),
        ('file = "theta.json"\nsegment = "new"', r"value\.segment: belongs to value\.redis"),
        ('weights = { click = 1.0 }\nheads = { p_click = "click" }', r"value\.heads: belongs to value\.redis"),
    ],
)
def test_a_key_of_another_value_model_is_refused(value: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load(written(tmp_path, TEXT.replace("weights = { click = 1.0, like = 4.0 }", value)))


def test_a_split_by_a_column_that_a_layout_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found 'time'; files of layout 'criteo' have no column for that"):
        load(written(tmp_path, '[data]\nlayout = "criteo"\nfiles = ["a"]\n[split]\nby = "time"\n'))


@pytest.mark.parametrize(
    "key", ['time = "hour"', 'request = "id"', 'weight = "w"', 'drop = ["C1"]', 'missing = ["-1"]']
)
def test_a_layout_s_own_columns_are_not_named_again(key: str, tmp_path: Path) -> None:
    name = key.split(maxsplit=1)[0]
    with pytest.raises(DataError, match=rf"data\.{name}: belongs to files that name .*; layout 'avazu' has its own"):
        load(written(tmp_path, f'[data]\nlayout = "avazu"\nfiles = ["a"]\n{key}\n'))


def test_a_truth_of_which_no_head_has_any_is_refused(tmp_path: Path) -> None:
    text = TEXT.replace("time =", 'truth = ["truth.parquet"]\ntime =')
    assert load(written(tmp_path, text)).sources.whole.truth  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"data\.truth: no head has a true probability there; expected heads\.truth"):
        load(written(tmp_path, re.sub("truth = .true_.*", "", text)))
    short = world(30).select(["age", "click"]).rename_columns(["user_age", "label_click"])
    parquet_file(tmp_path, short)
    parquet_file(tmp_path, short, "truth.parquet")
    log = '[data]\nlayout = "ranking-log"\nfiles = ["log.parquet"]\ntruth = ["truth.parquet"]\n'
    with pytest.raises(DataError, match=r"data\.truth: no head .* expected columns true_\*"):
        load(written(tmp_path, log))


def test_the_documented_keys_are_those_that_are_read() -> None:
    rows = re.findall(r"^\| (`(?:data|fields|heads)\..*?`) \| (.*?) \| ", DOCS.read_text(), re.MULTILINE)
    told = {
        key: default.strip("`").replace("\\|", "|") for keys, default in rows for key in re.findall("`(.*?)`", keys)
    }
    assert told == {
        f"{table}.{field.name}": _default(field)
        for table, kind in (("data", DataTable), ("fields", Field), ("heads", Head))
        for field in msgspec.structs.fields(kind)
    }


def test_the_other_documented_keys_are_those_that_are_read() -> None:
    rows = re.findall(
        r"^\| (`(?:split|value|recipe|supernet|search|retrain)\..*?`) \| (.*?) \| ", DOCS.read_text(), re.MULTILINE
    )
    told = {
        key: None if default == "none" else json.loads(default.strip("`"))
        for keys, default in rows
        for key in re.findall("`(.*?)`", keys)
    }
    tables = {
        "split": Split(), "value": ValueTable(), "recipe": Recipe(), "supernet": SupernetTable(),
        "search": SearchTable(), "retrain": RetrainTable(),
    }  # fmt: skip
    read = msgspec.json.decode(msgspec.json.encode(tables))
    assert told == {f"{table}.{key}": default for table, keys in read.items() for key, default in keys.items()}


def test_the_documented_baseline_is_read(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "dcn.json").write_text(shown)
    assert architecture_named(str(tmp_path / "dcn.json")) == Baseline(name="dcnv2")


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    return "none" if field.default is None else json.dumps(field.default)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "none.toml")


def test_a_ranking_log_needs_no_fields(tmp_path: Path) -> None:
    table = world(300)
    names = {"age": "user_age", "city": "item_city", "click": "label_click"}
    parquet_file(tmp_path, table.rename_columns([names.get(name, name) for name in table.column_names]))
    design = load(written(tmp_path, '[data]\nlayout = "ranking-log"\nfiles = ["log.parquet"]\n'))
    assert [field.name for field in design.schema.fields] == ["user_age", "item_city"]
    assert [head.name for head in design.schema.heads] == ["click"]
    with pytest.raises(DataError, match="needs both"):
        load(written(tmp_path, '[data]\nlayout = "csv"\nfiles = ["log.csv"]\n'))
