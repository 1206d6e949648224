import pyarrow as pa

from nas.encoding import learned
from nas.schema import Field, Schema
from nas.score import TOLD, Unknowns
from tests.nas.files import HEADS, SCHEMA, world

ROWS = 200


def told(schema: Schema, **columns: list[str | None]) -> list[str]:
    """Of rows whose columns are changed, in two chunks."""
    table = world(ROWS)
    unknowns = Unknowns(learned([table], schema))
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    for start in (0, ROWS // 2):
        unknowns.see(table.slice(start, ROWS // 2))
    return unknowns.told()


def test_a_field_whose_values_were_not_in_the_training_rows_is_told() -> None:
    assert told(SCHEMA) == []
    city: list[str | None] = ["c1"] * 90 + ["410.0"] * 10 + [None] * 100
    assert told(SCHEMA, city=city) == []  # a tenth of what is there
    tags: list[str | None] = ["t1|new||newer", *[""] * 199]
    city[0] = "none"
    assert told(SCHEMA, city=city, tags=tags) == [
        'tags: 67 % of its values are unknown to the model, as fewer than 2 training rows held them, e.g. "new"',
        'city: 11 % of its values are unknown to the model, as fewer than 2 training rows held them, e.g. "none"',
    ]
    assert told(SCHEMA, city=[None] * ROWS) == []


def test_a_vocabulary_of_all_values_and_hash_buckets() -> None:
    fields = (Field(name="city", kind="categorical", min_count=1), Field(name="tags", kind="multi", buckets=7))
    found = told(Schema(fields=fields, heads=HEADS), city=["x"] * ROWS, tags=["x"] * ROWS)
    assert found == ['city: 100 % of its values are unknown to the model, as no training row held them, e.g. "x"']


def test_a_handful_of_fields_is_told() -> None:
    names = [f"f{i}" for i in range(TOLD + 3)]
    schema = Schema(fields=tuple(Field(name=name, kind="categorical") for name in names), heads=HEADS)
    unknowns = Unknowns(learned([pa.table({name: ["a"] * 5 for name in names})], schema))
    unknowns.see(pa.table({name: ["b"] * 5 for name in names}))
    assert len(unknowns.told()) == TOLD
