"""Files that are written whole or not at all: who reads one after a kill finds it as it was before, or as it is now."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of `path` at the end; an error leaves that as it was."""
    part = path.with_name(f"{path.name}.part")
    yield part
    part.replace(path)
