import errno
import fcntl
from pathlib import Path
from threading import Thread

import pytest

from nas.locks import alone, in_use, used
from tests.waiting import wait_until


def test_who_wants_a_folder_alone_waits_for_those_who_use_it(tmp_path: Path) -> None:
    told: list[str] = []
    had: list[bool] = []

    def wait() -> None:
        with alone(tmp_path, "trains", told.append):
            had.append(in_use(tmp_path))

    with used(tmp_path), used(tmp_path):
        waiting = Thread(target=wait)
        waiting.start()
        wait_until(lambda: bool(told), "the other waits")
        assert (told, had) == (["waiting for another process, which trains"], [])
    waiting.join(60)
    assert (had, in_use(tmp_path)) == ([True], False)


def test_where_a_file_system_has_no_locks_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(handle: int, kind: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")  # as NFS says of what was opened for reading

    monkeypatch.setattr(fcntl, "flock", refused)
    told: list[str] = []
    with used(tmp_path), alone(tmp_path, "trains", told.append):
        assert (told, in_use(tmp_path)) == ([], False)
