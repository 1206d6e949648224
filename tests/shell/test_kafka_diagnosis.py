"""What a server answers, step by step, and what is said of it. Real brokers: tests/integration/test_security.py."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from controller.shell import kafka_diagnosis
from controller.shell.connections import Kafka
from controller.shell.kafka_diagnosis import diagnosed, unreached
from tests.services.certificates import Authority
from tests.services.process import free_port

Answer = Callable[[bytes], bytes]
VERSIONS = struct.pack(">iih", 6, 1, 0)
LOGIN = {"security": "sasl_plaintext", "sasl_mechanism": "PLAIN", "username": "me"}


@contextmanager
def server(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Answers each request by what `answer` makes of it; b"" closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            plain, _ = listening.accept()
            with (
                plain,
                suppress(ssl.SSLError, ConnectionError),  # a client that has found out hangs up
                plain if tls is None else tls.wrap_socket(plain, server_side=True) as connection,
            ):
                while request := connection.recv(4096):
                    if not (reply := answer(request)):
                        return
                    for byte in reply:  # a network may cut anywhere
                        connection.sendall(bytes((byte,)))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join(5)


def handshake(code: int, *mechanisms: bytes) -> Answer:
    names = b"".join(struct.pack(">h", len(name)) + name for name in mechanisms)
    reply = struct.pack(">iihi", 10 + len(names), 1, code, len(mechanisms)) + names
    return lambda request: VERSIONS if request[4:6] == b"\x00\x12" else reply


@pytest.mark.parametrize(
    ("answer", "settings", "words"),
    [
        (lambda request: b"", {}, "answers nothing (it closed the connection)"),
        (lambda request: b"\x15\x03\x03\x00\x02\x02\x46", {}, 'it speaks TLS there; kafka.security must be "ssl"'),
        (lambda request: VERSIONS, {}, "it answers, but not this client: it wants a login"),
        (handshake(33, b"GSSAPI", b"SCRAM-SHA-256"), LOGIN, "has no login by PLAIN, but by GSSAPI, SCRAM-SHA-256"),
        (handshake(34), LOGIN, "it takes no login there"),
        (handshake(33, b"\xff"), LOGIN, "it takes no login by PLAIN"),
        (lambda request: VERSIONS, LOGIN, "it takes no login by PLAIN"),
        (handshake(0, b"PLAIN"), LOGIN, "refuses the login of 'me' by PLAIN: the user name or the password"),
        (lambda request: VERSIONS if request[4:6] == b"\x00\x12" else b"", LOGIN, "it takes no login by PLAIN"),
    ],
)
def test_the_first_step_that_fails_is_named(answer: Answer, settings: dict[str, str], words: str) -> None:
    with server(answer) as address:
        said = diagnosed(Kafka(address, "events", **settings))  # type: ignore[arg-type]  # literals, as the cases hold them
    assert said.startswith(f"{address}: ")
    assert words in said


def test_each_server_is_asked_but_not_dozens() -> None:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(5)]
    said = diagnosed(Kafka(", ".join(addresses), "events"))
    assert said == "; ".join(f"{address}: no connection (Connection refused)" for address in addresses[:3])


def test_servers_of_which_none_takes_a_connection_are_told_without_waiting() -> None:
    gone = f"127.0.0.1:{free_port()}"
    assert unreached(Kafka(gone, "events")) == f"{gone}: no connection (Connection refused)"
    with server(lambda request: b"") as address:
        assert unreached(Kafka(f"{gone},{address}", "events")) is None


def test_a_certificate_that_is_gone_is_named() -> None:
    with server(lambda request: b"") as address:
        said = diagnosed(Kafka(address, "events", security="ssl", ca_file="/gone.pem"))
    assert said == f"{address}: kafka.ca_file: /gone.pem: No such file or directory"


def test_a_name_that_nobody_knows_or_can_have_is_named() -> None:
    assert "no connection (" in diagnosed(Kafka("no-such-host.invalid:9092", "events"))
    assert diagnosed(Kafka("a..b:9092", "events")).startswith("a..b:9092: no name of a host (")


def test_a_certificate_of_another_host_is_not_the_authority_s_fault(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.server("elsewhere")
    speaking = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    speaking.load_cert_chain(files.certificate, files.key)
    with server(lambda request: b"", speaking) as address:
        said = diagnosed(Kafka(address, "events", security="ssl", ca_file=str(authority.ca)))
    assert said.startswith(f"{address}: its certificate is not trusted (IP address mismatch")
    assert said.endswith("; see kafka.bootstrap")


def test_a_server_that_hangs_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_diagnosis, "_STEP_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert "answers nothing (timed out)" in diagnosed(Kafka(address, "events"))
