"""The daemon's small HTTP side: liveness, readiness, metrics."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

JSON = "application/json"


class Health:
    """Why the daemon is not ready, by part. Written by the daemon's thread, read by the server's."""

    def __init__(self, changed: Callable[[dict[str, str]], None]) -> None:
        self._faults: dict[str, str] = {"start": "the daemon has not polled yet"}
        self._changed = changed

    @property
    def faults(self) -> dict[str, str]:
        """part -> what is wrong with it; empty when ready."""
        return self._faults

    def set(self, part: str, fault: str | None) -> None:
        """Note a part's fault, or None when it is well; `changed` is told when that is news."""
        faults = {name: text for name, text in self._faults.items() if name != part}
        if fault is not None:
            faults[part] = fault
        news = faults.keys() != self._faults.keys()
        self._faults = faults  # one assignment: a reader sees the old or the new dict, never half of one
        if news:
            self._changed(faults)


class PortTaken(Exception):
    """The address to listen on is not to be had."""


def serve(host: str, port: int, registry: CollectorRegistry, health: Health) -> ThreadingHTTPServer:
    """Serve `/livez`, `/readyz` (503 with the reasons while not ready) and `/metrics` from a thread of its own.

    Raises:
        PortTaken: another process listens there, or the address is not this machine's.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/livez":
                    self._answer(200, JSON, b'{"live":true}')
                case "/readyz":
                    faults = health.faults
                    body = msgspec.json.encode({"ready": not faults, "faults": faults})
                    self._answer(503 if faults else 200, JSON, body)
                case "/metrics":
                    encode, kind = choose_encoder(self.headers.get("Accept", ""))
                    self._answer(200, kind, encode(registry))
                case _:
                    self._answer(404, JSON, b'{"error":"there are /livez, /readyz and /metrics"}')

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Scrapes every few seconds are no news."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise PortTaken(f"cannot listen on {host}:{port}: {error.strerror}; give another --listen HOST:PORT") from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="trimtab-admin", daemon=True).start()
    return server
