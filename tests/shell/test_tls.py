"""What is wrong with a file or a password is said before any client tries it."""

from pathlib import Path

import pytest

from controller.shell.connections import Tls
from controller.shell.tls import CannotConnect, context, require_password
from tests.services.certificates import Authority


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


def test_a_login_needs_a_password() -> None:
    require_password("kafka", None, None)
    require_password("kafka", "me", "words")
    with pytest.raises(CannotConnect, match="TRIMTAB_KAFKA_PASSWORD holds no password"):
        require_password("kafka", "me", "")
