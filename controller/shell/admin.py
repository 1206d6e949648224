"""The daemon's HTTP server: Starlette on uvicorn, in a thread of its own beside the loop."""

import asyncio
import socket
import ssl
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from controller.shell.tls import Renewed

SILENT_S = 10.0  # a client that neither asks, nor goes on asking, nor reads for so long is let go
MOST_AT_ONCE = 64  # connections; more are answered with 503
MOST_OPEN = 2 * MOST_AT_ONCE  # and of these no more are taken: each holds a descriptor, of which Redis needs some too
STARTED_S = 10.0  # how long a server may take to listen


class PortTaken(Exception):
    """The address to listen on is not to be had."""


class CertificateRefused(Exception):
    """The certificate or its key cannot be used."""


class Server:
    """A server that runs. `address`: where, with the port that was picked for 0."""

    def __init__(self, server: uvicorn.Server, thread: threading.Thread, listener: socket.socket, tls: bool) -> None:
        self._server, self._thread, self._listener = server, thread, listener
        host, port = listener.getsockname()[:2]
        self.address: tuple[str, int] = (str(host), int(port))
        self.tls = tls

    @property
    def url(self) -> str:
        """How this machine reaches it."""
        host, port = self.address
        near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"{'https' if self.tls else 'http'}://{f'[{near}]' if ':' in near else near}:{port}"

    def close(self) -> None:
        """Stop listening, end the requests that are being answered, and the thread."""
        self._server.should_exit = True
        self._thread.join(STARTED_S)
        self._listener.close()


class _Door(socket.socket):
    """Listens, and hangs up on who comes beyond `MOST_OPEN` connections, those that say nothing counted."""

    def __init__(self, family: int) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._taken: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection; one too many raises `ConnectionAbortedError`, at which asyncio looks again."""
        taken, peer = super().accept()
        if sum(one.fileno() >= 0 for one in self._taken) >= MOST_OPEN:
            taken.close()
            raise ConnectionAbortedError(f"{MOST_OPEN} connections are open")
        self._taken.add(taken)
        return taken, peer


class _Loop(asyncio.SelectorEventLoop):
    """Ends a connection that does not get on with TLS; asyncio waits for a minute, and uvicorn sees it afterwards."""

    async def create_server(self, *args: Any, **options: Any) -> Any:
        """As its base does."""
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = SILENT_S
        return await super().create_server(*args, **options)


class _Impatient(H11Protocol):
    """Ends a connection on which nothing has happened for a while.

    uvicorn's own timer is called off by the first byte of a next request, and never ends who does not read an answer.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._look_later(self._where())

    def _where(self) -> tuple[object, bool]:
        """The newest request, and whether it is answered; no request is equal to another."""
        asked: Any = self.cycle
        return asked, asked is not None and asked.response_complete

    def _look_later(self, before: tuple[object, bool]) -> None:
        asyncio.get_running_loop().call_later(SILENT_S, self._look, before)

    def _look(self, before: tuple[object, bool]) -> None:
        now = self._where()
        if now != before:
            self._look_later(now)
            return
        self.transport.close()  # waits for what is not read yet
        asyncio.get_running_loop().call_later(SILENT_S, self.transport.abort)


def serve(host: str, port: int, app: ASGIApp, cert: Path | None = None, key: Path | None = None) -> Server:
    """Serve an application until `close`; with `cert` and `key` (PEM) over TLS 1.2 or newer.

    Raises:
        PortTaken: another process listens there, or the address is not this machine's.
        CertificateRefused: no such files, or not a pair.
    """
    config = uvicorn.Config(
        app,
        http=_Impatient,
        ws="none",
        lifespan="off",
        loop="asyncio",
        interface="asgi3",
        log_config=None,
        log_level="error",  # its warnings, a line for each broken or unanswered request, are written by strangers
        access_log=False,
        proxy_headers=False,  # whoever asks could claim to be on this machine
        server_header=False,
        limit_concurrency=MOST_AT_ONCE,
        timeout_keep_alive=int(SILENT_S),
        timeout_graceful_shutdown=2,
    )
    config.load()
    if cert is not None:
        try:
            config.ssl = Renewed(lambda: _showing(cert, key))
        except OSError as error:  # ssl's errors are OSErrors
            raise CertificateRefused(f"admin.cert_file {cert}, admin.key_file {key}: {error}") from error
    server, listener = uvicorn.Server(config), _listener(host, port)
    thread = threading.Thread(target=_run, args=(server, listener), name="trimtab-admin", daemon=True)
    thread.start()
    deadline_s = time.monotonic() + STARTED_S
    while not server.started and thread.is_alive() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    if not thread.is_alive():  # it has written why: a bug, or no descriptor is left
        listener.close()
        raise RuntimeError(f"the thread of the admin interface on {host}:{port} has died")
    return Server(server, thread, listener, config.ssl is not None)


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(server.serve(sockets=[listener]))


def _showing(cert: Path, key: Path | None) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.load_cert_chain(cert, key)
    return made


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = _Door(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise PortTaken(f"cannot listen on {host}:{port}: {error.strerror}; give another --listen HOST:PORT") from error
    return listener
