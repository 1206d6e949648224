import asyncio
import errno
import json
import socket
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import msgspec
import pytest
from prometheus_client import Counter

from controller.shell import admin
from controller.shell.admin import CertificateRefused, PortTaken, serve
from controller.shell.api import Site, app
from tests.shell.interface import Interface, blank_site, serving
from tests.waiting import wait_until


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = blank_site(tmp_path / "none.journal")
    Counter("turns", "Turns", registry=made.registry).inc(3)
    return made


@pytest.fixture
def interface(site: Site) -> Iterator[Interface]:
    with serving(site) as running:
        yield running


def test_it_lives_before_it_is_ready(interface: Interface) -> None:
    live = interface.ask("/livez")
    assert (live.status, live.headers["content-type"], live.body) == (200, "application/json", b'{"live":true}')
    ready = interface.ask("/readyz")
    assert (ready.status, ready.headers["content-type"]) == (503, "application/json")
    assert ready.json == {"ready": False, "faults": {"start": "the daemon has not polled yet"}}


def test_it_is_ready_once_nothing_is_wrong(interface: Interface, site: Site) -> None:
    site.health.set("start", None)
    assert interface.ask("/readyz")[::2] == (200, b'{"ready":true,"faults":{}}')
    site.health.set("redis", "down")
    assert interface.ask("/readyz?verbose").json["faults"] == {"redis": "down"}


def test_metrics_come_in_the_format_that_is_asked_for(interface: Interface) -> None:
    found = interface.ask("/metrics")
    assert found.status == 200
    assert found.headers["content-type"].startswith("text/plain")
    assert b"turns_total 3.0" in found.body
    open_ = interface.ask("/metrics", accept="application/openmetrics-text")
    assert open_.headers["content-type"].startswith("application/openmetrics-text")


def test_another_path_says_which_there_are(interface: Interface) -> None:
    found = interface.ask("/nowhere")
    assert found.status == 404
    assert "/readyz" in found.json["error"]


def test_a_client_that_hangs_up_leaves_no_trace(interface: Interface, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        with socket.create_connection(interface.server.address, 10) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset, no goodbye
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    assert interface.ask("/livez").status == 200
    assert capfd.readouterr().err == ""


def heard(client: socket.socket) -> bytes:
    """All until the server hangs up: by a reset where it had not read what was said."""
    came = b""
    try:
        while part := client.recv(4096):
            came += part
    except ConnectionResetError:
        pass
    return came


@pytest.mark.parametrize("said", [b"", b"GET /livez HT", b"POST /api/v1/orders HTTP/1.1\r\nContent-Le"])
def test_a_client_that_stops_talking_is_let_go(
    interface: Interface, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "SILENT_S", 0.05)
    with socket.create_connection(interface.server.address, 30) as client:
        client.sendall(said)
        assert heard(client) == b"", "the server hangs up"


def test_a_client_that_stops_talking_after_an_answer_is_let_go(
    interface: Interface, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "SILENT_S", 0.05)
    with socket.create_connection(interface.server.address, 30) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\nG")
        heard(client)


class Ahead(admin._Loop):
    """Its clock is ahead of the machine's by as much as a test says."""

    by_s = 0.0

    def time(self) -> float:
        return super().time() + self.by_s


def test_a_client_that_keeps_asking_is_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_Loop", Ahead)
    monkeypatch.setattr(admin, "SILENT_S", 100.0)
    with serving(site) as interface:
        client = HTTPConnection(*interface.server.address, timeout=30)
        client.connect()
        client.auto_open = 0  # a connection that was let go is not made again
        for number in range(8):
            monkeypatch.setattr(Ahead, "by_s", 60.0 * number)
            client.request("GET", "/livez")
            assert client.getresponse().read() == b'{"live":true}'
        client.close()


def test_a_client_that_does_not_read_its_answers_is_let_go(
    interface: Interface, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "SILENT_S", 0.05)
    asked = 1_000_000 * b"GET /console/console.js HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with socket.create_connection(interface.server.address, 60) as client, pytest.raises(ConnectionError):
        client.sendall(asked)


def test_callers_that_hang_on_leave_descriptors_for_the_daemon(
    interface: Interface, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(admin, "MOST_OPEN", 5)
    with ExitStack() as open_:
        clients = [open_.enter_context(socket.create_connection(interface.server.address, 30)) for _ in range(20)]
        assert [client.recv(1) for client in clients[5:]] == 15 * [b""], "the server hangs up"
        clients[0].sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert clients[0].recv(12) == b"HTTP/1.1 200"
    wait_until(lambda: _answers(interface), "there is room again")
    assert capfd.readouterr().err == ""


def test_what_strangers_send_fills_no_log(interface: Interface, caplog: pytest.LogCaptureFixture) -> None:
    for asked in (
        b"nonsense\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ):
        with socket.create_connection(interface.server.address, 30) as client:
            client.sendall(asked)
            assert client.recv(9) == b"HTTP/1.1 "
    assert caplog.text == ""


def _answers(interface: Interface) -> bool:
    try:
        return interface.ask("/livez").status == 200
    except (OSError, HTTPException):
        return False


def test_a_port_that_is_taken_is_named(interface: Interface, site: Site) -> None:
    port = interface.server.address[1]
    with pytest.raises(PortTaken, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*in use; give another --listen"):
        serve("127.0.0.1", port, app(site))


def test_an_address_of_another_machine_is_named(site: Site) -> None:
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1:0"):
        serve("192.0.2.1", 0, app(site))


def test_it_listens_on_version_6_too(site: Site) -> None:
    try:
        server = serve("::1", 0, app(site))
    except PortTaken:
        pytest.skip("this machine has no ::1")
    assert server.url.startswith("http://[::1]:")
    with urllib.request.urlopen(f"{server.url}/livez", timeout=10) as answer:
        assert answer.status == 200
    server.close()


def test_closing_ends_the_thread_and_frees_the_port(site: Site) -> None:
    server = serve("127.0.0.1", 0, app(site))
    address = server.address
    server.close()
    wait_until(lambda: "trimtab-admin" not in [t.name for t in threading.enumerate()], "the thread ends")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 1).close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def test_it_speaks_tls_where_it_has_a_certificate(site: Site, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    server = serve("127.0.0.1", 0, app(msgspec.structs.replace(site, tls=True)), cert, key)
    try:
        assert server.url.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(cert))
        with urllib.request.urlopen(f"{server.url}/livez", timeout=10, context=trusting) as answer:
            assert json.load(answer) == {"live": True}
            assert answer.headers["strict-transport-security"]
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(
                socket.create_connection(server.address, 10), server_hostname="127.0.0.1"
            )
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            old.wrap_socket(socket.create_connection(server.address, 10))
    finally:
        server.close()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_client_that_stops_in_the_midst_of_tls_is_let_go(
    site: Site, said: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "SILENT_S", 0.05)
    server = serve("127.0.0.1", 0, app(msgspec.structs.replace(site, tls=True)), *certificate(tmp_path))
    try:
        with socket.create_connection(server.address, 30) as client:
            client.sendall(said)
            assert heard(client) == b"", "the server hangs up"
    finally:
        server.close()


def test_a_certificate_that_was_renewed_is_shown_with_the_next_connection(site: Site, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    server = serve("127.0.0.1", 0, app(site), cert, key)
    try:
        first = ssl.get_server_certificate(server.address)
        assert first == cert.read_text()
        certificate(tmp_path)
        assert ssl.get_server_certificate(server.address) == cert.read_text() != first
    finally:
        server.close()


def test_a_certificate_that_cannot_be_used_is_named(site: Site, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with pytest.raises(CertificateRefused, match=r"admin\.cert_file .*cert\.pem, admin\.key_file .*none\.pem"):
        serve("127.0.0.1", 0, app(site), cert, tmp_path / "none.pem")
    key.write_text("no key")
    with pytest.raises(CertificateRefused):
        serve("127.0.0.1", 0, app(site), cert, key)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_whose_thread_dies_is_not_taken_for_one_that_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted() -> asyncio.AbstractEventLoop:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(admin, "_Loop", exhausted)
    with pytest.raises(RuntimeError, match="has died"):
        serve("127.0.0.1", 0, app(site))
