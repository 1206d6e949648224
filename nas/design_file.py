"""The design file: one TOML that says what data, which value, which space, and how to train and search.

Every table becomes one frozen record; unknown keys and impossible values are refused by their place.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import pyarrow as pa
from msgspec import inspect
from pyarrow import parquet

from nas import layouts, theta
from nas.evolution import Limit, Method, Objective, Rules
from nas.layouts import Layout
from nas.prepare import Sources
from nas.ranges import at_least, expect
from nas.readers import Source, columns
from nas.recipe import Recipe
from nas.sampling import Strategy
from nas.schema import DataError, Field, Head, Kind, Schema
from nas.search import MAX_ADAPTATION, SearchPlan, adaptation
from nas.space import SPACES, Space
from nas.splits import Split
from nas.supernet_train import SupernetPlan, expect_warmup
from nas.value import Form, ValueModel, loss_weights

T = TypeVar("T")
KINDS: dict[str, tuple[Kind, ...]] = {  # of the fields that heed a key
    "transform": ("dense",),
    "min_count": ("categorical", "multi"),
    "buckets": ("categorical", "multi"),
    "separator": ("multi",),
    "longest": ("multi",),
}
LAID_OUT: dict[str, tuple[Layout, ...]] = {  # the layouts whose files heed a key
    "header": ("csv", "tsv", "avazu"),
    "truth": ("ranking-log", "parquet"),
    "heads": ("ranking-log",),
}
FIXED: dict[str, Callable[[], Schema]] = {
    "criteo": layouts.criteo, "avazu": layouts.avazu, "kdd12": layouts.kdd12,
}  # fmt: skip
VALUED = {  # where a value model is from, of keys that nothing else heeds
    "form": "weights", "study": "redis", "arm": "redis", "segment": "redis", "heads": "redis",
}  # fmt: skip
OWN = ("time", "request", "weight", "drop", "missing")  # keys that a layout which names its own fields has its own of


class DataTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where rows are: `files` to be split, or `train`, `valid` and `test` that are split already."""

    layout: Layout
    files: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    truth: tuple[str, ...] = ()
    time: str | None = None
    request: str | None = None
    weight: str | None = None
    drop: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("", "NULL", "null", "NaN", "nan")
    heads: tuple[str, ...] = ()  # of a ranking log: those of its label_* that are learned (all)


class ValueTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The value model: weights here, in a file, or of a study in Redis. `losses`: whether training follows it too."""

    form: Form = "linear"
    losses: Literal["equal", "value"] = "equal"
    weights: dict[str, float] = {}
    file: str | None = None
    redis: str | None = None
    study: str | None = None
    arm: str = theta.CONTROL
    segment: str = theta.ALL
    heads: dict[str, str] = {}  # of the study: weight to head


def _refuse_seed(table: str, seed: int) -> None:
    """Generators take no other."""
    expect(f"{table}.seed", seed, 0 <= seed < 2**63, "0 or more, below 2^63")


class SupernetTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the supernet is trained. `epochs` over the training rows, unless `rows` says how many."""

    epochs: float = 2.0
    rows: int | None = None
    strategy: Strategy = "half-known"
    warmup: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        expect("supernet.epochs", self.epochs, 0 < self.epochs < math.inf, "a number above 0")
        at_least("supernet", self, rows=1)
        expect_warmup(self.warmup)
        _refuse_seed("supernet", self.seed)


class SearchTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The search. `adapt`: the share of one training's rows that each network adapts on before it is ranked."""

    evaluations: int = 200
    rows: int | None = None
    adapt: float = 0.02
    valid_rows: int = 20_000
    objectives: tuple[Objective, ...] = ("loss", "flops")
    limits: tuple[Limit, ...] = ()
    method: Method = "evolution"
    population: int = 32
    tournament: int = 8
    children: int = 8
    known: float = 0.75
    seed: int = 0
    batch: int = 256  # of the latency table

    def __post_init__(self) -> None:
        at_least("search", self, evaluations=1, rows=1, valid_rows=1, batch=1)
        share = f"a share of one training, at most {MAX_ADAPTATION}"
        expect("search.adapt", self.adapt, 0 <= self.adapt <= MAX_ADAPTATION, share)
        _refuse_seed("search", self.seed)
        self.rules()

    def rules(self) -> Rules:
        """How children are proposed."""
        return Rules(
            method=self.method, objectives=self.objectives, limits=self.limits, population=self.population,
            tournament=self.tournament, children=self.children, known=self.known,
        )  # fmt: skip


class RetrainTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From scratch: with how many seeds."""

    seeds: int = 3

    def __post_init__(self) -> None:
        at_least("retrain", self, seeds=1)


class Tables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    data: DataTable
    split: Split = Split()
    fields: tuple[Field, ...] = ()
    heads: tuple[Head, ...] = ()
    value: ValueTable | None = None
    recipe: Recipe = Recipe()
    space: dict[str, Any] = {}
    supernet: SupernetTable = SupernetTable()
    search: SearchTable = SearchTable()
    retrain: RetrainTable = RetrainTable()


class Design(msgspec.Struct, frozen=True, kw_only=True):
    """A design file that was found sound."""

    path: Path
    tables: Tables
    sources: Sources
    schema: Schema
    space: Space

    def value(self) -> ValueModel | None:
        """The value model; from Redis it is the one in force now.

        Raises:
            DataError: it cannot be had.
        """
        table, heads = self.tables.value, tuple(head.name for head in self.schema.heads)
        if table is None:
            return None
        given = [name for name in ("weights", "file", "redis") if getattr(table, name)]
        if len(given) > 1:
            raise DataError(f"{self.path}: value: found {' and '.join(given)}; expected one of them")
        if table.file:
            return theta.from_file(self.path.parent / table.file, heads)
        if table.redis:
            if not (table.study and table.heads):
                raise DataError(f"{self.path}: value.redis: needs `study`, and `heads`: weight to head")
            return theta.from_redis(table.redis, table.study, heads, table.heads, table.arm, table.segment)
        return theta.from_weights(table.weights, table.form, heads)

    def supernet_plan(self, training_rows: int, head_weights: tuple[float, ...]) -> SupernetPlan:
        """For so many training rows."""
        table = self.tables.supernet
        rows = table.rows or int(table.epochs * training_rows)
        return SupernetPlan(
            space=self.space, recipe=self.tables.recipe, rows=rows, strategy=table.strategy, warmup=table.warmup,
            seed=table.seed, head_weights=head_weights,
        )  # fmt: skip

    def search_plan(self, training_rows: int) -> SearchPlan:
        """For so many training rows."""
        table, recipe = self.tables.search, self.tables.recipe
        adapt_rows = int(table.adapt * training_rows * recipe.epochs)
        return SearchPlan(
            rules=table.rules(),
            evaluations=table.evaluations,
            rows=table.rows,
            adapt_rows=adapt_rows,
            adapt=adaptation(recipe, adapt_rows),
            valid_rows=table.valid_rows,
            seed=table.seed,
        )


def head_weights_of(tables: Tables, value: ValueModel | None, rates: tuple[float, ...]) -> tuple[float, ...]:
    """Weights of the heads' losses: by the value model and the training rows' base rates where the file asks for it."""
    if value is None or tables.value is None or tables.value.losses == "equal":
        return (1.0,) * len(rates)
    import numpy as np

    return tuple(loss_weights(value, np.asarray(rates)).tolist())


def load(path: Path) -> Design:
    """Read and check a design file; relative paths in it start at its folder.

    Raises:
        DataError: it cannot be read or is no design; names the place.
    """
    try:
        tree = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not TOML: {error}") from error
    tables = _converted(path, tree, Tables)
    _refuse_unheeded(path, tree, tables)
    _refuse_unvalued(path, tree, tables)
    space = _converted(path, _space(path, tables.space), Space, "space.")
    sources = _sources(path, tables.data)
    _refuse_unheeded_split(path, tree, tables)
    schema = _schema(path, tables, sources)
    _refuse_no_column(path, tables, schema)
    _refuse_no_truth(path, tables, schema)
    _refuse_no_drop(path, tables, sources)
    return Design(path=path, tables=tables, sources=sources, schema=schema, space=space)


def _converted(path: Path, tree: object, kind: type[T], within: str = "") -> T:
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        found = str(error).replace("`$.", f"`{within}")
        said, _, where = found.rpartition(" - at `")
        if said.startswith(where.strip("`")):  # a record names its own place
            found = said
        raise DataError(f"{path}: {found}{_accepted(str(error), kind)}") from error


def _accepted(error: str, kind: type) -> str:
    """What would do in the place that an error names: the keys of a table, the values of a choice."""
    known, _, where = error.rpartition(" - at `$")
    lacking = re.search("missing required field `(.*?)`", error)
    if lacking:
        known, where = error, f"{where.strip('`') if known else ''}.{lacking[1]}"
    found: inspect.Type = inspect.type_info(kind)
    for name in re.sub(r"\[.*?\]", "", where).strip("`.").split("."):
        fields = {field.name: field.type for field in found.fields} if isinstance(found, inspect.StructType) else {}
        found = fields.get(name, found)
        if isinstance(found, inspect.UnionType):
            found = next((one for one in found.types if isinstance(one, inspect.StructType)), found)
        if isinstance(found, inspect.VarTupleType):
            found = found.item_type
    if isinstance(found, inspect.LiteralType):
        return f"; accepted: {', '.join(map(str, found.values))}"
    if isinstance(found, inspect.StructType) and "unknown field" in known + error:
        return f"; accepted: {', '.join(field.name for field in found.fields)}"
    return ""


def _refuse_unheeded(path: Path, tree: dict[str, Any], tables: Tables) -> None:
    """A key that nothing would heed where it stands: who wrote it believes that it does something."""
    for at, (given, field) in enumerate(zip(tree.get("fields", ()), tables.fields, strict=True)):
        for key, kinds in KINDS.items():
            if key in given and field.kind not in kinds:
                raise DataError(
                    f"{path}: fields[{at}].{key}: {field.name!r} is {field.kind}; it belongs to {' and '.join(kinds)} "
                    "fields"
                )
        if "min_count" in given and field.buckets:
            raise DataError(
                f"{path}: fields[{at}].min_count: belongs to fields without buckets; {field.name!r} is hashed into "
                f"{field.buckets}, whatever rows hold a value"
            )
    data, named = tables.data, bool(tables.fields or tables.heads)
    for key, layouts_of in LAID_OUT.items():
        if key in tree["data"] and data.layout not in layouts_of:
            raise DataError(
                f"{path}: data.{key}: belongs to files of layout {', '.join(layouts_of)}; found {data.layout!r}"
            )
    if "heads" in tree["data"] and named:
        raise DataError(f"{path}: data.heads: chooses among a log's own heads, but [[fields]] and [[heads]] are named")
    for key in OWN:
        if key in tree["data"] and not named and data.layout in (*FIXED, "ranking-log"):
            raise DataError(
                f"{path}: data.{key}: belongs to files that name their [[fields]] and [[heads]]; layout "
                f"{data.layout!r} has its own"
            )


def _refuse_unvalued(path: Path, tree: dict[str, Any], tables: Tables) -> None:
    """A key of [value] that what the value model is from does not heed: a file and a study have a form of their own."""
    for key, source in VALUED.items():
        if key in tree.get("value", ()) and not getattr(tables.value, source):
            raise DataError(f"{path}: value.{key}: belongs to value.{source}, which is not there")


def _refuse_unheeded_split(path: Path, tree: dict[str, Any], tables: Tables) -> None:
    given, split = tree.get("split", {}), tables.split
    if given and not tables.data.files:
        raise DataError(f"{path}: split: divides data.files; data.train, data.valid and data.test are divided already")
    for key, why in (
        ("valid", "belongs to a split without folds" if split.folds else ""),
        ("test", "belongs to a split without folds" if split.folds else ""),
        ("fold", "" if split.folds else "belongs to a split with folds"),
        ("seed", "belongs to a split that is drawn; by time nothing is" if split.by == "time" else ""),
    ):
        if key in given and why:
            raise DataError(f"{path}: split.{key}: {why}")


def _refuse_no_truth(path: Path, tables: Tables, schema: Schema) -> None:
    """Files of true probabilities of which no head has any."""
    if tables.data.truth and not any(head.truth for head in schema.heads):
        wanted = "heads.truth" if tables.heads else "columns true_* beside the log's label_*"
        raise DataError(f"{path}: data.truth: no head has a true probability there; expected {wanted}")


def _refuse_no_drop(path: Path, tables: Tables, sources: Sources) -> None:
    """A column to be dropped that no file has: another one, meant by that, may be an input."""
    if not tables.data.drop or tables.data.layout == "libsvm":
        return
    found = [*dict.fromkeys(name for _, source in sources.given() for name in columns(source))]
    for name in tables.data.drop:
        if name not in found:
            near = difflib.get_close_matches(name, found, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise DataError(f"{path}: data.drop: there is no column {name!r}{hint}; the files have {', '.join(found)}")


def _space(path: Path, table: dict[str, Any]) -> dict[str, Any]:
    preset = table.get("preset", "full")
    if preset not in SPACES:
        raise DataError(f"{path}: space.preset: found {preset!r}; expected one of {', '.join(SPACES)}")
    rest = {name: value for name, value in table.items() if name != "preset"}
    unknown = sorted(set(rest) - set(Space.__struct_fields__))
    if unknown:
        raise DataError(f"{path}: space: unknown key {unknown[0]!r}; known are {', '.join(Space.__struct_fields__)}")
    return {**msgspec.to_builtins(SPACES[preset]), **rest}


def _sources(path: Path, data: DataTable) -> Sources:
    given = [name for name in ("train", "valid", "test") if getattr(data, name)]
    if bool(data.files) == bool(given) or len(given) in (1, 2):
        raise DataError(f"{path}: data: expected `files` to be split, or all of `train`, `valid` and `test`")
    named = [(path.parent / file).resolve() for file in (*data.files, *data.train, *data.valid, *data.test)]
    twice = next((file for file in named if named.count(file) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: data: {twice} stands twice: a model would be tested on rows that it was trained on")

    def source(files: tuple[str, ...]) -> Source:
        here = path.parent
        return Source(
            data.layout,
            tuple(str(here / file) for file in files),
            data.header,
            tuple(str(here / file) for file in data.truth),
        )

    if data.files:
        return Sources(whole=source(data.files))
    return Sources(train=source(data.train), valid=source(data.valid), test=source(data.test))


def _schema(path: Path, tables: Tables, sources: Sources) -> Schema:
    """The layout's own schema, or the file's fields and heads."""
    data = tables.data
    if tables.fields or tables.heads:
        try:
            return Schema(
                fields=tables.fields, heads=tables.heads, time=data.time, request=data.request, weight=data.weight,
                drop=data.drop, missing=data.missing,
            )  # fmt: skip
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
    if data.layout in FIXED:
        return FIXED[data.layout]()
    if data.layout == "ranking-log":
        return layouts.ranking_log(_columns(sources), data.heads)
    raise DataError(f"{path}: fields, heads: a file of layout {data.layout!r} needs both")


def _refuse_no_column(path: Path, tables: Tables, schema: Schema) -> None:
    """A split by a column that nothing names."""
    key, column = {"time": ("time", schema.time), "group": ("request", schema.request)}.get(tables.split.by, ("", ""))
    if not tables.data.files or column is not None:
        return
    found = f"split.by: found {tables.split.by!r}"
    if tables.fields:
        raise DataError(f"{path}: {found}, but data.{key} is not there; expected the name of the column to split by")
    raise DataError(f"{path}: {found}; files of layout {tables.data.layout!r} have no column for that: split otherwise")


def _columns(sources: Sources) -> pa.Schema:
    _, source = sources.given()[0]
    try:
        columns = parquet.read_schema(source.files[0])
        truth = parquet.read_schema(source.truth[0]) if source.truth else pa.schema([])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{source.files[0]}: not readable as Parquet: {error}") from error
    return pa.schema([*columns, *(field for field in truth if field.name not in columns.names)])
