"""Publication: the table goes to Redis under a rising version, so that a stale daemon can never undo a newer one.

Beside the table (`assignment.key`), which clients GET, each version is kept for a while under `KEY:{version}`, and
its number is announced on the channel `KEY`: a hint to read the key now. A client that misses the hint polls.
"""

import hashlib
from typing import Any, Protocol

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from controller import assignment
from controller.assignment import MAX_VERSION, Assignment
from controller.shell.connections import Tls
from controller.shell.tls import context

TIMEOUT_S = 2.0  # of connecting and of each reply; the daemon tries again with its own backoff
HEALTH_CHECK_S = 30  # a connection unused for longer is tried out first: firewalls drop idle ones in silence

# KEYS: the table, its copy in the history. ARGV: the table's bytes, its version, how long the copy lives in ms.
# Without ARGV it only reads. Answers {1, the version, 0} when it took the table, else {0, version, epoch} of what
# is stored, version -1 when nothing is. What is stored but is no table with a version (another type, no JSON, a
# broken number) counts as nothing. It is one script, so nobody can write between its reading and its writing.
SCRIPT = """
local function number(value)
  if type(value) == 'number' and value >= 0 and value <= 9007199254740992 and value == math.floor(value) then
    return value
  end
end
local function held(text)
  local ok, table = pcall(cjson.decode, text)
  if not ok or type(table) ~= 'table' then return -1, 0 end
  local version = number(table.version)
  if not version then return -1, 0 end
  return version, number(table.epoch) or 0
end
local function answer(accepted, version, epoch)
  return {accepted, string.format('%.0f', version), string.format('%.0f', epoch)}
end
local stored, version, epoch = false, -1, 0
if redis.call('TYPE', KEYS[1]).ok == 'string' then
  stored = redis.call('GET', KEYS[1])
  version, epoch = held(stored)
end
if #ARGV == 0 then return answer(0, version, epoch) end
local offered = tonumber(ARGV[2])
if offered <= version and stored ~= ARGV[1] then return answer(0, version, epoch) end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', KEYS[1], ARGV[2])
return answer(1, offered, 0)
"""
_DIGEST = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()  # what EVALSHA names a script by
# A permission that is missing inside a script comes as a plain error: Redis 7.2 and later, 7.0, 6.
_ACL_IN_SCRIPT = ("ACL failure in script", "user executing the script", "NOPERM")

_HINTS = {  # what OpenSSL or Redis says, and where to look
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted: see redis.ca_file and the host in redis.url",
    "ALERT": "it does not accept this client's certificate: see redis.cert_file and redis.key_file",
    "EOF occurred": "it ended TLS: does it ask for a client's certificate? see redis.cert_file and redis.key_file",
    "hash to the same slot": "a Redis Cluster keeps a table and its copies apart: name a Redis that is no part of one",
}


class PublisherUnavailable(Exception):
    """Redis did not take the table now: not reached, loading, read-only, out of memory. Worth another try."""


class PublisherRefused(PublisherUnavailable):
    """Redis does not let this client in or may not run what it asks: the operator's to mend, then worth a try."""


class Stored(msgspec.Struct, frozen=True):
    """What Redis holds after a publication; not `accepted`: another daemon's table, which stays."""

    accepted: bool
    version: int
    epoch: int


class Publisher(Protocol):
    """Where tables go. Both methods raise `PublisherUnavailable`."""

    def publish(self, table: bytes, version: int) -> Stored:
        """Put a table there unless one of the same or a higher version is; the identical bytes are a retry."""

    def stored(self) -> tuple[int, int] | None:
        """Version and epoch of the table that is there; None when none is."""


class RedisPublisher:
    """Publishes one study's tables; copies of past versions stay for `history_s`."""

    def __init__(self, client: redis.Redis, study: str, history_s: int = 30 * 86_400) -> None:
        self._client = client
        self._key = assignment.key(study)
        self._history_ms = history_s * 1000

    def publish(self, table: bytes, version: int) -> Stored:
        """See `Publisher`. Raises `ValueError` for a version outside of 0 to 2**53."""
        _check_version(version)
        accepted, held, epoch = self._run(f"{self._key}:{version}", table, version, self._history_ms)
        return _accepted(table, version) if accepted else Stored(False, held, _epoch(held, epoch))

    def stored(self) -> tuple[int, int] | None:
        """See `Publisher`."""
        _, version, epoch = self._run(f"{self._key}:0")  # two keys, as it publishes: a cluster refuses those at once
        return None if version < 0 else (version, _epoch(version, epoch))

    def table(self) -> Assignment | None:
        """The table that is there; None when none is, or what this version does not read. Raises as `stored` does."""
        try:
            data: Any = self._client.get(self._key)
            return None if data is None else assignment.decode(data)
        except (redis.ResponseError, msgspec.ValidationError, msgspec.DecodeError):  # another type, or no table
            return None
        except redis.RedisError as error:
            raise _named(error, self._client) from error

    def _run(self, history_key: str, *arguments: bytes | int) -> tuple[int, int, int]:
        operands: Any = (2, self._key, history_key, *arguments)
        try:
            try:
                reply: Any = self._client.evalsha(_DIGEST, *operands)
            except redis.exceptions.NoScriptError:  # Redis was restarted, or its scripts were flushed
                reply = self._client.eval(SCRIPT, *operands)
        except redis.RedisError as error:
            # The next try asks for the address anew: after a failover behind one name, the old primary keeps its
            # connections, as a replica that takes nothing.
            self._client.connection_pool.disconnect()
            raise _named(error, self._client) from error
        accepted, version, epoch = (int(part) for part in reply)
        return accepted, version, epoch


class MemoryPublisher:
    """A publisher without Redis, for simulations and tests. Set `fault` to a reason to make it unavailable."""

    def __init__(self) -> None:
        self.table: bytes | None = None
        self.history: dict[int, bytes] = {}
        self.announced: list[int] = []
        self.fault: str | None = None

    def publish(self, table: bytes, version: int) -> Stored:
        """See `Publisher`. Raises `ValueError` for a version outside of 0 to 2**53."""
        _check_version(version)
        held = self.stored()
        if held is not None and version <= held[0] and table != self.table:
            return Stored(False, *held)
        self.table = self.history[version] = table
        self.announced.append(version)
        return _accepted(table, version)

    def stored(self) -> tuple[int, int] | None:
        """See `Publisher`."""
        if self.fault is not None:
            raise PublisherUnavailable(self.fault)
        return None if self.table is None else _held(self.table)


def connect(url: str, password: str | None, tls: Tls = Tls()) -> redis.Redis:  # noqa: B008  # it is frozen
    """A client that answers or fails within `TIMEOUT_S` and leaves trying again to its caller; connects at first use.

    Raises `ValueError`, never repeating the URL (it may hold a secret), when it is none of redis://, rediss://,
    unix://, and `CannotConnect` where a file of `tls` cannot be used.
    """
    secured: dict[str, Any] = {}
    if url.startswith("rediss:"):
        context("redis", tls)
        secured = {"ssl_ca_certs": tls.ca_file, "ssl_certfile": tls.cert_file, "ssl_keyfile": tls.key_file}
    try:
        return redis.Redis.from_url(
            url,
            password=password,
            socket_connect_timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            **({} if url.startswith("unix:") else {"socket_keepalive": True}),
            health_check_interval=HEALTH_CHECK_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # every server and proxy knows it; RESP3 has nothing that is used here
            **secured,
        )
    except ValueError:
        raise ValueError("redis.url: expected redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH") from None


def _check_version(version: int) -> None:
    if not 0 <= version <= MAX_VERSION:
        raise ValueError(f"expected a version from 0 to {MAX_VERSION}, found {version}")


def _accepted(table: bytes, version: int) -> Stored:
    held = _held(table)
    return Stored(True, version, _epoch(version, 0 if held is None else held[1]))


def _epoch(version: int, epoch: int) -> int:
    """The epoch to be above of; a version alone tells one as well, whatever stands beside it."""
    return max(epoch, version // assignment.VERSIONS_PER_EPOCH)


def _held(table: bytes) -> tuple[int, int] | None:
    try:
        fields = msgspec.json.decode(table, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    version = _number(fields.get("version"))
    return None if version is None else (version, _epoch(version, _number(fields.get("epoch")) or 0))


def _number(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MAX_VERSION and value == int(value) else None


def _named(error: redis.RedisError, client: redis.Redis) -> PublisherUnavailable:
    reason = f"{type(error).__name__}: {error}"
    password = client.connection_pool.connection_kwargs.get("password")
    if password:  # a server that does not know AUTH repeats its arguments
        reason = reason.replace(str(password), "***")
    no_entry = isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError)
    if no_entry or any(sign in reason for sign in _ACL_IN_SCRIPT):
        return PublisherRefused(f"redis refuses this client; see redis.url, TRIMTAB_REDIS_PASSWORD, ACL: {reason}")
    hint = next((f" ({words})" for sign, words in _HINTS.items() if sign in reason), "")
    return PublisherUnavailable(f"redis: Redis at {_place(client)} (redis.url): {reason}{hint}")


def _place(client: redis.Redis) -> str:
    """As a person finds it in redis.url, without what is secret there."""
    where = client.connection_pool.connection_kwargs
    host = where.get("host", "localhost")
    return where.get("path") or f"{f'[{host}]' if ':' in host else host}:{where.get('port', 6379)}"
