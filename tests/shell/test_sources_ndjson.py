"""A file of events and standard input, line by line."""

import gzip
import os
from pathlib import Path

import pytest

from controller.core.rows import MAX_RECORD
from controller.shell.sources import OffsetLost, Record, SourceUnavailable
from controller.shell.sources_ndjson import CannotResume, NdjsonSource, NotNdjson
from tests.shell.reading import Clock, drain, values


def test_a_file_keeps_half_lines_until_they_are_whole_or_settled(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "events.ndjson"
    path.write_bytes(b'{"a":1}\n\n{"b"')
    source = NdjsonSource(str(path), monotonic=clock)
    source.start(None, "earliest")
    assert [part.records for part in source.poll(0).parts] == [[Record(0, b'{"a":1}', False)]]
    assert source.poll(0).parts == ()
    assert not source.caught_up()
    with path.open("ab") as file:
        file.write(b':2}\n{"c":3}')
    assert [part.records for part in source.poll(0).parts] == [[Record(9, b'{"b":2}', False)]]
    assert source.poll(0).parts == ()
    clock.now += 1.0
    assert [part.records for part in source.poll(0).parts] == [[Record(17, b'{"c":3}', False)]]
    assert source.caught_up()
    path.write_bytes(b"")
    with pytest.raises(OffsetLost, match=r"partition 0: offset 24 .* holds 0 to 0"):
        source.poll(0)
    source.close()


def test_the_end_of_a_line_that_is_too_long_is_no_line(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "events.ndjson"
    longest = MAX_RECORD + (6 << 20)
    path.write_bytes(b"x" * longest + b'{"tail":1}\n{"next":2}\n')
    source = NdjsonSource(str(path), monotonic=clock)
    source.start(None, "earliest")
    records = drain(source)[0][0]
    assert [(record.offset, len(record.value)) for record in records] == [(0, MAX_RECORD + 1), (longest + 11, 10)]
    with path.open("ab") as file:
        file.write(b"y" * longest)
    for _ in range(longest // (4 << 20) + 2):
        assert source.poll(0).parts == ()
    assert not source.caught_up(), "a restart would read the line from its beginning"
    clock.now += 1.0
    (part,) = source.poll(0).parts
    assert [(record.offset, len(record.value)) for record in part.records] == [(longest + 22, MAX_RECORD + 1)]
    assert (part.next_offset, source.caught_up()) == (2 * longest + 22, True)
    source.close()


@pytest.mark.parametrize(
    ("head", "name"),
    [(gzip.compress(b'{"a":1}\n'), "gzip"), (b"PAR1\x15\x04\n", "Parquet"), (b"\xff\xff\xff\xff\n", "an Arrow stream")],
    ids=["gzip", "Parquet", "Arrow"],  # gzip's bytes hold the time, which would be another in every process
)
def test_another_format_is_told_by_its_first_bytes(head: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(head)
    source = NdjsonSource(str(path))
    source.start(None, "earliest")
    with pytest.raises(NotNdjson, match=f"events: found {name}; expected lines of JSON: `trimtab replay"):
        source.poll(0)
    source.close()


def test_a_mark_of_byte_order_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b'\xef\xbb\xbf{"a":1}\n\xef\xbb\xbf{"b":2}\n')
    source = NdjsonSource(str(path))
    source.start(None, "earliest")
    (part,) = source.poll(0).parts
    assert part.records == [Record(0, b'{"a":1}', False), Record(11, b'\xef\xbb\xbf{"b":2}', False)]
    source.close()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match=r"absent\.ndjson: No such file"):
        NdjsonSource(str(tmp_path / "absent.ndjson")).start(None, "earliest")


def test_standard_input_is_read_once_and_cannot_be_resumed() -> None:
    reading, writing = os.pipe()
    source = NdjsonSource("-", descriptor=reading)
    assert source.start(None, "latest") == {0: 0}
    os.write(writing, b"one\ntw")
    assert [part.records for part in source.poll(0.1).parts] == [[Record(0, b"one", False)]]
    assert source.poll(0.01).parts == ()
    os.write(writing, b"o")
    os.close(writing)
    assert values(drain(source)[0][0]) == [b"two"]
    with pytest.raises(CannotResume, match="cannot be read again from byte 7: replay a file instead"):
        source.start({0: 7}, "earliest")
    os.close(reading)
