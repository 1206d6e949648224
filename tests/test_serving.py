"""The serving client: what it serves, from which table, and what no fault may do to it."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import msgspec
import numpy as np
import pyarrow as pa
import pytest
import redis
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from controller.assignment import Arm, Assignment, Form, UnitHash, decode, encode, key
from controller.serving import UNKNOWN_BUCKET, Assigned, Client, Coded, score
from controller.unit_hash import buckets_of, pack, unit_hashes, xxh64
from tests.services.redis_server import MakeRedis
from tests.waiting import wait_until

NAME = key("feed")
BASELINE = {"p_click": 1.0, "p_like": 2.0}
NOW = 1_700_000_000_000
BUCKETS = 64
Connect = Callable[[], redis.Redis]
UNITS = [f"user{n}" for n in range(300)] + ["", "ünïcode", "x" * 40]


def table(version: int = 1_000_001, **changes: Any) -> Assignment:
    return msgspec.structs.replace(
        Assignment(
            study="feed",
            version=version,
            epoch=version // 1_000_000,
            stage="explore",
            published_ms=NOW,
            decided_through_ms=NOW,
            valid_until_ms=NOW + 1000,
            unit_hash=UnitHash(salt="feed:", buckets=BUCKETS),
            form="linear",
            weights=("p_click", "p_like"),
            fallback="control",
            arms=(
                Arm("control", "control", {"all": (1.0, 2.0)}),
                Arm("e1", "explore", {"all": (1.0, 3.0), "new": (1.0, 4.0)}),
                Arm("e2", "explore", {"all": (1.0, 5.0)}),
            ),
            buckets=tuple(n % 3 for n in range(BUCKETS)),
        ),
        **changes,
    )


def publish(connection: redis.Redis, stored: Assignment) -> None:
    connection.set(NAME, encode(stored))
    connection.publish(NAME, stored.version)


def bucket_of(unit: str | bytes) -> int:
    data = unit.encode() if isinstance(unit, str) else unit
    return xxhash.xxh64_intdigest(b"feed:" + data) % BUCKETS


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.redis)])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes connections to one empty Redis: every contract below holds on the fake and on a real one."""
    made: list[redis.Redis] = []
    server = fakeredis.FakeServer()
    url = request.getfixturevalue("redis_url") if request.param == "real" else ""

    def connection() -> redis.Redis:
        made.append(redis.Redis.from_url(url) if url else fakeredis.FakeRedis(server=server))
        return made[-1]

    yield connection
    for each in made:
        each.close()


def client_of(connection: redis.Redis | str, **options: Any) -> Client:
    defaults: dict[str, Any] = {"clock": lambda: NOW, "poll_s": 0.05}
    return Client("feed", connection, BASELINE, **(defaults | options))


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


def test_an_expired_table_serves_its_fallback_arm_as_version_0(connect: Connect) -> None:
    publish(connect(), table(fallback="e1"))
    with client_of(connect()) as client:
        assert client.wait()
        last, gone = NOW + 1000, NOW + 1001
        assert client.assign("u1", now_ms=last).version == 1_000_001
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


@pytest.mark.parametrize(
    ("units", "n"),
    [("u1", 2), (b"u1", 2), (None, 0), (5, 0), ({"a", "b"}, 2), (pa.array(["a", None]), 2), (pa.array([1, 2]), 2)],
)
def test_unusable_collections_are_served_with_the_fallback(serving: Client, units: Any, n: int) -> None:
    many = serving.assign_many(units)
    assert (many.version, many.row.tolist(), many.bucket.tolist()) == (0, [0] * n, [UNKNOWN_BUCKET] * n)
    assert serving.status().last_error


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


# How tables arrive.


def test_an_announced_table_is_seen_without_waiting_for_a_poll(connect: Connect) -> None:
    publisher = connect()
    publish(publisher, table())
    with client_of(connect(), poll_s=3600.0) as client:
        assert client.wait()
        wait_until(lambda: subscribers(publisher) == 1, "the client subscribes")
        for n in range(2, 12):
            publish(publisher, table(1_000_000 + n))
            assert client.wait(after=1_000_000 + n - 1)
        assert client.version == 1_000_011


def test_a_lost_announcement_is_healed_by_polling(connect: Connect) -> None:
    publisher = connect()
    with client_of(connect()) as client:
        publisher.set(NAME, encode(table()))
        assert client.wait()


@pytest.mark.parametrize(
    "garbage",
    [
        b"not json",
        b"\xff\xfe",
        b"[" * 100_000,
        encode(table(2_000_001))[:-2],
        encode(table(2_000_001, study="other")),
        encode(table(2_000_001, form="power")),
        encode(table(2_000_001, weights=("p_click", "p_share"))),
        encode(table(2_000_001, buckets=(7,) * BUCKETS)),
        encode(table(0)),
    ],
    ids=["text", "bytes", "deep", "cut", "study", "form", "weights", "buckets", "version"],
)
def test_garbage_in_the_key_is_refused_once_and_the_last_table_serves_on(connect: Connect, garbage: bytes) -> None:
    publisher = connect()
    publish(publisher, table())
    with client_of(connect(), poll_s=0.01) as client:
        assert client.wait()
        publisher.set(NAME, garbage)
        wait_until(lambda: client.status().refused == 1, "the garbage is refused")
        assert "refused" in str(client.status().last_error)
        assert client.assign("u1").version == 1_000_001
        publish(publisher, table(1_000_002))
        assert client.wait(after=1_000_001)
        assert (client.status().refused, client.status().taken) == (1, 2)


def test_a_key_of_another_kind_is_a_failed_read_and_heals(connect: Connect) -> None:
    publisher = connect()
    publisher.rpush(NAME, "a list")
    with client_of(connect()) as client:
        wait_until(lambda: client.status().read_failures > 0, "the read fails")
        assert client.assign("u1").arm == "control"
        publisher.delete(NAME)
        publish(publisher, table())
        assert client.wait()


def test_an_older_table_is_not_taken_while_the_newer_one_holds(connect: Connect) -> None:
    publisher, now = connect(), [NOW]
    publish(publisher, table(3_000_001))
    with client_of(connect(), clock=lambda: now[0]) as client:
        assert client.wait()
        publish(publisher, table(2_000_009, valid_until_ms=NOW + 9000))
        wait_until(lambda: client.status().older == 1, "the older table is seen")
        assert client.assign("u1").version == 3_000_001
        now[0] += 1001  # the newer one has expired, and the older one is what Redis says
        wait_until(lambda: client.version == 2_000_009, "the older table is taken")
        assert client.assign("u1").version == 2_000_009


def test_a_flush_keeps_the_last_table(connect: Connect) -> None:
    publisher = connect()
    publish(publisher, table())
    with client_of(connect()) as client:
        assert client.wait()
        publisher.flushdb()
        wait_until(lambda: client.status().missing == 1, "the flush is seen")
        assert client.assign("u1").version == 1_000_001
        assert client.status().connected


def test_text_connections_serve_too(connect: Connect) -> None:
    connection = connect()
    connection.connection_pool.connection_kwargs["decode_responses"] = True
    publish(connection, table())
    with client_of(connection) as client:
        assert client.wait()


def test_swaps_are_atomic_for_readers_in_other_threads(connect: Connect) -> None:
    """Every table serves one arm whose weight is its version: a mixture of two tables would show."""
    publisher, faults, stop = connect(), list[str](), threading.Event()

    def read(client: Client) -> None:
        while not stop.is_set():
            one, many = client.assign("u1"), client.assign_many(["u1", "u2"])
            if one.weights[0] != one.version or many.unit_weights()[:, 0].tolist() != [many.version] * 2:
                faults.append(f"{one} {many}")

    def of_version(version: int) -> Assignment:
        arm = Arm("control", "control", {"all": (float(version), 0.0)})
        return table(version, arms=(arm,), buckets=(0,) * BUCKETS)

    publish(publisher, of_version(1_000_001))
    with client_of(connect()) as client:
        assert client.wait()
        reader = threading.Thread(target=read, args=(client,))
        reader.start()
        for version in range(1_000_002, 1_000_042):
            publish(publisher, of_version(version))
            assert client.wait(after=version - 1)
        stop.set()
        reader.join()
    assert faults == []


def test_close_ends_the_thread_and_the_last_table_serves_on(connect: Connect) -> None:
    publish(connect(), table())
    client = client_of(connect())
    assert client.wait()
    client.close()
    client.close()
    assert not client.status().running
    assert client.assign("u1").version == 1_000_001


# Faults of a real Redis.


def test_redis_down_at_construction(redis_server: MakeRedis) -> None:
    server = redis_server()
    server.stop()
    with client_of(server.url) as client:
        wait_until(lambda: client.status().read_failures > 0, "the failure is counted")
        assert weights_of(client.assign("u1")) == ("control", 0, [1.0, 2.0], UNKNOWN_BUCKET)
        assert (client.status().connected, client.status().running) == (False, True)
        server.start()
        with redis.Redis.from_url(server.url) as publisher:
            publish(publisher, table())
        assert client.wait(timeout_s=20)
        wait_until(lambda: client.status().connected, "connected again")


def test_redis_killed_and_restarted_in_mid_run(redis_server: MakeRedis) -> None:
    server = redis_server()
    with client_of(server.url, poll_s=3600.0) as client, redis.Redis.from_url(server.url) as publisher:
        publish(publisher, table())
        assert client.wait()
        server.kill()
        wait_until(lambda: not client.status().connected, "the loss is noticed")
        assert client.assign("u1").version == 1_000_001
        server.start()
        wait_until(lambda: subscribers(publisher) == 1, "the client subscribes again")
        publish(publisher, table(1_000_002))
        assert client.wait(after=1_000_001, timeout_s=20)


def test_a_redis_that_hangs_delays_nobody(redis_server: MakeRedis) -> None:
    server = redis_server()
    with client_of(server.url) as client:
        with redis.Redis.from_url(server.url) as publisher:
            publish(publisher, table())
        assert client.wait()
        server.pause()
        wait_until(lambda: not client.status().connected, "the hang is noticed")
        assert client.assign("u1").version == 1_000_001
        server.unpause()
        wait_until(lambda: client.status().connected, "connected again")


def test_a_redis_that_refuses_subscriptions_is_polled(redis_server: MakeRedis) -> None:
    server = redis_server()
    with redis.Redis.from_url(server.url) as publisher:
        publisher.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~trimtab:*", "resetchannels", "+@all")
        with client_of(server.url.replace("://", "://reader:secret@")) as client:
            for version in (1_000_001, 1_000_002):
                publisher.set(NAME, encode(table(version)))
                assert client.wait(after=version - 1, timeout_s=20)
            assert "secret" not in str(client.status())


def test_a_server_that_is_no_redis_does_not_end_the_client() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with server, client_of(f"redis://127.0.0.1:{server.getsockname()[1]}/0") as client:
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            wait_until(lambda: client.status().read_failures > 0, "the failure is counted")
        assert client.assign("u1").arm == "control"


def test_programming_errors_are_named_at_construction() -> None:
    with pytest.raises(ValueError, match="at least one weight"):
        Client("feed", fakeredis.FakeRedis(), {})
    with pytest.raises(ValueError, match="scheme"):
        Client("feed", "localhost:6379", BASELINE)


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


def weights_of(served: Assigned) -> tuple[str, int, list[float], int]:
    return served.arm, served.version, served.weights.tolist(), served.bucket


def subscribers(connection: redis.Redis) -> int:
    try:
        return int(dict(connection.pubsub_numsub(NAME))[NAME.encode()])
    except redis.ConnectionError:
        return 0


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
