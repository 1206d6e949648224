"""What is wrong with a file or a password is said before any client tries it."""

import shutil
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from controller.shell.connections import Kafka, Tls
from controller.shell.kafka_python import client_options
from controller.shell.tls import CannotConnect, context, require_password
from tests.services.certificates import Authority, Files


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_files_that_fit_make_a_context_that_checks_host_and_chain(authority: Authority) -> None:
    shown = authority.client()
    made = context("kafka", Tls(str(authority.ca), str(shown.certificate), str(shown.key)))
    assert made.check_hostname
    assert len(made.get_ca_certs()) == 1


def test_without_files_the_system_s_authorities_are_trusted() -> None:
    assert context("redis", Tls()).check_hostname


def refused(tls: Tls) -> str:
    with pytest.raises(CannotConnect) as raised:
        context("kafka", tls)
    return str(raised.value)


def test_each_file_that_cannot_be_used_is_named(authority: Authority, tmp_path: Path) -> None:
    ca, shown, other = str(authority.ca), authority.client(), authority.client("other")
    hidden = authority.client("hidden", b"words")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    assert refused(Tls("/nowhere.pem")) == "kafka.ca_file: /nowhere.pem: No such file or directory"
    assert refused(Tls(str(text))).startswith(f"kafka.ca_file: {text} holds no certificate in PEM")
    assert refused(Tls(ca, "/nowhere.pem", str(shown.key))).startswith("kafka.cert_file: /nowhere.pem")
    assert refused(Tls(ca, str(shown.certificate), "/nowhere.pem")).startswith("kafka.key_file: /nowhere.pem")
    assert "KEY_VALUES_MISMATCH" in refused(Tls(ca, str(shown.certificate), str(other.key)))
    assert "are no certificate and its key" in refused(Tls(ca, str(text), str(other.key)))
    assert refused(Tls(ca, str(hidden.certificate), str(hidden.key))).startswith(
        f"kafka.key_file: {hidden.key} is encrypted"
    )


def shown_by(client: ssl.SSLContext, authority: Authority) -> str:
    """Name on the certificate that a client shows to a server that asks for one."""
    files = authority.server()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
    server.load_cert_chain(files.certificate, files.key)
    server.verify_mode = ssl.CERT_REQUIRED
    near, far = socket.socketpair()
    found = []

    def ask() -> None:
        with server.wrap_socket(far, server_side=True) as secured:
            found.append(secured.getpeercert())

    asking = threading.Thread(target=ask)
    asking.start()
    with client.wrap_socket(near, server_hostname="127.0.0.1"):
        asking.join()
    subject: Any = found[0]
    return str(subject["subject"][0][0][1])


def test_a_certificate_that_was_renewed_is_shown_with_the_next_connection(authority: Authority, tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def write(files: Files) -> None:
        shutil.copy(files.certificate, certificate)
        shutil.copy(files.key, key)

    write(authority.client("old"))
    kafka = Kafka(
        "broker:1", "x", security="ssl", ca_file=str(authority.ca), cert_file=str(certificate), key_file=str(key)
    )
    client = client_options(kafka, None)["ssl_context"]
    assert shown_by(client, authority) == "old"
    write(authority.client("new"))
    assert shown_by(client, authority) == "new"
    key.write_text("half of a pair")
    assert shown_by(client, authority) == "new"


def test_a_login_needs_a_password() -> None:
    require_password("kafka", None, None)
    require_password("kafka", "me", "words")
    with pytest.raises(CannotConnect, match="TRIMTAB_KAFKA_PASSWORD holds no password"):
        require_password("kafka", "me", "")
