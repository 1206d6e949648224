"""Worker processes, and what becomes of them when the process that made them is killed."""

import os
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from nas.processes import processes
from tests.waiting import ended, wait_until


def work(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


def use(folder: Path) -> None:
    with processes(2) as pool:
        assert pool is not None
        for _ in range(4):
            pool.submit(work, folder)


def test_workers_of_a_process_that_was_killed_end(tmp_path: Path) -> None:
    maker = get_context("spawn").Process(target=use, args=(tmp_path,))
    maker.start()
    wait_until(lambda: len(os.listdir(tmp_path)) == 2, "two workers at work", deadline_s=60)
    maker.kill()
    maker.join()
    wait_until(lambda: all(ended(int(pid)) for pid in os.listdir(tmp_path)), "they end", deadline_s=30)
    assert len(os.listdir(tmp_path)) == 2  # what was queued was not begun


def test_one_process_needs_no_pool() -> None:
    with processes(1) as pool:
        assert pool is None


def slow(path: Path) -> None:
    time.sleep(0.2)
    path.touch()


def interrupted(folder: Path) -> None:
    with processes(2) as pool:
        assert pool is not None
        pool.submit(slow, folder / "first").result()
        for number in range(40):
            pool.submit(slow, folder / str(number))
        raise KeyboardInterrupt


def test_who_interrupts_does_not_wait_for_what_is_queued(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path)
    assert len([*tmp_path.iterdir()]) < 20
