"""How commands reach a running daemon: its admin interface, found by its address or by the study's journal.

The token comes from TRIMTAB_ADMIN_TOKEN; a certificate that no public authority signed from TRIMTAB_ADMIN_CA (PEM).
"""

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from controller.shell.board import StudyView
from controller.shell.journal import Journal
from controller.shell.messages import Order, OrderState

TOKEN, CA = "TRIMTAB_ADMIN_TOKEN", "TRIMTAB_ADMIN_CA"
ASK_S = 0.1  # how often it is asked whether an order was taken
_TIMEOUT_S: Final = 5.0
_Found = TypeVar("_Found")


class Unreachable(Exception):
    """Nothing answers at the address, or nothing that speaks this interface."""


class Refused(Exception):
    """The interface said no. `status`: with which HTTP status; 0 where it was not even asked."""

    def __init__(self, said: str, status: int = 0) -> None:
        super().__init__(said)
        self.status = status


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token is for the address that was named, not for where that sends its callers."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Remote:
    """A daemon's admin interface at `url`, asked directly: no proxy of the environment gets to see the token."""

    def __init__(self, url: str, environ: Mapping[str, str]) -> None:
        """Raises `Refused` where the address or TRIMTAB_ADMIN_CA cannot be used."""
        self.url, self._token = url.rstrip("/"), environ.get(TOKEN) or None
        ca = environ.get(CA) or None
        try:
            tls = ssl.create_default_context(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise Refused(f"{CA}: {ca}: {error}") from error
        handlers = (urllib.request.HTTPSHandler(context=tls), urllib.request.ProxyHandler({}), _NoRedirect())
        self._opener = urllib.request.build_opener(*handlers)

    @property
    def has_token(self) -> bool:
        """Whether orders can be given at all."""
        return self._token is not None

    def study(self) -> dict[str, Any]:
        """Where the study stands. Raises `Unreachable`, `Refused`."""
        found: dict[str, Any] = msgspec.to_builtins(self._ask("/api/v1/study", StudyView))
        return found

    def order(self, order: Order, wait_s: float) -> OrderState:
        """Leave an order, and wait so long for what becomes of it. Raises `Unreachable`, `Refused`.

        Once it is left neither is raised: it is in the journal, and whoever gave it again would give it twice.
        """
        deadline_s = time.monotonic() + wait_s
        state = self._ask("/api/v1/orders", OrderState, msgspec.json.encode(order))
        while not state.applied and time.monotonic() < deadline_s:
            time.sleep(ASK_S)
            with suppress(Unreachable, Refused):
                state = self._ask(f"/api/v1/orders/{state.id}", OrderState)
        return state

    def _ask(self, path: str, kind: type[_Found], body: bytes | None = None) -> _Found:
        headers = {"content-type": "application/json"} if body else {}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        try:
            request = urllib.request.Request(self.url + path, body, headers)  # POST where there is a body
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                found = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(f"{self.url}: {_said(error)}", error.code) from error
        # urllib's own errors are OSErrors; half an address, or half an answer, a ValueError or an HTTPException
        except (OSError, ValueError, HTTPException) as error:
            raise Unreachable(f"no daemon answers at {self.url}: {_reason(error)}") from error
        try:
            return msgspec.json.decode(found, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unreachable(f"what answers at {self.url} does not speak this interface: {error}") from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({reason.verify_message}): name who signed it in {CA}"
    return str(reason.strerror if isinstance(reason, OSError) and reason.strerror else reason)


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"status {error.code}"


def of_journal(journal: Journal) -> Remote | None:
    """The daemon that wrote the journal last, where it said where it listens; it may have ended since."""
    last = journal.newest(("daemon_started",))
    url = "" if last is None else str(last.body["about"].get("admin", ""))
    return Remote(url, os.environ) if url else None


def live_view(path: Path, study: str) -> tuple[dict[str, Any] | None, str]:
    """What the daemon that wrote the journal last says now of its study; None, and why, where it says nothing."""
    try:
        with Journal.read_only(path) as journal:
            remote = of_journal(journal)
        seen = None if remote is None else _let_in(remote)
    except (Unreachable, Refused) as error:
        return None, str(error)
    if seen is None:
        return None, "no daemon is asked: the journal names no address of one"
    if seen["study"] != study:
        return None, f"the daemon at the address in the journal runs another study, {seen['study']}"
    return seen, ""


def _let_in(remote: Remote) -> dict[str, Any]:
    try:
        return remote.study()
    except Refused as error:
        if error.status == 401 and not remote.has_token:
            raise Refused(f"a daemon answers at {remote.url} but asks for a token: set {TOKEN}", 401) from error
        raise Refused(f"a daemon answers, but refuses to tell: {error}", error.status) from error
