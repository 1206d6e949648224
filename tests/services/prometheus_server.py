"""A real Prometheus for tests: it scrapes what its configuration names, evaluates rules, answers queries."""

import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.services.process import ServerProcess, free_port

_START_S = 90.0
_STOP_S = 20.0


def missing() -> str | None:
    """What keeps a Prometheus from being started here, or None."""
    return None if shutil.which("prometheus") else "no prometheus on the PATH"


class PrometheusServer:
    """A private Prometheus. `configuration`: prometheus.yml as data (JSON is YAML)."""

    def __init__(self, directory: Path, configuration: Mapping[str, object]) -> None:
        self.port = free_port()
        settings = directory / "prometheus.yml"
        settings.write_text(json.dumps(configuration))
        command = [
            "prometheus", f"--config.file={settings}", f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]  # fmt: skip
        self._process = ServerProcess(command, directory / "prometheus.log", self._answers)

    def start(self) -> None:
        self._process.start(_START_S)

    def stop(self) -> None:
        self._process.stop(_STOP_S)

    def kill(self) -> None:
        self._process.kill()

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant query: `metric` (labels) and `value` (time, text)."""
        found: list[dict[str, Any]] = self._get("query", query=expr)["result"]
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that are pending or firing: `labels`, `annotations`, `state`."""
        found: list[dict[str, Any]] = self._get("alerts")["alerts"]
        return found

    def _get(self, what: str, **arguments: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{arguments}: {error.read().decode()}") from error

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=1):
                return True
        except OSError:
            return False


class MakePrometheus(Protocol):
    """The fixture `prometheus`."""

    def __call__(self, configuration: Mapping[str, object]) -> PrometheusServer: ...
