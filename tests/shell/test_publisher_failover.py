"""A failover behind one address (a name or a virtual IP): new connections reach the new primary, old ones stay."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from controller.shell.publisher import PublisherUnavailable, RedisPublisher, connect
from tests.services.redis_server import MakeRedis, RedisServer


class Address:
    """Connections to `port` go on to the server that `leads` when they are made."""

    def __init__(self, leads: RedisServer) -> None:
        self.leads = leads
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # else it stays in `accept`
        self._listener.close()
        for end in self._open:
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.leads.port))
                self._open += client, server
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


@pytest.fixture
def old(redis_server: MakeRedis) -> RedisServer:
    return redis_server()


@pytest.fixture
def address(old: RedisServer) -> Iterator[Address]:
    made = Address(old)
    yield made
    made.close()


def test_the_next_try_reaches_the_new_primary(old: RedisServer, address: Address, redis_server: MakeRedis) -> None:
    new = redis_server()
    with connect(f"redis://127.0.0.1:{address.port}/0", None) as client, connect(old.url, None) as demoted:
        publisher = RedisPublisher(client, "feed")
        assert publisher.publish(b'{"version": 5}', 5).accepted
        demoted.replicaof("127.0.0.1", str(new.port))
        address.leads = new
        with pytest.raises(PublisherUnavailable, match=r"(?i)read.?only"):
            publisher.publish(b'{"version": 6}', 6)
        assert publisher.publish(b'{"version": 6}', 6).accepted
    with connect(new.url, None) as promoted:
        assert promoted.get("trimtab:feed:assignment") == b'{"version": 6}'
