"""Keeps the newest table that Redis held, in a background thread that no fault of Redis ends."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

import redis
from redis.client import PubSub

from controller.serving_table import Table

_SLICE_S = 0.1  # how soon `close` is noticed by the thread that listens
_BACKOFF_S = (0.05, 2.0)  # first and longest pause between attempts to reach Redis


class Counts:
    """Counters that several threads raise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Counter[str] = Counter()

    def add(self, name: str, n: int = 1) -> None:
        """Raise one counter."""
        with self._lock:
            self._values[name] += n

    def __getitem__(self, name: str) -> int:
        return self._values[name]


class Follower:
    """Keeps `table` the newest one that Redis held: listens on the channel, reads the key as well, in a thread.

    A swap of the table is one assignment to an attribute, so readers need no lock.
    """

    def __init__(
        self,
        name: str,
        connection: redis.Redis,
        prepare: Callable[[bytes], Table],
        first: Table,
        poll_s: float,
        clock: Callable[[], int],
    ) -> None:
        self.table = first
        self.counts = Counts()
        self.connected = False
        self.last_error: str | None = None
        self._name, self._redis, self._prepare = name, connection, prepare
        self._poll_s, self._clock = poll_s, clock
        self._held = self._seen = b""
        self._pause_s = _BACKOFF_S[0]
        self._swapped = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"serving {name}", daemon=True)
        self._thread.start()

    def running(self) -> bool:
        """Whether the thread lives: false after `close`, and in a forked child."""
        return self._thread.is_alive()

    def wait(self, after: int, timeout_s: float) -> bool:
        """Wait until a table with a version above `after` is held; False on a timeout."""
        with self._swapped:
            return self._swapped.wait_for(lambda: self.table.version > after, timeout_s)

    def close(self) -> None:
        """Stop following; returns when the thread has ended."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        """Follow until closed. Nothing may end this thread early: any fault is noted, and tried again."""
        while not self._closed.is_set():
            try:
                self._read()  # so that a Redis that refuses subscriptions is polled at least
                with PubSub(self._redis.connection_pool) as channel:
                    channel.subscribe(self._name)
                    self._listen(channel)
            except Exception as fault:  # noqa: BLE001  # whatever it was, serving goes on, and status says it
                self.connected = False
                self.counts.add("read_failures")
                self.last_error = f"{type(fault).__name__}: {fault}"
                self._closed.wait(self._pause_s * random.uniform(0.5, 1.0))
                self._pause_s = min(2 * self._pause_s, _BACKOFF_S[1])

    def _listen(self, channel: PubSub) -> None:
        """Read the key on every message, the first of which confirms the subscription, and every `poll_s`."""
        due = time.monotonic() + self._poll_s
        while not self._closed.is_set():
            message = channel.get_message(timeout=min(_SLICE_S, max(due - time.monotonic(), 0.001)))
            if message is not None or time.monotonic() >= due:
                self._read()
                self._pause_s = _BACKOFF_S[0]
                due = time.monotonic() + self._poll_s

    def _read(self) -> None:
        data = self._redis.get(self._name)
        self.connected = True
        stored = data.encode() if isinstance(data, str) else data or b""
        if stored != self._held:
            self._offer(stored, first_sight=stored != self._seen)
        self._seen = stored

    def _offer(self, data: bytes, first_sight: bool) -> None:
        """Take a table that differs from the one held; what is refused is counted when it is first seen."""
        refused = self._take(data)
        if refused is not None and first_sight:
            self.counts.add(refused)

    def _take(self, data: bytes) -> Literal["missing", "refused", "older"] | None:
        if not data:
            return "missing"
        try:
            table = self._prepare(data)
        except Exception as fault:  # noqa: BLE001  # anything may stand in the key
            self.last_error = f"table refused: {fault}"
            return "refused"
        if not self._replaces(table):
            return "older"
        self.counts.add("taken")  # first: who sees the table sees it counted
        with self._swapped:
            self.table, self._held = table, data
            self._swapped.notify_all()
        return None

    def _replaces(self, table: Table) -> bool:
        """A newer table does; an older one (of a restored Redis, say) only when the one held has expired first."""
        held, now_ms = self.table, self._clock()
        if table.version >= held.version:
            return table.version > held.version
        return held.valid_until_ms < now_ms <= table.valid_until_ms
