"""Who may do what on the admin interface: tokens with a name and a role, and how often each may ask.

A token is 256 random bits, so what is kept of it is a plain SHA-256: there is nothing to guess that a slow hash would
protect. Without any token a caller on this machine may look, and nobody may act.
"""

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from controller.shell.toml_records import Mistake, show, within

Role = Literal["viewer", "operator"]

TOKENS: Final = "TRIMTAB_ADMIN_TOKENS"  # the environment variable: lines as in a tokens file, or tokens in the clear
ACCEPTED: Final = "NAME viewer|operator sha256:HEX (trimtab token NAME prints such a line)"
_FILE: Final = "a file of tokens (trimtab token makes a line); relative paths start at the study file"
SHORTEST = 20  # characters of a token in the clear: fewer can be guessed
MAX_PEERS = 1024  # buckets kept at a time: callers of no token can be invented without end
_NAME: Final = re.compile(r"[A-Za-z0-9._@+-]{1,64}")
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_COMMENT: Final = re.compile(r"(?:^|\s)#")  # a token in the clear may hold one
_CLEAR: Final = re.compile(rf"[!-~]{{{SHORTEST},}}")  # what any client can send in a header as it stands
_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}")


class Admin(msgspec.Struct, frozen=True):
    """`[admin]` of the study file: where the daemon listens, and who may talk to it."""

    listen: str = "127.0.0.1:9464"
    tokens_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    hosts: tuple[str, ...] = ()


class Caller(msgspec.Struct, frozen=True):
    """Who asks. `name` enters the ledger."""

    name: str
    role: Role


class Token(msgspec.Struct, frozen=True):
    """What is known of a token: never the token itself."""

    caller: Caller
    digest: bytes  # SHA-256


class TokensRefused(Exception):
    """A tokens file, or the environment variable, that cannot be understood; names the line, never its secret."""


def check_admin(admin: Admin) -> Iterator[Mistake]:
    """What is wrong with `[admin]`."""
    if address(admin.listen) is None:
        yield Mistake("admin.listen", show(admin.listen), 'an address such as "127.0.0.1:9464" or "[::]:9464"')
    if (admin.cert_file is None) != (admin.key_file is None):
        lacks = "key_file" if admin.key_file is None else "cert_file"
        yield Mistake(f"admin.{lacks}", "nothing", "a file in PEM: TLS needs both cert_file and key_file")
    for index, host in enumerate(admin.hosts):
        yield from within(f"admin.hosts[{index}]", host, bool(_HOST.fullmatch(host)), "a name without scheme and port")


def address(text: str) -> tuple[str, int] | None:
    """Host and port of "127.0.0.1:9464" or "[::1]:9464"; None for anything else."""
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        host.encode("idna")
    except UnicodeError:  # two dots in a row, a part that is too long: no socket takes it
        return None
    return (host, int(port)) if host and port.isascii() and port.isdigit() and int(port) <= 65_535 else None


def new_token(name: str, role: Role) -> tuple[str, str]:
    """A fresh token, and the line that lets its bearer in. Raises `TokensRefused` for a name that cannot be one."""
    if not _NAME.fullmatch(name):
        raise TokensRefused(f"{name!r} is no name; accepted: 1 to 64 of the letters, digits and . _ @ + -")
    token = f"trimtab_{secrets.token_urlsafe(32)}"
    return token, f"{name} {role} sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def load_tokens(path: Path | None, environ: Mapping[str, str]) -> tuple[Token, ...]:
    """The tokens of a file (hashed ones only) and of the environment.

    Raises:
        TokensRefused: a line is no token, a name stands twice, or the file cannot be read.
    """
    found: list[Token] = []
    if path is not None:
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise TokensRefused(str(Mistake("admin.tokens_file", _unreadable(path, error), _FILE))) from error
        found += _tokens(lines, str(path), clear=False)
    found += _tokens(re.split(r"[\n;]", environ.get(TOKENS, "")), TOKENS, clear=True)
    names = [token.caller.name for token in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise TokensRefused(f"tokens: the name {twice!r} stands twice; the ledger needs one name a person")
    return tuple(found)


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no such file: {path}"
    return f"what cannot be read: {path} ({error if isinstance(error, UnicodeDecodeError) else error.strerror})"


def _tokens(lines: list[str], place: str, clear: bool) -> Iterator[Token]:
    for number, line in enumerate(lines, 1):
        text = _COMMENT.split(line)[0].strip()
        if text:
            yield _token(text, f"{place}, line {number}", clear)


def _token(line: str, place: str, clear: bool) -> Token:
    parts = line.split()
    accepted = ACCEPTED + (f", or the token itself, of {SHORTEST} ASCII characters or more" if clear else "")
    if len(parts) != 3 or not _NAME.fullmatch(parts[0]) or parts[1] not in ("viewer", "operator"):
        raise TokensRefused(f"{place}: is no token; accepted: {accepted}")
    name, role, secret = parts
    hashed = _DIGEST.fullmatch(secret)
    if not hashed and not (clear and _CLEAR.fullmatch(secret) and not secret.startswith("sha256:")):
        raise TokensRefused(f"{place}: {name}: what stands last cannot be used; accepted: {accepted}")
    digest = bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(secret.encode()).digest()
    return Token(Caller(name, "operator" if role == "operator" else "viewer"), digest)


def caller_of(tokens: tuple[Token, ...], authorization: str | None, loopback: bool) -> Caller | None:
    """Who presents this `Authorization` header; None when nobody who may come in.

    Every token is compared, in constant time each: how long it takes tells nothing.
    """
    if authorization is None:
        return Caller("loopback", "viewer") if loopback and not tokens else None
    scheme, _, presented = authorization.partition(" ")
    digest = hashlib.sha256(presented.strip().encode()).digest()
    found = [token.caller for token in tokens if hmac.compare_digest(token.digest, digest)]
    return found[0] if found and scheme.lower() == "bearer" else None


class Rate(msgspec.Struct, frozen=True):
    """So many at once, and then so many a second."""

    burst: float
    per_s: float


class Limiter:
    """A token bucket for every caller; the oldest are forgotten beyond `MAX_PEERS`. Used by one thread."""

    def __init__(self, rate: Rate, monotonic: Callable[[], float]) -> None:
        self._rate, self._monotonic = rate, monotonic
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name -> (left, when)

    def wait_s(self, name: str) -> float:
        """0.0 when the caller may go on, and is counted; else how long to wait."""
        now_s = self._monotonic()
        left, when_s = self._buckets.pop(name, (self._rate.burst, now_s))
        left = min(self._rate.burst, left + (now_s - when_s) * self._rate.per_s)
        wait_s = 0.0 if left >= 1.0 else (1.0 - left) / self._rate.per_s
        self._buckets[name] = (left if wait_s else left - 1.0, now_s)
        if len(self._buckets) > MAX_PEERS:
            self._buckets.popitem(last=False)
        return wait_s
