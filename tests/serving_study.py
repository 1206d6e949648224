"""The study that the serving tests serve, and a Redis, fake or real, to serve it from."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import fakeredis
import msgspec
import pytest
import redis
import xxhash

from controller.assignment import Arm, Assignment, UnitHash, encode, key
from controller.serving import Assigned, Client

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


BOTH = ["fake", pytest.param("real", marks=pytest.mark.redis)]  # parameters of a fixture that calls `connections`


@contextmanager
def connections(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes connections to one empty Redis, so that a contract is held to on the fake and on a real one."""
    server = fakeredis.FakeServer()
    url = request.getfixturevalue("redis_url") if request.param == "real" else ""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(redis.Redis.from_url(url) if url else fakeredis.FakeRedis(server=server))


def client_of(connection: redis.Redis | str, **options: Any) -> Client:
    defaults: dict[str, Any] = {"clock": lambda: NOW, "poll_s": 0.05}
    return Client("feed", connection, BASELINE, **(defaults | options))


def weights_of(served: Assigned) -> tuple[str, int, list[float], int]:
    return served.arm, served.version, served.weights.tolist(), served.bucket


def subscribers(connection: redis.Redis) -> int:
    try:
        return int(dict(connection.pubsub_numsub(NAME))[NAME.encode()])
    except redis.ConnectionError:
        return 0
