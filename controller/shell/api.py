"""The daemon's HTTP interface: health, metrics, the console's page, what the study does, and orders to it.

Handlers read snapshots (`board`), and leave orders in the journal's inbox, from where the daemon's loop takes them: no
request waits for the loop, and an order that was answered outlives the process.
"""

import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller.core.operate import Command
from controller.shell.access import Caller, Limiter, Rate, Token, caller_of
from controller.shell.board import Board
from controller.shell.health import Health
from controller.shell.journal import Journal
from controller.shell.journal_file import JournalError
from controller.shell.messages import Fault, Live, Me, Order, OrderState, Readiness, Verb
from controller.shell.openapi import description
from controller.shell.story import answer

JSON = "application/json"
MAX_BODY = 16_384  # bytes of an order
MAX_WAITING = 20  # orders that no daemon has taken yet: more are refused, or the inbox would grow without end
MAX_ID = 2**63 - 1  # SQLite's largest
_ID = re.compile(r"[0-9]{1,19}")  # Python refuses to make an integer of thousands of digits
_ACCEPTED = (
    f"a command ({', '.join(get_args(Verb))}), a why (a text of 1 to 500 characters), and if you wish the "
    "candidate and the study that are meant"
)
READS, ORDERS, STRANGERS = Rate(60, 20), Rate(10, 1), Rate(20, 1)

HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/console/console.css": ("console.css", "text/css; charset=utf-8"),
    "/console/console.js": ("console.js", "text/javascript; charset=utf-8"),
    "/console/parts.js": ("parts.js", "text/javascript; charset=utf-8"),
    "/console/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/console/uPlot.iife.min.js": ("uplot/uPlot.iife.min.js", "text/javascript; charset=utf-8"),
    "/console/uPlot.min.css": ("uplot/uPlot.min.css", "text/css; charset=utf-8"),
    "/console/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Site(msgspec.Struct, frozen=True, eq=False):
    """What the interface is made of."""

    study: str
    journal: Path
    board: Board
    health: Health
    registry: CollectorRegistry
    tokens: tuple[Token, ...] = ()
    hosts: tuple[str, ...] = ()  # names that a browser may know it by, beside addresses and localhost
    tls: bool = False
    reads: Rate = READS
    orders: Rate = ORDERS
    monotonic: Callable[[], float] = time.monotonic


class _Refused(HTTPException):
    """An answer with an error in it."""


class _Gate:
    """Lets callers in, as often as they may ask."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._reads, self._orders, self._strangers = (
            Limiter(rate, site.monotonic) for rate in (site.reads, site.orders, STRANGERS)
        )

    def viewer(self, request: Request) -> Caller:
        """Who asks. Raises `_Refused`."""
        _check_host(self.site, request)
        peer = request.client.host if request.client else ""
        caller = caller_of(self.site.tokens, request.headers.get("authorization"), _near(request, peer))
        if caller is None:
            _wait(self._strangers, peer)
            raise _unknown(self.site, request)
        _wait(self._reads, caller.name)
        return caller

    def operator(self, request: Request) -> Caller:
        """Who gives an order. Raises `_Refused`."""
        caller = self.viewer(request)
        if caller.role != "operator":
            raise _Refused(403, f"{caller.name} is a viewer: orders need an operator's token")
        _check_origin(request)
        _wait(self._orders, caller.name)
        return caller


def app(site: Site) -> ASGIApp:
    """The interface as an ASGI application."""
    gate = _Gate(site)
    routes = [
        Route("/livez", _livez),
        Route("/readyz", partial(_readyz, site)),
        Route("/metrics", partial(_metrics, site)),
        Route("/api/v1/openapi.json", _openapi),
        Route("/api/v1/me", partial(_me, gate)),
        Route("/api/v1/study", partial(_study, gate)),
        Route("/api/v1/history", partial(_history, gate)),
        Route("/api/v1/orders", partial(_send, gate), methods=["POST"]),
        Route("/api/v1/orders/{id}", partial(_sent, gate)),
        *(Route(path, partial(_page, site)) for path in _PAGE),
    ]
    made = Starlette(routes=routes, exception_handlers={HTTPException: _refusal, JournalError: _journal_fault})
    return _with_headers(made, site.tls)


async def _livez(_: Request) -> Response:
    return _json(Live(True))


async def _readyz(site: Site, _: Request) -> Response:
    faults = site.health.faults
    return _json(Readiness(not faults, faults), 503 if faults else 200)


async def _metrics(site: Site, request: Request) -> Response:
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    return Response(await run_in_threadpool(encode, site.registry), headers={"content-type": kind})


async def _openapi(_: Request) -> Response:
    return _json(description())


async def _page(site: Site, request: Request) -> Response:
    _check_host(site, request)
    name, kind = _PAGE[request.url.path]
    return Response(_file(name), headers={"content-type": kind})


async def _me(gate: _Gate, request: Request) -> Response:
    caller = gate.viewer(request)
    return _json(Me(caller.name, caller.role))


async def _study(gate: _Gate, request: Request) -> Response:
    gate.viewer(request)
    if gate.site.board.study is None:
        raise _Refused(409, "the daemon has not shown anything yet; ask again in a second")
    return _json(gate.site.board.study)


async def _history(gate: _Gate, request: Request) -> Response:
    gate.viewer(request)
    return _json(gate.site.board.history)


async def _send(gate: _Gate, request: Request) -> Response:
    caller, site = gate.operator(request), gate.site
    order = await _order(request)
    if order.study not in (None, site.study):
        raise _Refused(409, f"this daemon runs study {site.study!r}, the order is for {order.study!r}")
    command = Command(order.command, caller.name, order.why, candidate=order.candidate)
    id_ = await run_in_threadpool(_leave, site.journal, command)
    return _json(OrderState(id_, False, "", None), 202, {"location": f"/api/v1/orders/{id_}"})


async def _sent(gate: _Gate, request: Request) -> Response:
    gate.viewer(request)
    asked = str(request.path_params["id"])
    id_ = int(asked) if _ID.fullmatch(asked) else 0
    found = await run_in_threadpool(_look_up, gate.site.journal, id_) if 0 < id_ <= MAX_ID else None
    if found is None:
        number = asked.isascii() and asked.isdecimal()
        why = "none of this number was given" if number else "orders have numbers"
        raise _Refused(404, f"there is no order {asked[:20]!r}: {why}")
    return _json(found)


def _json(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, {"content-type": JSON, **(headers or {})})


def _file(name: str) -> bytes:
    found = resources.files("controller.shell").joinpath("console")
    for part in name.split("/"):
        found = found.joinpath(part)
    return found.read_bytes()


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = error.detail
    if error.status_code == 404 and not isinstance(error, _Refused):
        said = "there are /, /livez, /readyz, /metrics and /api/v1/openapi.json, which lists the rest"
    return _json(Fault(said), error.status_code, error.headers)


async def _journal_fault(_: Request, error: Exception) -> Response:
    return _json(Fault(str(error)), 503, {"retry-after": "5"})


def _leave(path: Path, command: Command) -> int:
    """Commit an order to the inbox: it is safe before it is answered."""
    with Journal.open(path, None) as journal:
        waiting = len(journal.inbox())
        if waiting >= MAX_WAITING:
            raise _Refused(
                429, f"{waiting} orders wait already: the daemon's loop does not take them", {"retry-after": "5"}
            )
        return journal.send(command, time.time_ns() // 1_000_000)


def _look_up(path: Path, id_: int) -> OrderState | None:
    with Journal.read_only(path) as journal:
        if not journal.knows(id_):
            return None
        entry = journal.applied(id_)
        return OrderState(id_, entry is not None, "" if entry is None else answer(journal, entry), entry)


async def _order(request: Request) -> Order:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise _Refused(415, f"content-type is {kind or 'missing'!r}; send {JSON}")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise _Refused(413, f"an order has at most {MAX_BODY} bytes")
    try:
        return msgspec.json.decode(body, type=Order)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _Refused(400, f"is no order: {error}; accepted: {_ACCEPTED}") from error


def _near(request: Request, peer: str) -> bool:
    """Whether the caller is on this machine, and no proxy here that speaks for another one."""
    return _loopback(peer) and "forwarded" not in request.headers and "x-forwarded-for" not in request.headers


def _unknown(site: Site, request: Request) -> _Refused:
    lacks = "this token is not known" if "authorization" in request.headers else "a token is needed"
    hint = "" if site.tokens else " (none is configured: only callers on this machine may look, and nobody may act)"
    return _Refused(401, f"{lacks}: Authorization: Bearer TOKEN{hint}", {"www-authenticate": "Bearer"})


def _wait(limiter: Limiter, name: str) -> None:
    wait_s = limiter.wait_s(name)
    if wait_s:
        raise _Refused(429, f"too many requests; wait {wait_s:.1f} s", {"retry-after": str(int(wait_s) + 1)})


def _check_host(site: Site, request: Request) -> None:
    """A page of another site may have its name resolved to this machine; then the browser's Host is that name."""
    host = _name(request.headers.get("host", ""))
    if host is None or not (host in ("localhost", *map(str.lower, site.hosts)) or _is_address(host)):
        raise _Refused(421, f"this is not {host!r}; name the host in admin.hosts of the study file if it is")


def _check_origin(request: Request) -> None:
    """Orders come from this page or from no page at all."""
    origin = request.headers.get("origin")
    own = origin is None or _place(origin) == request.headers.get("host")
    if not own or request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise _Refused(403, "orders from another site's page are refused")


def _place(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _loopback(peer: str) -> bool:
    if not _is_address(peer):
        return False
    address = ipaddress.ip_address(peer)
    mapped = getattr(address, "ipv4_mapped", None)  # a socket for both versions tells the fourth's callers so
    return (mapped or address).is_loopback


def _with_headers(inner: ASGIApp, tls: bool) -> ASGIApp:
    """The headers that tell a browser what not to do, on every answer."""
    told = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    if tls:
        told.append((b"strict-transport-security", b"max-age=31536000"))

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *told]}
            await send(message)

        await inner(scope, receive, with_headers)

    return outer
