"""The daemon's small HTTP side: liveness, readiness, metrics."""

import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

JSON = "application/json"
SILENT_S = 10.0  # a client that says nothing for so long is let go, with its thread


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


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer would ask DNS for the host's name, and may wait long
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):  # a scraper that hung up is no news
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # typeshed narrows what is only passed on


class _Server6(_Server):
    address_family = socket.AF_INET6


def serve(host: str, port: int, registry: CollectorRegistry, health: Health) -> ThreadingHTTPServer:
    """Serve `/livez`, `/readyz` (503 with the reasons while not ready) and `/metrics` from a thread of its own.

    Raises:
        PortTaken: another process listens there, or the address is not this machine's.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = SILENT_S

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
        server = (_Server6 if ":" in host else _Server)((host, port), Handler)
    except OSError as error:
        raise PortTaken(f"cannot listen on {host}:{port}: {error.strerror}; give another --listen HOST:PORT") from error
    threading.Thread(target=server.serve_forever, name="trimtab-admin", daemon=True).start()
    return server
