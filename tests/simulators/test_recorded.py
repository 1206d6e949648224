"""Recorded events of any format, sent again: every line once, in the order of the times, at the speed asked for."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from simulators import processes
from simulators.processes import Job
from simulators.recorded import LOOK, NotReplayable, Recorded, Replayed, events, merged, replay
from simulators.sinks import ENDINGS


class Kept:
    """A sink that keeps what it is sent, and when."""

    def __init__(self, partitions: int = 3) -> None:
        self.partitions = partitions
        self.parts: dict[int, list[bytes]] = {p: [] for p in range(partitions)}

    def send(self, partition: int, records: Sequence[bytes]) -> None:
        self.parts[partition] += records

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    @property
    def lines(self) -> list[bytes]:
        return [line for part in self.parts.values() for line in part]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("recorded")
    paths = {ending: folder / f"e{ending.replace('.', '')}{ending}" for ending in ENDINGS}
    for path in paths.values():
        processes.run(Job(world="surfaces", out=str(path), hours=1, seed=3), 1, lambda progress: None)
    return paths


def silent(state: Replayed) -> None:
    pass


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_is_read_as_the_events_it_holds(files: dict[str, Path], ending: str) -> None:
    lines = files[".ndjson"].read_bytes().splitlines()
    found = list(events(files[ending]))
    assert [msgspec.json.decode(event.line) for event in found] == [msgspec.json.decode(line) for line in lines]
    assert all(event.readable for event in found)
    if "ndjson" in ending:
        assert [event.line for event in found] == lines


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".arrows"])
def test_any_of_them_may_be_gzipped(files: dict[str, Path], ending: str, tmp_path: Path) -> None:
    zipped = tmp_path / "e.gz"
    zipped.write_bytes(gzip.compress(files[ending].read_bytes()))
    assert list(events(zipped)) == list(events(files[ending]))


def test_a_replay_sends_every_line_once_and_a_unit_to_one_partition(files: dict[str, Path]) -> None:
    sink = Kept()
    state = replay(merged([files[".ndjson"]]), sink, None, silent)
    lines = files[".ndjson"].read_bytes().splitlines()
    assert (state.events, state.unreadable) == (len(lines), 0)
    assert sorted(sink.lines) == sorted(lines)
    assert min(map(len, sink.parts.values())) > 100
    units = [{msgspec.json.decode(line)["unit"] for line in part} for part in sink.parts.values()]
    assert sum(map(len, units)) == len(set.union(*units))
    for part, mine in zip(sink.parts.values(), units, strict=True):
        assert part == [line for line in lines if msgspec.json.decode(line)["unit"] in mine]


def test_files_are_merged_by_time(tmp_path: Path) -> None:
    for name, times in (("a", (1, 4, 9)), ("b", (2, 3, 10))):
        (tmp_path / name).write_text(
            "".join(f'{{"id":"{name}{ts}","ts_ms":{ts},"unit":"{name}","values":{{}}}}\n' for ts in times)
        )
    assert [event.ts_ms for event in merged([tmp_path / "a", tmp_path / "b"])] == [1, 2, 3, 4, 9, 10]


@pytest.mark.parametrize("shift_to_ms", [None, 1_000_000])
def test_a_line_that_is_nested_too_deeply_travels_as_it_is(shift_to_ms: int | None, tmp_path: Path) -> None:
    path, sink = tmp_path / "e.ndjson", Kept(1)
    deep = b'{"ts_ms":6000,"values":' + b"[" * 100_000
    path.write_bytes(deep + b'\n{"id":"e","ts_ms":5000,"unit":"u1","values":{}}\n')
    assert replay(events(path), sink, None, silent, shift_to_ms=shift_to_ms).events == 2
    assert sink.lines[0] == deep


def test_what_cannot_be_read_travels_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "e.ndjson"
    event = b'{"id":"e","ts_ms":5000,"unit":"u1","values":{}}'
    path.write_bytes(b'nothing\n%b\n\n{"ts_ms":"x"}\n\xff\xfe\n{"ts_ms":6000,"bucket":3}\r\n' % event)
    found = list(events(path))
    assert [(event.ts_ms, event.unit, event.readable) for event in found] == [
        (0, "", False), (5000, "u1", True), (5000, "u1", False), (5000, "u1", False), (6000, "3", True),
    ]  # fmt: skip
    sink = Kept(1)
    assert replay(found, sink, None, silent, shift_to_ms=1_000_000).unreadable == 3
    assert sink.lines[0] == b"nothing"
    assert msgspec.json.decode(sink.lines[1])["ts_ms"] == 1_000_000
    assert msgspec.json.decode(sink.lines[4])["ts_ms"] == 1_001_000


@pytest.mark.parametrize("speed", [1.0, 60.0, 3600.0])
def test_the_speed_is_the_one_asked_for(speed: float) -> None:
    clock = [0.0]
    sent: list[tuple[float, int]] = []

    class Timed(Kept):
        def send(self, partition: int, records: Sequence[bytes]) -> None:
            sent.extend((clock[0], int(record)) for record in records)

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    found = [Recorded(1_000_000 + 40_000 * i, f"u{i}", b"%d" % (40_000 * i)) for i in range(200)]
    replay(found, Timed(), speed, silent, monotonic=lambda: clock[0], sleep=sleep)
    at, ts_ms = np.array(sent).T
    assert np.abs(at - ts_ms / 1000 / speed).max() <= 0.25
    assert clock[0] == pytest.approx(199 * 40 / speed, abs=0.26)


def test_a_file_that_is_cut_off_is_an_error(files: dict[str, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.arrow"
    cut.write_bytes(files[".arrow"].read_bytes()[:-200])
    with pytest.raises(NotReplayable, match=r"cut\.arrow: "):
        list(events(cut))


def test_files_without_events_are_refused_before_the_first_is_given(files: dict[str, Path], tmp_path: Path) -> None:
    log = pa.table({"ts_ms": [1], "unit": ["u"], "request": ["r"]})
    for ending, write in ((".parquet", pq.write_table), (".arrow", feather.write_feather)):
        write(log, tmp_path / f"log{ending}")
        with pytest.raises(NotReplayable, match=rf"log\{ending}: .* no column id, values; it has ts_ms, unit, request"):
            next(events(tmp_path / f"log{ending}"))
    (tmp_path / "log.ndjson").write_bytes(b'{"ts_ms":1,"unit":"u","request":"r"}\n')
    with pytest.raises(NotReplayable, match=r"log\.ndjson: none of its lines is an event: .* id, ts_ms, values"):
        next(events(tmp_path / "log.ndjson"))
    (tmp_path / "text").write_bytes(b"nothing\n" * LOOK + files[".ndjson"].read_bytes())
    with pytest.raises(NotReplayable, match=r"text: none of its first 1,000 lines is an event"):
        next(merged([files[".parquet"], tmp_path / "text"]))
    (tmp_path / "text").write_bytes(b"nothing\n" * (LOOK - 1) + files[".ndjson"].read_bytes())
    assert sum(event.readable for event in events(tmp_path / "text")) == len(list(events(files[".ndjson"])))


def test_a_mark_of_byte_order_is_no_part_of_the_first_event(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbf" + files[".ndjson"].read_bytes())
    assert list(events(tmp_path / "marked")) == list(events(files[".ndjson"]))
