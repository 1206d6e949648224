"""Why a broker cannot be used, asked step by step: clients only say that none answered.

Of each server: a connection, TLS, a request in Kafka's protocol, the login's mechanism. The first step that fails is
named with what to look at. Protocol: https://kafka.apache.org/protocol (ApiVersions 0, SaslHandshake 1).
"""

import socket
import ssl
import struct
from typing import Final

from controller.shell.connections import SECRETS, Kafka
from controller.shell.tls import CannotConnect, context

_MOST_SERVERS: Final = 3
_STEP_S: Final = 2.0
_API_VERSIONS, _SASL_HANDSHAKE = (18, 0), (17, 1)
_UNSUPPORTED_MECHANISM: Final = 33
_TLS_ALERT: Final = b"\x15\x03"
_MOST_BYTES: Final = 4096  # of an answer; what promises more is not Kafka's


class _Found(Exception):
    """A step failed; the message says why."""


def diagnosed(kafka: Kafka) -> str:
    """One clause a server: what keeps a client from using it."""
    return "; ".join(f"{server}: {_why(kafka, server)}" for server in _servers(kafka)[:_MOST_SERVERS])


def unreached(kafka: Kafka) -> str | None:
    """One clause a server where none takes a connection, which needs no waiting for an answer; else None."""
    found = []
    for server in _servers(kafka):
        try:
            _connected(*_address(server)).close()
        except _Found as why:
            found.append(f"{server}: {why}")
        else:
            return None
    return "; ".join(found[:_MOST_SERVERS])


def _servers(kafka: Kafka) -> list[str]:
    return [server.strip() for server in kafka.bootstrap.split(",")]


def _address(server: str) -> tuple[str, int]:
    host, _, port = server.rpartition(":")
    return host.strip("[]"), int(port)


def _why(kafka: Kafka, server: str) -> str:
    host, port = _address(server)
    try:
        with _connected(host, port) as plain, _secured(kafka, plain, host) as connection:
            _speak(kafka, connection)
            return _mechanism(kafka, connection)
    except (_Found, CannotConnect) as found:  # a file may have gone since the client was made
        return str(found)


def _connected(host: str, port: int) -> socket.socket:
    try:
        return socket.create_connection((host, port), _STEP_S)
    except OSError as error:
        raise _Found(f"no connection ({error.strerror or error})") from error
    except UnicodeError as error:
        raise _Found(f"no name of a host ({error})") from error


def _secured(kafka: Kafka, plain: socket.socket, host: str) -> socket.socket:
    if not kafka.security.endswith("ssl"):
        return plain
    try:
        return context("kafka", kafka.tls).wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        hint = "see kafka.bootstrap" if "mismatch" in error.verify_message else "see kafka.ca_file"
        raise _Found(f"its certificate is not trusted ({error.verify_message}); {hint}") from error
    except OSError as error:
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            raise _Found(_refused(kafka, error)) from error
        raise _Found(f"it does not speak TLS there ({error}); see kafka.security") from error


def _refused(kafka: Kafka, error: ssl.SSLError) -> str:
    shown = (
        "asks for a client's certificate" if kafka.cert_file is None else "does not accept this client's certificate"
    )
    return f"it {shown} ({error.reason}); see kafka.cert_file and kafka.key_file"


def _speak(kafka: Kafka, connection: socket.socket) -> None:
    """Ask for the versions of its API, which every listener answers before any login."""
    try:
        answer = _asked(connection, _API_VERSIONS, b"")
    except ssl.SSLError as error:  # in TLS 1.3 the server judges the client's certificate after the handshake
        raise _Found(_refused(kafka, error)) from error
    except OSError as error:
        raise _Found(f"it takes connections and answers nothing ({error}); see kafka.security") from error
    if answer.startswith(_TLS_ALERT):
        raise _Found('it speaks TLS there; kafka.security must be "ssl" or "sasl_ssl"')


def _mechanism(kafka: Kafka, connection: socket.socket) -> str:
    if kafka.sasl_mechanism is None:
        return (
            'it answers, but not this client: it wants a login (kafka.security = "sasl_..."), names brokers that are '
            "not reached from here (advertised.listeners), or is too slow"
        )
    name = kafka.sasl_mechanism.encode()
    try:
        answer = _asked(connection, _SASL_HANDSHAKE, struct.pack(">h", len(name)) + name)
        code = struct.unpack(">h", answer[8:10])[0]
        others = ", ".join(_texts(answer[10:]))
    except (OSError, struct.error, UnicodeDecodeError):
        return f"it takes no login by {kafka.sasl_mechanism}; see kafka.security"
    if code == _UNSUPPORTED_MECHANISM:
        return f"it has no login by {kafka.sasl_mechanism}, but by {others}"
    if code:
        return "it takes no login there; see kafka.security"
    return (
        f"it refuses the login of {kafka.username!r} by {kafka.sasl_mechanism}: the user name or the password "
        f"({SECRETS['kafka']}) is wrong, or it is too slow"
    )


def _asked(connection: socket.socket, api: tuple[int, int], body: bytes) -> bytes:
    """A request's answer, with its size (4 bytes) and correlation (4 bytes) in front. Raises `OSError`."""
    client = b"trimtab"
    request = struct.pack(">hhih", *api, 1, len(client)) + client + body
    connection.settimeout(_STEP_S)
    connection.sendall(struct.pack(">i", len(request)) + request)
    answer = b""
    while not _whole(answer):
        more = connection.recv(_MOST_BYTES)
        if not more:
            raise ConnectionError("it closed the connection")
        answer += more
    return answer


def _whole(answer: bytes) -> bool:
    """Whether all is there that its first 4 bytes promise; what is no answer of Kafka's is not waited for."""
    size = int.from_bytes(answer[:4], signed=True)
    return len(answer) >= 4 and (len(answer) >= 4 + size or size > _MOST_BYTES)


def _texts(data: bytes) -> list[str]:
    """An array of texts: a count (4 bytes), then a length (2 bytes) and a text each."""
    count, at, found = struct.unpack(">i", data[:4])[0], 4, []
    for _ in range(count):
        size = struct.unpack(">h", data[at : at + 2])[0]
        found.append(data[at + 2 : at + 2 + size].decode())
        at += 2 + size
    return found
