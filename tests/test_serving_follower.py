"""How tables reach a serving client: announced, polled, refused; and what no fault of Redis may do to it."""

import socket
import threading
from collections.abc import Iterator

import pytest
import redis

from controller.assignment import Arm, Assignment, encode
from controller.serving import UNKNOWN_BUCKET, Client
from controller.serving_follower import Counts
from tests.services.redis_server import MakeRedis
from tests.serving_study import (
    BOTH,
    BUCKETS,
    NAME,
    NOW,
    Connect,
    client_of,
    connections,
    publish,
    subscribers,
    table,
    weights_of,
)
from tests.waiting import wait_until


@pytest.fixture(params=BOTH)
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    with connections(request) as made:
        yield made


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


def test_a_table_is_counted_before_anybody_sees_it(connect: Connect) -> None:
    """Else a status right after `wait` now and then told of one table less."""
    seen: list[int] = []

    class Watched(Counts):
        def add(self, name: str, n: int = 1) -> None:
            if name == "taken":
                seen.append(client.version)
            super().add(name, n)

    with client_of(connect()) as client:
        client._follower.counts = Watched()
        publish(connect(), table())
        assert client.wait()
        assert (seen, client.status().taken) == ([0], 1)


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


def test_another_table_of_the_version_held_is_not_taken_even_when_that_one_has_expired(connect: Connect) -> None:
    publisher = connect()
    publish(publisher, table(valid_until_ms=NOW - 1))
    with client_of(connect(), poll_s=0.01) as client:
        assert client.wait()
        publish(publisher, table(fallback="e1", valid_until_ms=NOW + 9000))
        wait_until(lambda: client.status().older == 1, "the other table is seen")
        assert (client.status().taken, client.assign("u1").version, client.assign("u1").arm) == (1, 0, "control")


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
        reader = threading.Thread(target=read, args=(client,), daemon=True)
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
