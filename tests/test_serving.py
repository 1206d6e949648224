"""The serving client: what it serves, with which weights, and what nothing that is passed in may do to it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeredis
import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from controller.assignment import Form, decode
from controller.serving import UNKNOWN_BUCKET, Assigned, Client, Coded, score
from controller.unit_hash import Packed, buckets_of, pack, unit_hashes, xxh64
from tests.serving_study import (
    BASELINE,
    BOTH,
    NOW,
    UNITS,
    Connect,
    bucket_of,
    client_of,
    connections,
    publish,
    table,
    weights_of,
)


@pytest.fixture(params=BOTH)
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    with connections(request) as made:
        yield made


@pytest.fixture
def serving() -> Iterator[Client]:
    """A client that holds `table()`."""
    connection = fakeredis.FakeRedis()
    publish(connection, table())
    with client_of(connection) as client:
        assert client.wait()
        yield client
    connection.close()


# What is served.


def test_the_baseline_serves_before_any_table(connect: Connect) -> None:
    with client_of(connect()) as client:
        assert weights_of(client.assign("u1", "new")) == ("control", 0, [1.0, 2.0], UNKNOWN_BUCKET)
        many = client.assign_many(["u1", "u2"], "new")
        assert (many.version, many.arms, many.unit_weights().tolist()) == (0, ("control",), [[1.0, 2.0]] * 2)
        assert (client.version, client.table, client.status().fallbacks) == (0, None, 3)


class Series:
    """What a series of a data frame library has in common with one of pandas."""

    def __init__(self, values: list[str]) -> None:
        self.values = np.array(values, object)

    def __len__(self) -> int:
        return len(self.values)

    def to_numpy(self) -> Any:
        return self.values


def test_a_unit_has_the_arm_of_its_bucket(serving: Client) -> None:
    for unit in UNITS:
        served = serving.assign(unit)
        assert served.bucket == bucket_of(unit)
        assert served.arm == ("control", "e1", "e2")[bucket_of(unit) % 3]
        assert served.version == 1_000_001


def test_a_segment_has_its_weights_and_an_unknown_one_those_of_all(serving: Client) -> None:
    unit = next(unit for unit in UNITS if bucket_of(unit) % 3 == 1)
    expected = {"new": [1.0, 4.0], "all": [1.0, 3.0], None: [1.0, 3.0], "unheard of": [1.0, 3.0]}
    assert {segment: serving.assign(unit, segment).weights.tolist() for segment in expected} == expected


@pytest.mark.parametrize(
    "units",
    [
        UNITS,
        tuple(UNITS),
        [unit.encode() for unit in UNITS],
        np.array(UNITS),
        np.array(UNITS, object),
        np.array([unit.encode() for unit in UNITS]),
        pack(UNITS),
        pa.array(UNITS),
        pa.array(["left out", *UNITS], pa.large_string())[1:],
        pa.chunked_array([UNITS[:100], UNITS[100:]]),
        pa.array(UNITS).dictionary_encode(),
        pa.array(UNITS, pa.string_view()),
        pa.array([unit.encode() for unit in UNITS], pa.binary_view()),
        Series(UNITS),
    ],
    ids=lambda units: type(units).__name__,
)
@pytest.mark.parametrize("segments", [None, "new", "cycle", "codes"])
@pytest.mark.parametrize("few", [0, 1000], ids=["vectorised", "one by one"])
def test_many_equal_one_at_a_time(
    serving: Client, units: Any, segments: str | None, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.serving._FEW", few)
    each = ["new", None, "other"] * (len(UNITS) // 3) if segments in ("cycle", "codes") else [segments] * len(UNITS)
    given: dict[str | None, Any] = {"cycle": each, "codes": Coded(np.arange(len(UNITS)) % 3, ["new", None, "other"])}
    many = serving.assign_many(units, given.get(segments, segments))
    for n, unit in enumerate(UNITS):
        one = serving.assign(unit, each[n])
        served = Assigned(many.arms[many.arm[n]], many.version, many.weights[many.row[n]], int(many.bucket[n]))
        assert weights_of(served) == weights_of(one)


@pytest.mark.parametrize("kind", [*np.typecodes["AllInteger"]])
def test_segments_may_be_codes_of_any_integers(serving: Client, kind: str) -> None:
    many = serving.assign_many(["u1", "u2"], Coded(np.array([0, 1], kind), ["new", "other"]))
    assert many.version == 1_000_001
    assert many.row.tolist() == serving.assign_many(["u1", "u2"], ["new", "other"]).row.tolist()


@pytest.mark.parametrize(
    "segments",
    [
        pa.array(["new", "other"]),
        pa.chunked_array([["new"], ["other"]]),
        pa.array(["new", "other"]).dictionary_encode(),
        Coded(pa.array([0, 1]), pa.array(["new", "other"])),
    ],
    ids=["array", "chunked", "dictionary", "codes"],
)
def test_segments_may_stand_in_arrow_arrays_as_units_may(serving: Client, segments: Any) -> None:
    many = serving.assign_many(pa.array(["u1", "u2"]), segments)
    assert many.version == 1_000_001
    assert many.row.tolist() == serving.assign_many(["u1", "u2"], ["new", "other"]).row.tolist()
    assert many.row.tolist() != serving.assign_many(["u1", "u2"]).row.tolist()


def test_any_negative_code_means_no_segment(serving: Client) -> None:
    codes = np.array([-1, -2, -3, np.iinfo(np.int64).min])
    many = serving.assign_many(UNITS[:4], Coded(codes, ["new", "new"]))
    assert many.version == 1_000_001
    assert many.row.tolist() == serving.assign_many(UNITS[:4]).row.tolist()


def test_an_expired_table_serves_its_fallback_arm_as_version_0(connect: Connect) -> None:
    publish(connect(), table(fallback="e1"))
    with client_of(connect()) as client:
        assert client.wait()
        last, gone = NOW + 1000, NOW + 1001
        assert client.assign("u1", now_ms=last).version == 1_000_001
        assert client.assign_many(["u1"], now_ms=last).version == 1_000_001
        assert weights_of(client.assign("u1", "new", gone)) == ("e1", 0, [1.0, 4.0], UNKNOWN_BUCKET)
        many = client.assign_many(["u1", "u2"], ["new", "old"], gone)
        assert (many.version, many.arms[many.arm[0]]) == (0, "e1")
        assert many.unit_weights().tolist() == [[1.0, 4.0], [1.0, 3.0]]


def test_the_clock_decides_when_no_time_is_given(connect: Connect) -> None:
    now = [NOW]
    publish(connect(), table())
    with client_of(connect(), clock=lambda: now[0]) as client:
        assert client.wait()
        assert (client.assign("u1").version, client.status().expired) == (1_000_001, False)
        now[0] += 1001
        assert (client.assign("u1").version, client.status().expired, client.status().age_ms) == (0, True, 1001)


def test_null_never_expires(connect: Connect) -> None:
    publish(connect(), table(valid_until_ms=None))
    with client_of(connect()) as client:
        assert client.wait()
        assert client.assign("u1", now_ms=2**62).version == 1_000_001


def test_weights_come_in_the_order_of_the_baseline_and_new_ones_keep_it(connect: Connect) -> None:
    publish(connect(), table())
    with Client("feed", connect(), {"p_like": 9.0, "p_new": 0.25, "p_click": 9.0}, clock=lambda: NOW) as client:
        assert client.wait()
        unit = next(unit for unit in UNITS if bucket_of(unit) % 3 == 2)
        assert client.weights == ("p_like", "p_new", "p_click")
        assert client.assign(unit).weights.tolist() == [5.0, 0.25, 1.0]


# Nothing that a request passes in may fail the request.


@pytest.mark.parametrize("unit", [5, None, 1.5, ["u"], {"u": 1}, object(), "\ud800", np.arange(3)])
def test_an_unusable_unit_is_served_with_the_fallback_and_counted(serving: Client, unit: Any) -> None:
    assert weights_of(serving.assign(unit)) == ("control", 0, [1.0, 2.0], UNKNOWN_BUCKET)
    assert (serving.status().unusable, serving.status().fallbacks) == (1, 1)
    assert str(serving.status().last_error).startswith("assign: ")
    assert serving.assign_many(["u1", unit]).version == 0
    assert serving.status().unusable == 3


@pytest.mark.parametrize("unit", [5, None, "\ud800"])
def test_an_unusable_unit_is_counted_as_one_without_a_valid_table_too(connect: Connect, unit: Any) -> None:
    now_ms = NOW
    with client_of(connect(), clock=lambda: now_ms) as client:
        for held in range(2):  # none yet, then one that has expired
            assert client.assign(unit, "new").version == 0
            assert client.assign_many(["u1", unit], "new").row.tolist() == [0, 0]
            assert (client.status().unusable, client.status().fallbacks) == (3 * held + 3, 3 * held + 3)
            publish(connect(), table())
            assert client.wait()
            now_ms += 1_000_000


@pytest.mark.parametrize(
    ("units", "n"),
    [("u1", 2), (b"u1", 2), (None, 0), (5, 0), ({"a", "b"}, 2), (pa.array(["a", None]), 2), (pa.array([1, 2]), 2)],
)
def test_unusable_collections_are_served_with_the_fallback(serving: Client, units: Any, n: int) -> None:
    many = serving.assign_many(units)
    assert (many.version, many.row.tolist(), many.bucket.tolist()) == (0, [0] * n, [UNKNOWN_BUCKET] * n)
    assert serving.status().last_error


@pytest.mark.parametrize("held", [False, True])
def test_no_units_in_arrows_layout_may_come_without_an_offset(connect: Connect, held: bool) -> None:
    """Arrow lets an array of length 0 leave its offsets out."""
    nobody = Packed(np.zeros(0, np.uint8), np.zeros(0, np.int64))
    with client_of(connect()) as client:
        if held:
            publish(connect(), table())
            assert client.wait()
        assert client.assign_many(nobody).arm.tolist() == []
        assert (client.status().fallbacks, client.status().unusable) == (0, 0)


@pytest.mark.parametrize("segments", [["new"], [["new"], ["new"]], Coded(np.array([0, 1]), ["new"]), 5])
def test_unusable_segments_are_served_with_the_fallback(serving: Client, segments: Any) -> None:
    assert serving.assign_many(["u1", "u2"], segments).version == 0
    assert serving.status().unusable == 2
    assert serving.assign("u1", [segments]).version == 0  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize("now_ms", ["soon", [1]])
def test_an_unusable_time_is_served_with_the_fallback(serving: Client, now_ms: Any) -> None:
    assert serving.assign("u1", now_ms=now_ms).version == 0
    assert serving.assign_many(["u1"], now_ms=now_ms).version == 0


def test_no_units(serving: Client) -> None:
    assert serving.assign_many([]).row.shape == (0,)


def test_what_is_served_cannot_be_changed_by_the_caller(serving: Client) -> None:
    with pytest.raises(ValueError, match="read-only"):
        serving.assign("u1").weights[0] = 0.0


def test_programming_errors_are_named_at_construction() -> None:
    with pytest.raises(ValueError, match="at least one weight"):
        Client("feed", fakeredis.FakeRedis(), {})
    with pytest.raises(ValueError, match="finite numbers, found nan for 'p_click'"):
        Client("feed", fakeredis.FakeRedis(), {"p_click": float("nan")})
    for baseline in ({"p_click": None}, ["p_click"]):
        with pytest.raises(ValueError, match="baseline must map weight names to numbers"):
            Client("feed", fakeredis.FakeRedis(), baseline)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scheme"):
        Client("feed", "localhost:6379", BASELINE)
    for study in ("", "Feed", "a b", None):
        with pytest.raises(ValueError, match=f"study must be 1 to 100 of the characters a-z, .* found {study!r}"):
            Client(study, fakeredis.FakeRedis(), BASELINE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="form must be 'linear' or 'power', found 'cubic'"):
        Client("feed", fakeredis.FakeRedis(), BASELINE, form="cubic")  # type: ignore[arg-type]


# The value model.

predictions = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20)
weights = st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))


@given(predictions, weights, st.sampled_from(["linear", "power"]))
def test_scores_equal_their_definition(p: list[tuple[float, ...]], w: tuple[float, ...], form: Form) -> None:
    scores = score(p, w, form)
    for row, found in zip(p, scores, strict=True):
        if form == "linear":
            expected = sum(a * b for a, b in zip(w, row, strict=True))
        else:
            expected = float(np.prod([max(b, 1e-9) ** a for a, b in zip(w, row, strict=True)]))
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("form", ["linear", "power"])
def test_one_weight_vector_or_one_a_candidate(form: Form) -> None:
    p = np.random.default_rng(0).random((5, 3))
    w = np.array([1.0, -0.5, 2.0])
    np.testing.assert_allclose(score(p, np.tile(w, (5, 1)), form), score(p, w, form))


def test_predictions_at_or_below_zero_have_a_floor_in_the_power_form() -> None:
    assert score([[0.0, 0.5], [-1.0, 0.5]], [1.0, 1.0], "power").tolist() == pytest.approx([5e-10, 5e-10])


@pytest.mark.parametrize(("p", "w"), [([1.0, 2.0], [1.0, 2.0]), ([[1.0, 2.0]], [1.0]), ([[1.0, 2.0]], [[1.0]])])
def test_shapes_that_do_not_fit_are_refused(p: Any, w: Any) -> None:
    with pytest.raises(ValueError, match=r"expected predictions \(n, W\)"):
        score(p, w)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="'linear' or 'power', found 'cubic'"):
        score([[1.0]], [1.0], "cubic")  # type: ignore[arg-type]  # what is tested


# The document that other languages are written from.


def test_the_document_has_the_vectors_of_the_hash() -> None:
    text = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = re.findall(r'^\| `(".*?")` \| `(".*?")` \| (\d+) \| `([0-9a-f]{16})` \| (\d+) \|$', text, re.MULTILINE)
    vectors = [(json.loads(salt), json.loads(unit), int(b), int(h, 16), int(n)) for salt, unit, b, h, n in rows]
    assert len(vectors) >= 12
    units = [unit for _, unit, *_ in vectors]
    assert "" in units
    assert any(len(unit.encode()) >= 32 for unit in units)
    assert any(not unit.isascii() for unit in units)
    for salt, unit, buckets, expected, bucket in vectors:
        assert xxhash.xxh64_intdigest((salt + unit).encode()) == expected
        assert xxh64((salt + unit).encode()) == expected
        assert unit_hashes([unit], salt).tolist() == [expected]
        assert buckets_of(np.array([expected], np.uint64), buckets).tolist() == [bucket]


def test_the_table_in_the_document_is_one() -> None:
    text = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    example = decode(text.split("```json\n")[1].split("```")[0].encode())
    assert (example.version, example.arms[1].theta["new"]) == (12000418, (1.0, 3.0, 0.4))
