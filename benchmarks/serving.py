"""Serving: what `assign` and `assign_many` cost beside a naive loop, and how soon a new table is seen.

Claims: `assign` a few microseconds; `assign_many` a few tens of nanoseconds a unit; a table visible in a client
within 50 ms (p99) of its publication through a real Redis: TRIMTAB_TEST_REDIS, or a redis-server of its own.
"""

import argparse
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import redis
from rich.console import Console
from rich.table import Table
from xxhash import xxh64_intdigest

from controller.assignment import Arm, Assignment, UnitHash, encode, key
from controller.serving import Client, Coded, score
from controller.shell.publisher import RedisPublisher, connect
from controller.unit_hash import pack
from simulators.arguments import positive

STUDY = "benchmark-serving"
BASELINE = {f"p_{n}": 1.0 for n in range(8)}
BUCKETS, ARMS = 1000, 10
VISIBLE_MS = 50.0
ASSIGN_US = 5.0
_START_S = 20.0
_HISTORY_S = 60  # past tables leave a Redis that is not the benchmark's own


class Measure(msgspec.Struct, frozen=True):
    """One line: `ratio` is how many times better than `peer` (a loop measured here, or the claim's limit)."""

    what: str
    value: float
    unit: str
    peer: float
    peer_is: str
    ratio: float


def main(argv: Sequence[str]) -> int:
    """Measure and print; status 1 where a claim does not hold, or there is no Redis to measure with."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks serving", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--units", type=positive, default=200_000, help="units in one call of assign_many")
    parser.add_argument("--publications", type=positive, default=300)
    options = parser.parse_args(argv)
    with _redis_url() as url:
        if url is None:
            print("no Redis: set TRIMTAB_TEST_REDIS=redis://host:port/db or install redis-server")
            return 1
        measures = measure(url, options.units, options.publications)
    if options.json:
        print(msgspec.json.encode(measures).decode())
    else:
        _print(measures)
    return int(bool(missed(measures)))


def missed(measures: Sequence[Measure]) -> list[str]:
    """What is slower than is claimed."""
    return [line.what for line in measures if line.peer_is.startswith("claim") and line.value > line.peer]


def measure(url: str, units: int, publications: int) -> list[Measure]:
    """All claims, with a client of the Redis at `url`; its keys are removed or expire afterwards."""
    with connect(url, os.environ.get("TRIMTAB_REDIS_PASSWORD")) as server:
        publisher = RedisPublisher(server, STUDY, history_s=_HISTORY_S)  # the daemon's own way to Redis
        try:
            publisher.publish(encode(_table(1_000_000)), 1_000_000)
            with Client(STUDY, url, BASELINE) as client:
                client.wait()
                costs = [*call_costs(client, units), *scoring_costs(client)]
                quiet = visibility(client, publisher, publications, "idle process")
                with _busy_caller(client):
                    return [*costs, *quiet, *visibility(client, publisher, publications, "one thread always busy")]
        finally:
            server.delete(key(STUDY))


def call_costs(client: Client, n: int) -> list[Measure]:
    """`assign`, and `assign_many` for each type of input, beside a loop over units with a dict of weights."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(10**6, 10**8, n)
    texts = [f"user{number}" for number in numbers]
    raw = [text.encode() for text in texts]
    naive = _best_ns(lambda: _naive(client.table, texts)) / n
    cycle = ["new", None] * (n // 2) + ["new"] * (n % 2)
    coded = Coded(np.arange(n) % 2, ["new", None])
    packed = pack(texts)
    inputs = {
        "Packed (Arrow layout)": packed,
        "pyarrow.Array": pa.array(texts),
        "numpy S": np.array(raw),
        "numpy U": np.array(texts),
        "list of bytes": raw,
        "list of str": texts,
    }
    costs = {name: _best_ns(partial(client.assign_many, units)) / n for name, units in inputs.items()}
    costs["Packed, Coded segments"] = _best_ns(partial(client.assign_many, packed, coded)) / n
    costs["list of str and of segments"] = _best_ns(partial(client.assign_many, texts, cycle)) / n
    assign_us = _best_ns(lambda: [client.assign(text, "new") for text in texts[:2000]]) / 2000 / 1000
    return [
        _measure("assign", assign_us, "us", ASSIGN_US, "claim: a few us"),
        *(_measure(f"assign_many, {name}", ns, "ns/unit", naive, "naive loop") for name, ns in costs.items()),
    ]


def scoring_costs(client: Client) -> list[Measure]:
    """The value model over 1,000 candidates, beside a loop over candidates."""
    candidates = np.random.default_rng(0).random((1000, len(BASELINE)))
    weights = client.assign("u1").weights
    rows, theta = candidates.tolist(), weights.tolist()
    naive = _best_ns(lambda: [sum(w * p for w, p in zip(theta, row, strict=True)) for row in rows]) / 1000
    return [
        _measure("score, linear", _best_ns(lambda: score(candidates, weights)) / 1000, "ns/item", naive, "naive loop"),
        _measure(
            "score, power",
            _best_ns(lambda: score(candidates, weights, "power")) / 1000,
            "ns/item",
            naive,
            "linear loop",
        ),
    ]


def visibility(client: Client, publisher: RedisPublisher, publications: int, load: str) -> list[Measure]:
    """From just before a publication until a caller is served by it: p50 and p99, ms."""
    delays = np.empty(publications)
    for n in range(publications):
        version = client.version + 1
        data = encode(_table(version))
        began = time.perf_counter()
        publisher.publish(data, version)
        if not client.wait(after=version - 1):
            raise TimeoutError(f"version {version} was not seen: {client.status()}")
        delays[n] = (time.perf_counter() - began) * 1000
    return [
        _measure(f"new table visible, p{q}, {load}", float(np.percentile(delays, q)), "ms", VISIBLE_MS, "claim: p99")
        for q in (50, 99)
    ]


def _naive(table: Assignment | None, units: list[str]) -> list[tuple[str, tuple[float, ...]]]:
    """What one writes first: a hash, a look-up and a dict per unit."""
    if table is None:
        raise RuntimeError("no table was read")
    salt, buckets = table.unit_hash.salt, table.unit_hash.buckets
    of_bucket = {n: table.arms[arm] for n, arm in enumerate(table.buckets)}
    served = []
    for unit in units:
        arm = of_bucket[xxh64_intdigest((salt + unit).encode()) % buckets]
        served.append((arm.arm, arm.theta["all"]))
    return served


def _best_ns(call: Callable[[], object], repeats: int = 7) -> float:
    """The fastest of several runs: what the work costs when nothing else runs."""
    durations = []
    for _ in range(repeats):
        began = time.perf_counter_ns()
        call()
        durations.append(time.perf_counter_ns() - began)
    return float(min(durations))


def _measure(what: str, value: float, unit: str, peer: float, peer_is: str) -> Measure:
    return Measure(what, round(value, 3), unit, round(peer, 3), peer_is, round(peer / value, 2))


@contextmanager
def _busy_caller(client: Client) -> Iterator[None]:
    """A thread that never pauses, so that the client's own thread has to wait for the interpreter."""
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            client.assign("u1")

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield
    finally:
        stop.set()
        caller.join()


def _table(version: int) -> Assignment:
    now_ms = time.time_ns() // 1_000_000
    theta = tuple(BASELINE.values())
    arms = [Arm("control", "control", {"all": theta, "new": theta})]
    arms += [Arm(f"e{n}", "explore", {"all": theta, "new": theta}) for n in range(1, ARMS)]
    return Assignment(
        study=STUDY,
        version=version,
        epoch=1,
        stage="explore",
        published_ms=now_ms,
        decided_through_ms=now_ms,
        valid_until_ms=now_ms + 3_600_000,
        unit_hash=UnitHash(salt="feed:", buckets=BUCKETS),
        form="linear",
        weights=tuple(BASELINE),
        fallback="control",
        arms=tuple(arms),
        buckets=tuple(n % ARMS for n in range(BUCKETS)),
    )


@contextmanager
def _redis_url() -> Iterator[str | None]:
    given = os.environ.get("TRIMTAB_TEST_REDIS")
    if given or not shutil.which("redis-server"):
        yield given
        return
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _await_redis(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


def _await_redis(port: int) -> None:
    deadline = time.monotonic() + _START_S
    with redis.Redis(port=port) as probe:
        while True:
            try:
                probe.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def _print(measures: list[Measure]) -> None:
    table = Table("what", "measured", "compared with", "times better")
    for line in measures:
        cells: list[Any] = [f"{line.value:.3g} {line.unit}", f"{line.peer:.3g} {line.unit} ({line.peer_is})"]
        table.add_row(line.what, *cells, f"{line.ratio:.1f}x")
    table.caption = f"not as claimed: {', '.join(missed(measures)) or 'nothing'}"
    Console().print(table)
