"""A real Redis server for tests: on one port for its whole life, with or without memory of it."""

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tests.services.process import ServerProcess, free_port

_START_S = 60.0
_STOP_S = 20.0


def missing() -> str | None:
    """What keeps a Redis server from being started here, or None."""
    return None if shutil.which("redis-server") else "no redis-server on the PATH"


class RedisServer:
    """A private Redis. `stop`, `kill`, `restart` keep its port, so clients find it again.

    Args:
        directory: where its data and log lie; made when it is not there.
        keep_data: True: every write is on disk before its answer, so data outlives `kill`; False: a restart
            begins empty.
        arguments: more of its command line, such as `("--requirepass", "secret")`.
    """

    def __init__(self, directory: Path, *, keep_data: bool = False, arguments: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._process = ServerProcess(
            ["redis-server", *_options(self.port, directory, keep_data), *arguments],
            directory / "redis.log",
            self._answers,
        )

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        self._process.start(_START_S)

    def stop(self) -> None:
        self._process.stop(_STOP_S)

    def kill(self) -> None:
        self._process.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Hang (SIGSTOP): connections stay open, nothing answers until `unpause`."""
        self._process.pause()

    def unpause(self) -> None:
        self._process.unpause()

    def _answers(self) -> bool:
        """True once it takes commands: it may be loading data while the port is already open."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class MakeRedis(Protocol):
    """The fixture `redis_server`."""

    def __call__(self, *, keep_data: bool = False, arguments: Sequence[str] = ()) -> RedisServer: ...


def _options(port: int, directory: Path, keep_data: bool) -> list[str]:
    return [
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""),
        *("--appendonly", "yes" if keep_data else "no", "--appendfsync", "always"),
    ]
