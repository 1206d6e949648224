"""Worker processes that end with the process that made them."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process


@contextmanager
def processes(count: int, start: Callable[[], None] | None = None) -> Iterator[ProcessPoolExecutor | None]:
    """A pool in whose every process `start()` is called first; None for one, which computes here.

    Where an error, or a person, ends its use, what is queued is not begun any more.
    """
    if count <= 1:
        yield None
        return
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=partial(_begin, start)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(start: Callable[[], None] | None) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start()


def _end_with_parent() -> None:
    """Workers of one that was killed would go on with what is queued."""
    parent = parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)
