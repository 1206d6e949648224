"""TLS by the files that the study names, which are looked at before a client gets them: its own words tell nothing."""

import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

from controller.shell.connections import SECRETS, Tls

Section = Literal["kafka", "redis"]


class CannotConnect(Exception):
    """A certificate, a key or a password that the study asks for cannot be used; the message names its place."""


class Renewed(ssl.SSLContext):
    """Secures each connection by what `make` reads from the files at that moment: they are renewed while a daemon runs.

    While they cannot be used, as between the writing of a certificate and of its key, by what was last read. Raises
    what `make` raises at first.
    """

    def __new__(cls, make: Callable[[], ssl.SSLContext]) -> Self:
        """Any protocol will do: its own settings are never used."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, make: Callable[[], ssl.SSLContext]) -> None:
        self._make, self._made = make, make()

    def wrap_socket(self, *socket: Any, **options: Any) -> ssl.SSLSocket:
        """As its base does, for clients that own their sockets."""
        return self._newest().wrap_socket(*socket, **options)

    def wrap_bio(self, *buffers: Any, **options: Any) -> ssl.SSLObject:
        """As its base does, for asyncio."""
        return self._newest().wrap_bio(*buffers, **options)

    def _newest(self) -> ssl.SSLContext:
        with contextlib.suppress(CannotConnect, OSError):  # ssl's errors are OSErrors
            self._made = self._make()
        return self._made


def context(section: Section, tls: Tls) -> ssl.SSLContext:
    """What a connection trusts and shows: by default the system's authorities, and no certificate of its own.

    Raises `CannotConnect`.
    """
    for key in ("ca_file", "cert_file", "key_file"):
        _readable(f"{section}.{key}", getattr(tls, key))
    try:
        made = ssl.create_default_context(cafile=tls.ca_file)
    except ssl.SSLError as error:
        raise CannotConnect(f"{section}.ca_file: {tls.ca_file} holds no certificate in PEM ({error.reason})") from error
    if tls.cert_file is not None:
        _show(made, section, tls.cert_file, tls.key_file)
    return made


def require_password(section: Section, username: str | None, password: str | None) -> None:
    """Raise `CannotConnect` where a login has a name and no password."""
    if username is not None and not password:
        raise CannotConnect(
            f"{section}.username is {username!r}, and the environment variable {SECRETS[section]} holds no password"
        )


def _show(made: ssl.SSLContext, section: Section, cert_file: str, key_file: str | None) -> None:
    """Give the context a certificate; a key under a password would stop a daemon at a question that nobody answers."""

    def asked() -> str:
        raise CannotConnect(
            f"{section}.key_file: {key_file} is encrypted; mount it as a secret without a password of its own "
            "(openssl pkey -in KEY -out PLAIN)"
        )

    try:
        made.load_cert_chain(cert_file, key_file, asked)
    except ssl.SSLError as error:
        raise CannotConnect(
            f"{section}.cert_file, {section}.key_file: {cert_file} and {key_file} are no certificate and its key "
            f"in PEM ({error.reason})"
        ) from error


def _readable(key: str, path: str | None) -> None:
    if path is None:
        return
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise CannotConnect(f"{key}: {path}: {error.strerror}") from error
