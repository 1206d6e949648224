"""The admin interface of a daemon that runs in this process, and callers of it."""

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry

from controller.shell.access import Caller, Rate, Role, Token
from controller.shell.admin import Server, serve
from controller.shell.api import Site, app
from controller.shell.board import Board
from controller.shell.health import Health
from tests.shell.loop import PLAN, Rig, World

ANN, BOB = "the-token-of-ann-who-operates", "the-token-of-bob-who-looks-on"
OFTEN = Rate(1e6, 1e6)


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Interface(NamedTuple):
    """A server and how to talk to it."""

    server: Server
    url: str

    def ask(self, path: str, body: object = None, token: str | None = None, **headers: str) -> Answer:
        """GET, or POST where there is a body: bytes as they are, anything else as JSON."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            told.setdefault("content-type", "application/json")
        if token is not None:
            told["authorization"] = f"Bearer {token}"
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, told)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, _lowered(answer), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _lowered(error), error.read())


def _lowered(answer: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}


def token(name: str, role: Role, secret: str) -> Token:
    return Token(Caller(name, role), hashlib.sha256(secret.encode()).digest())


TOKENS = (token("ann", "operator", ANN), token("bob", "viewer", BOB))


def site_of(rig: Rig, path: Path, **options: Any) -> Site:
    """A rig's interface, which asks for a token and may be asked often."""
    chosen: dict[str, Any] = {"tokens": TOKENS, "reads": OFTEN, "orders": OFTEN} | options
    return Site(PLAN.study, path, rig.board, rig.health, rig.registry, **chosen)


def blank_site(path: Path, **options: Any) -> Site:
    """The interface of a daemon that has not done anything yet."""
    board = Board(PLAN, "wall")
    return Site(PLAN.study, path, board, Health(lambda faults: None), CollectorRegistry(), **options)


@contextmanager
def serving(site: Site) -> Iterator[Interface]:
    server = serve("127.0.0.1", 0, app(site))
    try:
        yield Interface(server, server.url)
    finally:
        server.close()


@contextmanager
def serving_world(world: World, **options: Any) -> Iterator[tuple[Rig, Interface]]:
    """A world's daemon, started, with its interface."""
    rig = world.start()
    rig.settle()
    with serving(site_of(rig, world.path, **options)) as interface:
        yield rig, interface
