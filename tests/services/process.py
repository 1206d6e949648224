"""One server process on the loopback: started, waited for, stopped or killed by its pid, never orphaned."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_LOG_TAIL = 3000  # characters of the server's own log that an error quotes

# Below Linux's ephemeral range (32768 and up): while a server is down for a restart, no outgoing connection
# can take its port, and a client that keeps reconnecting cannot connect to itself.
_PORTS = range(15_000, 32_000)


class ServiceFailed(Exception):
    """A server did not start or stop in time; the message quotes the end of its log."""


class ServerProcess:
    """A server that can be started again with the same command after it was stopped or killed."""

    def __init__(self, command: Sequence[str], log: Path, ready: Callable[[], bool]) -> None:
        self._command = list(command)
        self._log = log
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running server; raises `ServiceFailed` when it does not run."""
        if self._process is None:
            raise ServiceFailed(f"{self._command[0]} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, deadline_s: float) -> None:
        """Start and wait until it answers; raises `ServiceFailed`."""
        if self.running:
            raise ServiceFailed(f"{self._command[0]} already runs with pid {self.pid}")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._guard = _guard(self._process.pid)
        try:
            self._wait_until_ready(deadline_s)
        except BaseException:
            self.kill()
            raise

    def stop(self, deadline_s: float) -> None:
        """Ask it to end (SIGTERM) and wait; a server that does not run is left alone."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServiceFailed(f"{self._command[0]} ignored SIGTERM for {deadline_s} s{self._tail()}") from None
        self._forget()

    def kill(self) -> None:
        """`kill -9`, as a crash does it."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._forget()

    def pause(self) -> None:
        """Stop it from answering without closing its connections (SIGSTOP), as a hung machine does."""
        os.kill(self.pid, signal.SIGSTOP)

    def unpause(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _wait_until_ready(self, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        while not self._ready():
            if not self.running:
                raise ServiceFailed(f"{self._command[0]} ended while starting{self._tail()}")
            if time.monotonic() > deadline:
                raise ServiceFailed(f"{self._command[0]} was not ready after {deadline_s} s{self._tail()}")
            time.sleep(0.02)

    def _forget(self) -> None:
        self._process = None
        if self._guard is not None:
            self._guard.communicate(b"\n")
            self._guard = None

    def _tail(self) -> str:
        text = self._log.read_text(errors="replace")[-_LOG_TAIL:]
        return f"; the end of {self._log}:\n{text}"


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """Kills the server when this process dies without having stopped it, whatever the way it died.

    The guard reads from a pipe: a line means that the server ended in order, its end that we died.
    """
    return subprocess.Popen(
        ["sh", "-c", f"read -r line || kill -9 {pid}"], stdin=subprocess.PIPE, start_new_session=True
    )


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    for port in random.SystemRandom().sample(_PORTS, 200):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise ServiceFailed(f"no free port between {_PORTS.start} and {_PORTS.stop}")


def listens(port: int) -> bool:
    """Does anybody accept connections there?"""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
