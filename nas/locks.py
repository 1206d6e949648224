"""Locks on folders and files. The system takes them from a process that ends, also from one that is killed."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(path: Path, work: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold what is there alone; `tell` hears that another process, which does `work`, is waited for."""
    with _opened(path) as handle:
        if not _locked(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
            tell(f"waiting for another process, which {work}")
            _locked(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def used(path: Path) -> Iterator[None]:
    """Hold what is there beside others who do the same."""
    with _opened(path) as handle:
        _locked(handle, fcntl.LOCK_SH)
        yield


def in_use(path: Path) -> bool:
    """Whether somebody holds what is there."""
    with _opened(path) as handle:
        return not _locked(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _locked(handle: int, kind: int) -> bool:
    """Whether it may be used. Where the file system has no locks (some of a network), nobody waits for anybody."""
    try:
        fcntl.flock(handle, kind)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)  # enough for a lock: another user may have made it
    try:
        yield handle
    finally:
        os.close(handle)
