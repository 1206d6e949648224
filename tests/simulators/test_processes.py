"""Events to files, by one process or by several: the same bytes."""

import gzip
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controller import assignment
from controller.core.events import decode
from simulators import processes
from simulators.processes import Job, ProcessFailed
from simulators.produce import Progress
from simulators.serving import fixed_table
from simulators.sinks import SinkFailed
from simulators.study import study_of
from simulators.worlds import HOUR_MS
from tests.waiting import children, ended, wait_until

Make = Callable[..., list[Path]]


def silent(progress: Progress) -> None:
    pass


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(
        name: str,
        count: int = 1,
        hours: int = 3,
        partitions: int = 1,
        world: str = "surfaces",
        faults: tuple[str, ...] = (),
    ) -> list[Path]:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        job = Job(world=world, out=str(folder / name), hours=hours, partitions=partitions, faults=faults, seed=5)
        processes.run(job, count, silent)
        return sorted(path for path in folder.iterdir() if not path.name.endswith(".table.json"))

    return made


@pytest.mark.parametrize("name", ["e.ndjson", "e.ndjson.gz", "e.parquet", "e.arrow", "e.arrows"])
def test_the_same_seed_gives_the_same_bytes(make: Make, name: str) -> None:
    [first], [again] = make(name), make(name)
    assert first.stat().st_size > 10_000
    assert first.read_bytes() == again.read_bytes()


def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    faults = ("copied", "bots", "stopped:at=1,hours=1,partition=2", "corrupt:share=0.05")

    def made(name: str, run: Callable[[Job], None]) -> list[bytes]:
        folder = tmp_path / name
        folder.mkdir()
        run(Job(world="surfaces", out=str(folder / "e.ndjson"), hours=3, partitions=5, faults=faults))
        return [(folder / f"e-{p}.ndjson").read_bytes() for p in range(5)]

    alone = made("alone", lambda job: processes.run(job, 1, silent))
    assert min(map(len, alone)) > 100_000
    assert made("two", lambda job: processes.run(job, 2, silent)) == alone
    for n in (3, 5, 7):  # as the processes would, one after the other

        def shared(job: Job, n: int = n) -> None:
            for i in range(n):
                processes.work(job, i, n, silent)

        assert made(f"{n}", shared) == alone


def test_every_format_holds_the_same_events(make: Make) -> None:
    [plain], [zipped], [parquet], [arrow], [stream] = (
        make(f"e.{ending}") for ending in ("ndjson", "ndjson.gz", "parquet", "arrow", "arrows")
    )
    assert gzip.decompress(zipped.read_bytes()) == plain.read_bytes()
    lines = [msgspec.json.decode(line) for line in plain.read_bytes().splitlines()]
    tables = (
        pq.read_table(parquet),
        pa.ipc.open_file(arrow).read_all(),
        pa.ipc.open_stream(stream).read_all(),
    )
    for table in tables:
        assert table.to_pylist() == lines


def test_the_events_are_the_contracts_and_echo_the_table_beside_them(make: Make) -> None:
    [path] = make("e.ndjson", world="quick")
    table = assignment.decode((path.parent / "e.table.json").read_bytes())
    study = study_of(processes.scenario_of(Job(world="quick")).world)
    assert table == fixed_table(study.plan, 5)
    lines = path.read_bytes().splitlines()
    found = decode(lines, range(len(lines)), study.plan.events)
    assert not found.rejected
    events = [msgspec.json.decode(line) for line in lines]
    assert {event["version"] for event in events} == {table.version}
    assert {event["arm"] for event in events} == {arm.arm for arm in table.arms}
    assert len(table.arms) == 1 + study.plan.traffic.explore_arms


def test_the_start_can_be_chosen_and_the_volume(tmp_path: Path) -> None:
    out, start = str(tmp_path / "e.arrow"), 1_750_000_000_000 // HOUR_MS * HOUR_MS
    processes.run(Job(world="quick", out=out, hours=2, start_ms=start, events_per_hour=500.0), 1, silent)
    ts_ms = pa.ipc.open_file(out).read_all()["ts_ms"].to_numpy()
    assert start <= ts_ms.min() < start + HOUR_MS
    assert ts_ms.max() <= start + 2 * HOUR_MS + 300_000
    assert 200 < len(ts_ms) < 2_500


def test_in_a_jump_the_events_follow_the_world_of_their_hour(make: Make) -> None:
    [path] = make("e.parquet", hours=38)
    table = pq.read_table(path)
    hour = (table["ts_ms"].to_numpy() - table["ts_ms"].to_numpy()[0]) // HOUR_MS
    home = np.array(table["segment"].to_pylist()) == "home"
    assert home[hour < 35].mean() == pytest.approx(0.75, abs=0.01)
    assert home[hour >= 36].mean() == pytest.approx(0.35, abs=0.02)


def produce_for_long(out: str) -> None:
    processes.run(Job(world="quick", out=out, hours=100_000, partitions=2), 2, silent)


def test_processes_end_with_the_one_that_watches_them(tmp_path: Path) -> None:
    watcher = get_context("spawn").Process(target=produce_for_long, args=(str(tmp_path / "e.ndjson"),))
    watcher.start()
    pid = watcher.pid
    assert pid is not None
    wait_until(lambda: len(list(tmp_path.iterdir())) >= 2, "both write", deadline_s=60)
    made = children(pid)
    watcher.kill()
    watcher.join()
    wait_until(lambda: all(map(ended, made)), "they end", deadline_s=30)
    assert len(made) >= 2  # and what multiprocessing itself runs


@pytest.mark.parametrize(
    ("out", "faults", "message"),
    [
        ("e.csv", (), r"e.csv: the file's ending must be one of .ndjson, "),
        ("none/e.ndjson", (), "none/e.ndjson: No such file or directory"),
        ("e.parquet", ("corrupt",), "the fault `corrupt` breaks JSON: write NDJSON"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, out: str, faults: tuple[str, ...], message: str
) -> None:
    with pytest.raises((SinkFailed, ValueError), match=message):
        processes.run(Job(world="quick", out=str(tmp_path / out), faults=faults), 1, silent)
    assert not list(tmp_path.iterdir())


def test_no_file_is_written_over(make: Make, tmp_path: Path) -> None:
    for name in ("e.ndjson", "e.parquet"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(SinkFailed, match=f"{name}: exists already; name a new file"):
            processes.run(Job(world="quick", out=str(tmp_path / name), hours=1), 1, silent)
        assert (tmp_path / name).read_text() == "mine"


def test_what_one_process_of_several_meets_ends_all(tmp_path: Path) -> None:
    (tmp_path / "e.table.json").write_text("mine")  # which the first process writes
    with pytest.raises(ProcessFailed, match=r"process 0: .*e\.table\.json: exists already"):
        processes.run(Job(world="quick", out=str(tmp_path / "e.ndjson"), hours=500, partitions=2), 2, silent)


def test_files_that_exist_are_refused_before_any_process_starts(tmp_path: Path) -> None:
    (tmp_path / "e-1.ndjson").touch()
    with pytest.raises(SinkFailed, match=r"e-1\.ndjson: exists already"):  # not what one of them met: ProcessFailed
        processes.run(Job(world="quick", out=str(tmp_path / "e.ndjson"), partitions=3, hours=1), 3, silent)
