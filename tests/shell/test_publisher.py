"""One contract suite, run on the publisher in memory, on fakeredis and on a real Redis; then each Redis's own."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import fakeredis
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller import assignment
from controller.assignment import MAX_VERSION
from controller.serving import Client
from controller.shell.publisher import (
    MemoryPublisher,
    Publisher,
    PublisherRefused,
    PublisherUnavailable,
    RedisPublisher,
    Stored,
    connect,
)
from tests.services.process import free_port
from tests.services.redis_server import MakeRedis
from tests.waiting import wait_until

KEY = "trimtab:feed:assignment"
HISTORY_S = 600


def table(version: int, note: str = "", epoch: int | None = None) -> bytes:
    return json.dumps(
        {"version": version, "epoch": version // 1_000_000 if epoch is None else epoch, "note": note}
    ).encode()


class Place(Protocol):
    """Where a publisher publishes to, as a client or an operator sees it."""

    @property
    def publisher(self) -> Publisher: ...

    def put(self, raw: bytes) -> None: ...
    def table(self) -> bytes | None: ...
    def past(self, version: int) -> bytes | None: ...
    def announced(self) -> list[int]:
        """The versions announced since the last call."""


class Memory:
    def __init__(self) -> None:
        self.publisher = MemoryPublisher()

    def put(self, raw: bytes) -> None:
        self.publisher.table = raw

    def table(self) -> bytes | None:
        return self.publisher.table

    def past(self, version: int) -> bytes | None:
        return self.publisher.history.get(version)

    def announced(self) -> list[int]:
        found, self.publisher.announced = self.publisher.announced, []
        return found


def as_bytes(reply: object) -> bytes | None:
    assert reply is None or isinstance(reply, bytes)
    return reply


class InRedis:
    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.publisher = RedisPublisher(client, "feed", HISTORY_S)
        self.channel = client.pubsub()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        self.channel.subscribe(KEY)
        assert self.channel.get_message(timeout=5)

    def put(self, raw: bytes) -> None:
        self.client.set(KEY, raw)

    def table(self) -> bytes | None:
        return as_bytes(self.client.get(KEY))

    def past(self, version: int) -> bytes | None:
        return as_bytes(self.client.get(f"{KEY}:{version}"))

    def announced(self) -> list[int]:
        self.client.publish(KEY, b"end")
        found = []
        while (message := self.channel.get_message(timeout=5)) is not None and message["data"] != b"end":
            found.append(int(message["data"]))
        return found

    def close(self) -> None:
        self.channel.close()
        self.client.close()


@pytest.fixture(params=["fake", "real"])
def in_redis(request: pytest.FixtureRequest) -> Iterator[InRedis]:
    fake = request.param == "fake"
    place = InRedis(fakeredis.FakeRedis() if fake else connect(request.getfixturevalue("redis_url"), None))
    yield place
    place.close()


@pytest.fixture(params=["memory", "fake", "real"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "memory":
        yield Memory()
        return
    fake = request.param == "fake"
    redis_place = InRedis(fakeredis.FakeRedis() if fake else connect(request.getfixturevalue("redis_url"), None))
    yield redis_place
    redis_place.close()


# The contract


def test_the_first_table_is_stored_kept_and_announced(place: Place) -> None:
    assert place.publisher.stored() is None
    offered = table(3_000_001)
    assert place.publisher.publish(offered, 3_000_001) == Stored(True, 3_000_001, 3)
    assert place.publisher.stored() == (3_000_001, 3)
    assert place.table() == place.past(3_000_001) == offered
    assert place.announced() == [3_000_001]


def test_a_rising_version_replaces_and_the_past_stays(place: Place) -> None:
    for version in (1_000_000, 1_000_001, 2_000_000):
        assert place.publisher.publish(table(version), version).accepted
    assert place.table() == table(2_000_000)
    assert [place.past(v) for v in (1_000_000, 1_000_001)] == [table(1_000_000), table(1_000_001)]
    assert place.announced() == [1_000_000, 1_000_001, 2_000_000]


def test_identical_bytes_are_a_retry_and_announced_again(place: Place) -> None:
    for _ in range(2):
        assert place.publisher.publish(table(5), 5) == Stored(True, 5, 0)
    assert place.announced() == [5, 5]


def test_one_version_never_names_two_tables(place: Place) -> None:
    place.publisher.publish(table(5), 5)
    assert place.publisher.publish(table(5, "another"), 5) == Stored(False, 5, 0)
    assert place.table() == place.past(5) == table(5)
    assert place.announced() == [5]


def test_a_stale_epoch_cannot_overwrite_and_learns_what_is_there(place: Place) -> None:
    place.publisher.publish(table(4_000_000), 4_000_000)
    for version in (3_999_999, 3_000_000, 0):
        assert place.publisher.publish(table(version), version) == Stored(False, 4_000_000, 4)
        assert place.past(version) is None
    assert place.table() == table(4_000_000)
    assert place.announced() == [4_000_000]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"no json",
        b"\xff\xfe",
        b"5",
        b'"7"',
        b"[9]",
        b"null",
        b"{}",
        b'{"version": "9"}',
        b'{"version": null}',
        b'{"version": true}',
        b'{"version": 9.5}',
        b'{"version": -9}',
        b'{"version": 1e300}',
        b'{"version": {"version": 9}}',
        b'{"version": 9',
        b"[" * 2000 + b"]" * 2000,
    ],
)
def test_what_is_no_table_counts_as_nothing(place: Place, garbage: bytes) -> None:
    place.put(garbage)
    assert place.publisher.stored() is None
    assert place.publisher.publish(table(1), 1) == Stored(True, 1, 0)
    assert place.table() == table(1)


def test_an_unusable_epoch_is_told_by_the_version(place: Place) -> None:
    """Whoever goes on with a higher epoch than was told must then be above the version as well."""
    for epoch in (b"0", b'"x"', b"null", b"-4", b"0.5"):
        place.put(b'{"version": 12000417, "epoch": %b}' % epoch)
        assert place.publisher.stored() == (12_000_417, 12)
    place.put(b'{"version": 12000417, "epoch": 40}')
    assert place.publisher.publish(table(12_000_416), 12_000_416) == Stored(False, 12_000_417, 40)


def test_versions_are_exact_up_to_2_to_the_53(place: Place) -> None:
    for version in range(MAX_VERSION - 3, MAX_VERSION + 1):
        assert place.publisher.publish(table(version), version).version == version
        assert place.publisher.publish(table(version - 1, "late"), version - 1) == Stored(
            False, version, version // 1_000_000
        )
    assert place.announced() == list(range(MAX_VERSION - 3, MAX_VERSION + 1))


@pytest.mark.parametrize("version", [-1, MAX_VERSION + 1])
def test_a_version_that_lua_cannot_hold_is_a_mistake(place: Place, version: int) -> None:
    with pytest.raises(ValueError, match=f"expected a version from 0 to {MAX_VERSION}, found {version}"):
        place.publisher.publish(table(1), version)
    assert place.table() is None


def test_a_real_table_of_many_buckets(place: Place) -> None:
    whole = assignment.Assignment(
        study="feed",
        version=7_000_042,
        epoch=7,
        stage="explore",
        published_ms=1,
        decided_through_ms=0,
        valid_until_ms=None,
        unit_hash=assignment.UnitHash("feed:", 10_000),
        form="linear",
        weights=("p_click", "p_like"),
        fallback="control",
        arms=(assignment.Arm("control", "control", {"all": (1.0, 0.1 + 0.2)}),),
        buckets=(0,) * 10_000,
    )
    place.publisher.publish(assignment.encode(whole), whole.version)
    found = place.table()
    assert found is not None
    assert assignment.decode(found) == whole
    assert place.publisher.stored() == (7_000_042, 7)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offers=st.lists(st.tuples(st.integers(0, 6), st.sampled_from("ab")), max_size=12))
def test_in_any_order_of_offers_the_version_only_rises(place: Place, offers: list[tuple[int, str]]) -> None:
    place.put(b"")
    place.announced()
    held: tuple[int, str] | None = None
    announced = []
    for version, note in offers:
        expected = held is None or version > held[0] or (version, note) == held
        answer = place.publisher.publish(table(version, note), version)
        assert answer.accepted == expected
        if expected:
            held = version, note
            announced.append(version)
        assert held is not None
        assert answer.version == held[0]
        assert place.table() == table(*held)
    assert place.announced() == announced == sorted(announced)


def test_memory_is_away_for_as_long_as_it_is_told() -> None:
    publisher = MemoryPublisher()
    publisher.publish(table(1), 1)
    publisher.fault = "no route"
    attempts: list[Callable[[], object]] = [publisher.stored, lambda: publisher.publish(table(2), 2)]
    for attempt in attempts:
        with pytest.raises(PublisherUnavailable, match="no route"):
            attempt()
    publisher.fault = None
    assert publisher.stored() == (1, 0)


# Redis itself


def test_the_past_expires_and_a_retry_renews_it(in_redis: InRedis) -> None:
    in_redis.publisher.publish(table(5), 5)
    past = f"{KEY}:5"
    in_redis.client.pexpire(past, 1000)
    in_redis.publisher.publish(table(5), 5)
    left: Any = in_redis.client.pttl(past)
    assert HISTORY_S * 1000 - 60_000 < left <= HISTORY_S * 1000
    assert in_redis.client.ttl(KEY) == -1  # the table itself stays: clients judge it by valid_until_ms


def test_scripts_that_were_flushed_are_loaded_again(in_redis: InRedis) -> None:
    for version in (1, 2, 3):
        assert in_redis.publisher.publish(table(version), version).accepted
        in_redis.client.script_flush()
        assert in_redis.publisher.stored() == (version, 0)
        in_redis.client.script_flush()


def test_a_key_of_another_type_counts_as_nothing(in_redis: InRedis) -> None:
    in_redis.client.rpush(KEY, b"x")
    assert in_redis.publisher.stored() is None
    assert in_redis.publisher.publish(table(1), 1) == Stored(True, 1, 0)
    assert in_redis.table() == table(1)


def test_reading_leaves_no_trace(in_redis: InRedis) -> None:
    in_redis.publisher.stored()
    assert in_redis.client.keys() == []
    assert in_redis.announced() == []


def test_two_publishers_at_once_leave_the_highest(redis_url: str) -> None:
    """Each daemon counts up within its own epoch; whatever the interleaving, the version only rises."""
    place = InRedis(connect(redis_url, None))
    accepted: dict[int, list[int]] = {1: [], 2: []}
    start = threading.Barrier(2)

    def run(epoch: int) -> None:
        with connect(redis_url, None) as client:
            publisher = RedisPublisher(client, "feed", HISTORY_S)
            start.wait(60)
            for n in range(100):
                version = epoch * 1_000_000 + n
                if publisher.publish(table(version), version).accepted:
                    accepted[epoch].append(version)

    threads = [threading.Thread(target=run, args=(epoch,)) for epoch in accepted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    announced = place.announced()
    assert accepted[2] == [2_000_000 + n for n in range(100)]
    assert announced == sorted(announced) == sorted(accepted[1] + accepted[2])
    assert place.table() == table(2_000_099)
    place.close()


def test_a_restarted_redis_takes_tables_again(redis_server: MakeRedis) -> None:
    server = redis_server()
    with connect(server.url, None) as client:
        publisher = RedisPublisher(client, "feed", HISTORY_S)
        publisher.publish(table(1), 1)
        server.stop()
        with pytest.raises(PublisherUnavailable, match="Connection"):
            publisher.publish(table(2), 2)
        server.start()  # empty, its scripts forgotten, the old connection dead
        assert publisher.stored() is None
        assert publisher.publish(table(2), 2) == Stored(True, 2, 0)


def test_a_hanging_redis_is_given_up_in_time(redis_server: MakeRedis) -> None:
    server = redis_server()
    with connect(server.url, None) as client:
        publisher = RedisPublisher(client, "feed", HISTORY_S)
        publisher.publish(table(1), 1)
        server.pause()
        began = time.monotonic()
        with pytest.raises(PublisherUnavailable, match="Timeout"):
            publisher.publish(table(2), 2)
        assert time.monotonic() - began < 6
        server.unpause()
        assert publisher.publish(table(2), 2).accepted  # taken twice at most: the retry is byte-identical
        assert publisher.stored() == (2, 0)


def test_a_read_only_redis_is_worth_another_try(redis_server: MakeRedis) -> None:
    server = redis_server(arguments=("--replicaof", "127.0.0.1", "1"))
    with connect(server.url, None) as client:
        publisher = RedisPublisher(client, "feed", HISTORY_S)
        with pytest.raises(PublisherUnavailable, match=r"(?i)read.?only") as raised:
            publisher.publish(table(1), 1)
        assert not isinstance(raised.value, PublisherRefused)
        client.replicaof("NO", "ONE")
        assert publisher.publish(table(1), 1).accepted


def test_a_full_redis_is_worth_another_try(redis_server: MakeRedis) -> None:
    server = redis_server(arguments=("--maxmemory-policy", "noeviction"))
    with connect(server.url, None) as client:
        publisher = RedisPublisher(client, "feed", HISTORY_S)
        publisher.publish(table(1), 1)
        client.config_set("maxmemory", "1")
        with pytest.raises(PublisherUnavailable, match="maxmemory") as raised:
            publisher.publish(table(2), 2)
        assert not isinstance(raised.value, PublisherRefused)
        assert publisher.stored() == (1, 0)
        client.config_set("maxmemory", "0")
        assert publisher.publish(table(2), 2).accepted


def test_a_cluster_is_refused_before_anything_is_published(redis_server: MakeRedis) -> None:
    server = redis_server(arguments=("--cluster-enabled", "yes", "--cluster-port", str(free_port())))
    with connect(server.url, None) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")), "the cluster is up")
        with pytest.raises(PublisherUnavailable, match="name a Redis that is no part of one"):
            RedisPublisher(client, "feed").stored()


SECRET = "s3cr3t-words"


@pytest.mark.parametrize("password", [None, "wrong-words"])
def test_a_refused_login_is_the_operators_and_shows_no_password(redis_server: MakeRedis, password: str | None) -> None:
    server = redis_server(arguments=("--requirepass", SECRET))
    with (
        connect(server.url, password) as client,
        pytest.raises(PublisherRefused, match="TRIMTAB_REDIS_PASSWORD") as raised,
    ):
        RedisPublisher(client, "feed").publish(table(1), 1)
    assert password is None or password not in str(raised.value)
    with connect(server.url, SECRET) as client:
        assert RedisPublisher(client, "feed").publish(table(1), 1).accepted


def test_a_password_that_the_server_repeats_is_not_shown(redis_server: MakeRedis) -> None:
    server = redis_server(arguments=("--rename-command", "AUTH", ""))
    with connect(server.url, SECRET) as client, pytest.raises(PublisherUnavailable) as raised:
        RedisPublisher(client, "feed").publish(table(1), 1)
    assert SECRET not in str(raised.value)


def test_a_missing_permission_is_the_operators(redis_server: MakeRedis) -> None:
    server = redis_server()
    with connect(server.url, None) as admin:
        admin.acl_setuser("tab", enabled=True, passwords=[f"+{SECRET}"], keys=[f"{KEY}*"], commands=["+ping", "+get"])
        named = connect(server.url.replace("//", "//tab@"), SECRET)
        publisher = RedisPublisher(named, "feed")
        for more in (["+evalsha", "+eval"], ["+type"]):
            with pytest.raises(PublisherRefused, match="redis refuses this client"):
                publisher.publish(table(1), 1)
            admin.acl_setuser("tab", enabled=True, commands=more, reset=False)
        with pytest.raises(PublisherRefused, match="redis refuses this client"):
            publisher.publish(table(1), 1)
        admin.acl_setuser("tab", enabled=True, commands=["+set", "+publish"], channels=[KEY], reset=False)
        assert publisher.publish(table(1), 1).accepted  # what docs must ask for
        named.close()


@pytest.mark.parametrize("url", ["http://host", "redis://:s3cr3t-words@host:port", "s3cr3t-words@host"])
def test_an_impossible_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="redis://HOST:PORT/DB") as raised:
        connect(url, None)
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__


def test_nobody_at_the_address(redis_server: MakeRedis) -> None:
    server = redis_server()
    server.kill()
    with connect(server.url, None) as client, pytest.raises(PublisherUnavailable, match="refused") as raised:
        RedisPublisher(client, "feed").stored()
    place = server.url.removeprefix("redis://").partition("/")[0]
    assert str(raised.value).startswith(f"redis: Redis at {place} (redis.url): ConnectionError: ")


def test_one_who_hangs_up_is_named_with_place_and_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def hang_up() -> None:
            server.accept()[0].close()

        pool.submit(hang_up)
        place = f"127.0.0.1:{server.getsockname()[1]}"
        with connect(f"redis://{place}/0", None) as client, pytest.raises(PublisherUnavailable) as raised:
            RedisPublisher(client, "feed").stored()
    assert str(raised.value).startswith(f"redis: Redis at {place} (redis.url): ConnectionError: ")


@pytest.mark.parametrize(
    ("url", "place"),
    [("redis://[::1]:1/0", "[::1]:1"), ("redis://ann@localhost:1", "localhost:1"), ("unix:///no.sock", "/no.sock")],
)
def test_a_place_is_named_as_its_url_does(url: str, place: str) -> None:
    with connect(url, SECRET) as client, pytest.raises(PublisherUnavailable) as raised:
        RedisPublisher(client, "feed").stored()
    assert str(raised.value).startswith(f"redis: Redis at {place} (redis.url): ")


def test_a_socket_of_this_machine_serves_daemon_and_client(redis_server: MakeRedis, tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    redis_server(arguments=("--unixsocket", str(path)))
    client = connect(f"unix://{path}?db=1", None)
    assert client.ping()
    assert client.connection_pool.connection_kwargs["db"] == 1
    with Client("feed", f"unix://{path}", {"p_click": 1.0}) as serving:
        wait_until(lambda: serving.status().connected, "it is read through the socket")
