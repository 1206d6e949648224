"""Waiting for something to become true, instead of sleeping for luck."""

import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = 30.0, every_s: float = 0.02) -> None:
    """Return as soon as `condition()` holds; after `deadline_s` seconds raise `TimeoutError` with `what`."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {deadline_s} s: {what}")
        time.sleep(every_s)


def ended(pid: int) -> bool:
    """Whether a process runs no more, waited for or not."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def children(pid: int) -> list[int]:
    """The processes that a running one has made."""
    return [int(child) for child in Path("/proc", str(pid), "task", str(pid), "children").read_text().split()]
