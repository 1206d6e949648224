import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
from prometheus_client import CollectorRegistry, Counter

from controller.shell.admin import Health, PortTaken, serve

Server = tuple[ThreadingHTTPServer, Health, list[dict[str, str]]]


@pytest.fixture
def server() -> Iterator[Server]:
    registry = CollectorRegistry()
    Counter("turns", "Turns", registry=registry).inc(3)
    told: list[dict[str, str]] = []
    health = Health(told.append)
    running = serve("127.0.0.1", 0, registry, health)
    yield running, health, told
    running.shutdown()
    running.server_close()


def get(server: Server, path: str, **headers: str) -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server[0].server_address[1]}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_it_lives_before_it_is_ready(server: Server) -> None:
    assert get(server, "/livez") == (200, "application/json", '{"live":true}')
    status, kind, body = get(server, "/readyz")
    assert (status, kind) == (503, "application/json")
    assert json.loads(body) == {"ready": False, "faults": {"start": "the daemon has not polled yet"}}


def test_it_is_ready_once_nothing_is_wrong(server: Server) -> None:
    _, health, told = server
    health.set("start", None)
    assert get(server, "/readyz") == (200, "application/json", '{"ready":true,"faults":{}}')
    health.set("redis", "down")
    health.set("source", "gone")
    health.set("source", "gone for longer")
    assert json.loads(get(server, "/readyz?verbose")[2])["faults"] == {"redis": "down", "source": "gone for longer"}
    health.set("redis", None)
    health.set("source", None)
    assert get(server, "/readyz")[0] == 200
    assert told == [{}, {"redis": "down"}, {"redis": "down", "source": "gone"}, {"source": "gone for longer"}, {}]


def test_metrics_come_in_the_format_that_is_asked_for(server: Server) -> None:
    status, kind, body = get(server, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    assert "turns_total 3.0" in body
    assert get(server, "/metrics", Accept="application/openmetrics-text")[1].startswith("application/openmetrics-text")


def test_another_path_says_which_there_are(server: Server) -> None:
    status, _, body = get(server, "/")
    assert status == 404
    assert "/readyz" in body


def test_a_client_that_hangs_up_leaves_no_trace(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", int(server[0].server_address[1])), 10) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset, no goodbye
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    assert get(server, "/livez")[0] == 200
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_named(server: Server) -> None:
    port = server[0].server_address[1]
    with pytest.raises(PortTaken, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*in use; give another --listen"):
        serve("127.0.0.1", port, CollectorRegistry(), server[1])


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1:0"):
        serve("192.0.2.1", 0, CollectorRegistry(), Health(lambda faults: None))


def test_it_listens_on_version_6_too() -> None:
    try:
        server = serve("::1", 0, CollectorRegistry(), Health(lambda faults: None))
    except PortTaken:
        pytest.skip("this machine has no ::1")
    with urllib.request.urlopen(f"http://[::1]:{server.server_address[1]}/livez", timeout=10) as answer:
        assert answer.status == 200
    server.shutdown()
    server.server_close()
