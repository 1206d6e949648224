"""Waiting for something to become true, instead of sleeping for luck."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = 30.0, every_s: float = 0.02) -> None:
    """Return as soon as `condition()` holds; after `deadline_s` seconds raise `TimeoutError` with `what`."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {deadline_s} s: {what}")
        time.sleep(every_s)
