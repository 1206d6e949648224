"""The commands as processes, as an operator runs them."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.services.process import free_port
from tests.waiting import wait_until

TRIMTAB = str(Path(sys.executable).with_name("trimtab"))
PATIENT = ("--wait", "600")  # of a simulated product: a daemon that starts, again and again, decides late
RUN_S = 900.0  # of a simulated run, on a machine that has much else to do


class Process:
    """`trimtab ARGS`, or another program's, with its output in a file."""

    def __init__(
        self, log: Path, *args: str, env: dict[str, str] | None = None, program: Sequence[str] = (TRIMTAB,)
    ) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [*program, *args], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(env or {})}
            )

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, deadline_s: float = 60.0) -> int:
        self.process.terminate()
        return self.wait(deadline_s)

    def wait(self, deadline_s: float) -> int:
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not within {deadline_s} s:\n{self.text[-3000:]}") from None


class DaemonProcess(Process):
    """`trimtab run`, listening on a port of its own."""

    def __init__(self, study: Path, log: Path, *args: str, env: dict[str, str] | None = None) -> None:
        self.port = free_port()
        super().__init__(log, "run", str(study), "--listen", f"127.0.0.1:{self.port}", *args, env=env)

    def readiness(self) -> dict[str, Any]:
        """What /readyz says; {} while nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                found = json.load(error)
        except OSError:
            return {}
        return found

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    def wait_until_ready(self, deadline_s: float = 120.0) -> None:
        def ready() -> bool:
            assert self.running, f"the daemon ended:\n{self.text[-3000:]}"
            return bool(self.readiness().get("ready"))

        wait_until(ready, "the daemon is ready", deadline_s)


def trimtab(
    *args: str, deadline_s: float = RUN_S, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [TRIMTAB, *args],
        capture_output=True,
        text=True,
        timeout=deadline_s,
        check=False,
        env={**os.environ, **(env or {})},
    )
