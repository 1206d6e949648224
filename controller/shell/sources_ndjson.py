"""Events from a file of newline-separated JSON, or from standard input: one partition, offsets in bytes."""

import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from controller.core.rows import MAX_RECORD
from controller.shell.sources import At, Fetched, OffsetLost, Poll, Record, SourceUnavailable

STDIN: Final = "-"
_CHUNK: Final = 4 << 20  # bytes a read
_LONGEST: Final = MAX_RECORD + 1  # bytes of a line that are kept; one of so many is refused
_WAIT_S: Final = 0.1  # between looks at a file that has nothing new
_BOM: Final = b"\xef\xbb\xbf"
_OTHERS: Final = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PAR1": "Parquet", b"ARROW1": "an Arrow file",
    b"\xff\xff\xff\xff": "an Arrow stream",
}  # by their first bytes  # fmt: skip
_SETTLED_S: Final = 1.0  # a last line without a line end counts when nothing was added to it for so long


class CannotResume(Exception):
    """Standard input was asked for an offset: it can be read once, from its beginning."""


class NotNdjson(Exception):
    """The first bytes are those of another format."""


class NdjsonSource:
    """`Source` on a file, which others may append to, or on standard input (`-`).

    An offset is the number of bytes before a line; blank lines are no records. Nothing is ever idle and nothing
    counts as a backlog: a file is a replay.

    Args:
        path: of the file, or `-`.
        descriptor: an open one to read in place of standard input's.
        monotonic: a clock for durations, in seconds.
    """

    def __init__(
        self, path: str, *, descriptor: int | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._descriptor = descriptor
        self._monotonic = monotonic
        self.log = ""
        self._position = 0  # of the first byte that was not returned
        self._held = b""  # read but not returned: the beginning of a line
        self._cut = 0  # bytes of that line that were read and not kept
        self._ended_at: float | None = None  # when a read first found the end

    def start(self, offsets: Mapping[int, int] | None, at: At, log: str = "") -> dict[int, int]:
        """See `Source.start`; files have no id.

        Raises:
            CannotResume: standard input, beyond its beginning.
        """
        for partition, offset in (offsets or {}).items():
            if partition != 0:
                raise OffsetLost(partition, offset, 0, 0)
        self._held, self._cut, self._ended_at = b"", 0, None
        asked = None if offsets is None else offsets.get(0, 0)
        self._position = self._start_stdin(asked or 0) if self._path == STDIN else self._start_file(asked, at)
        return {0: self._position}

    def poll(self, timeout_s: float) -> Poll:
        """See `Source.poll`.

        Raises:
            NotNdjson: at the beginning.
        """
        first = self._position
        data = self._held + self._read(timeout_s)
        if first == 0:
            self._refuse_another(data)
        lines = data.split(b"\n")
        self._held = lines.pop()
        records = [record for line in lines if (record := self._line(line, 1)) is not None]
        if self._held and self._settled():
            records += [record for record in (self._line(self._held, 0),) if record is not None]
            self._held = b""
        elif len(self._held) > _LONGEST:
            self._cut += len(self._held) - _LONGEST
            self._held = self._held[:_LONGEST]
        parts = (Fetched(0, records, self._position),) if self._position > first else ()
        return Poll(parts, behind={0: self._left()})

    def _line(self, line: bytes, end: int) -> Record | None:
        """The record of a line, which is gone on behind; `end`: bytes of its end."""
        text = line if self._position else line.removeprefix(_BOM)
        record = Record(self._position, text[:_LONGEST], False) if text.strip() else None
        self._position += len(line) + self._cut + end
        self._cut = 0
        return record

    def _refuse_another(self, data: bytes) -> None:
        for magic, name in _OTHERS.items():
            if data.startswith(magic):
                raise NotNdjson(
                    f"{'standard input' if self._path == STDIN else self._path}: found {name}; expected lines of JSON: "
                    "`trimtab replay FILE --out -` writes them from gzip, Parquet and Arrow"
                )

    def health(self) -> str | None:
        """See `Source.health`."""
        return None

    def caught_up(self) -> bool:
        """See `Source.caught_up`."""
        return self._ended_at is not None and self._left() == 0

    def close(self) -> None:
        """See `Source.close`; standard input is left open."""
        if self._descriptor is not None and self._path != STDIN:
            os.close(self._descriptor)
            self._descriptor = None

    def _start_stdin(self, asked: int) -> int:
        if asked:
            raise CannotResume(
                f"standard input cannot be read again from byte {asked}: replay a file instead, "
                "or begin a study with a new journal"
            )
        if self._descriptor is None:
            self._descriptor = sys.stdin.fileno()
        return 0

    def _start_file(self, asked: int | None, at: At) -> int:
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY)
            size = os.fstat(self._descriptor).st_size
            position = asked if asked is not None else size if at == "latest" else 0
            if position > size:
                raise OffsetLost(0, position, 0, size)
            return os.lseek(self._descriptor, position, os.SEEK_SET)
        except OSError as error:
            raise SourceUnavailable(f"{self._path}: {error.strerror}") from error

    def _read(self, timeout_s: float) -> bytes:
        """Up to a chunk of what is there within the timeout, noting when the end was reached."""
        descriptor = self._open()
        if not select.select([descriptor], [], [], timeout_s)[0]:  # a file is always ready
            return b""
        data = os.read(descriptor, _CHUNK)
        if data:
            self._ended_at = None
            return data
        if self._ended_at is None:
            self._ended_at = self._monotonic()
        self._check_length()
        time.sleep(min(timeout_s, _WAIT_S))
        return b""

    def _check_length(self) -> None:
        """A file that became shorter was replaced: its lines are other ones."""
        if self._path == STDIN:
            return
        size = os.fstat(self._open()).st_size
        if size < self._position:
            raise OffsetLost(0, self._position, 0, size)

    def _settled(self) -> bool:
        if self._ended_at is None:
            return False
        return self._path == STDIN or self._monotonic() - self._ended_at >= _SETTLED_S

    def _left(self) -> int:
        if self._path == STDIN:
            return len(self._held) + self._cut
        return max(0, os.fstat(self._open()).st_size - self._position)

    def _open(self) -> int:
        if self._descriptor is None:
            raise SourceUnavailable(f"{self._path}: not started")
        return self._descriptor
