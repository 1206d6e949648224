"""Where the services are: `[kafka]` and `[redis]` of the study file. Passwords come from the environment."""

import re
from collections.abc import Iterator, Mapping
from typing import Final, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec

from controller.core.durations import written
from controller.shell.toml_records import Duration, Mistake, show, within

SECRETS: Final = {"kafka": "TRIMTAB_KAFKA_PASSWORD", "redis": "TRIMTAB_REDIS_PASSWORD"}
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_SERVER: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


class Tls(msgspec.Struct, frozen=True):
    """PEM files of a TLS connection: whom to trust, and what to show who asks for a client's certificate."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class Kafka(msgspec.Struct, frozen=True):
    """Where the events come from. The password of `username` comes from TRIMTAB_KAFKA_PASSWORD."""

    bootstrap: str
    topic: str
    client: Literal["kafka-python", "confluent"] = "kafka-python"
    dead_letter_topic: str | None = None
    idle_after: Duration = Duration(60_000)
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    @property
    def tls(self) -> Tls:
        """The files of its TLS."""
        return Tls(self.ca_file, self.cert_file, self.key_file)


def no_topic(kafka: Kafka, topic: str) -> str:
    """What is said of a topic that is not there, with the key that names it."""
    key = "kafka.dead_letter_topic" if topic == kafka.dead_letter_topic else "kafka.topic"
    return f"Kafka at {kafka.bootstrap} has no topic {topic!r}: make it, or mend {key}"


def no_offsets(kafka: Kafka, error: str) -> str:
    """What is said where a broker takes connections, and yet none tells offsets: a partition without a leader, say."""
    return f"Kafka at {kafka.bootstrap} is reached, but tells no offsets: {error}"


class Redis(msgspec.Struct, frozen=True):
    """Where the table goes. The password comes from TRIMTAB_REDIS_PASSWORD."""

    url: str
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    @property
    def tls(self) -> Tls:
        """The files of its TLS."""
        return Tls(self.ca_file, self.cert_file, self.key_file)


def password(environ: Mapping[str, str], service: Literal["kafka", "redis"]) -> str | None:
    """The password of a service, from its environment variable; an empty one counts as none."""
    return environ.get(SECRETS[service]) or None


def check_kafka(kafka: Kafka) -> Iterator[Mistake]:
    """What is wrong with `[kafka]`."""
    for server in kafka.bootstrap.split(","):
        port = _SERVER.fullmatch(server.strip())
        if not port or not 0 < int(port[1]) <= 65_535:
            yield Mistake("kafka.bootstrap", show(kafka.bootstrap), "host:port, or several with commas between them")
            break
    yield from _topic("kafka.topic", kafka.topic)
    if kafka.dead_letter_topic is not None:
        yield from _topic("kafka.dead_letter_topic", kafka.dead_letter_topic)
        if kafka.dead_letter_topic == kafka.topic:
            yield Mistake(
                "kafka.dead_letter_topic",
                show(kafka.topic),
                "another topic than kafka.topic, which would feed on itself",
            )
    if kafka.idle_after < 1_000:
        yield Mistake("kafka.idle_after", written(kafka.idle_after), 'at least "1s"')
    yield from _sasl(kafka)
    yield from _tls("kafka", kafka.tls, kafka.security.endswith("ssl"), 'kafka.security "ssl" or "sasl_ssl"')


def _tls(section: str, tls: Tls, secured: bool, wanted: str) -> Iterator[Mistake]:
    for key, path in msgspec.structs.asdict(tls).items():
        if path is not None and not secured:
            yield Mistake(f"{section}.{key}", show(path), f"no such file without TLS, which {wanted} brings")
    if (tls.cert_file is None) != (tls.key_file is None):
        missing = "cert_file" if tls.cert_file is None else "key_file"
        yield Mistake(f"{section}.{missing}", "nothing", "a file: a certificate goes with its key")


def _sasl(kafka: Kafka) -> Iterator[Mistake]:
    if kafka.security.startswith("sasl"):
        for key, value in (("sasl_mechanism", kafka.sasl_mechanism), ("username", kafka.username)):
            if value is None:
                yield Mistake(f"kafka.{key}", "nothing", f'a value, because kafka.security is "{kafka.security}"')
    elif kafka.username is not None or kafka.sasl_mechanism is not None:
        yield Mistake(
            "kafka.security", show(kafka.security), '"sasl_ssl" or "sasl_plaintext", because a login is given'
        )


def _topic(path: str, topic: str) -> Iterator[Mistake]:
    accepted = "a Kafka topic: 1 to 249 of the characters a-z, A-Z, 0-9, ., _ and -"
    yield from within(path, topic, bool(_TOPIC.fullmatch(topic)) and topic not in (".", ".."), accepted)


def check_redis(redis: Redis) -> Iterator[Mistake]:
    """What is wrong with `[redis]`; a password in the URL is refused and never repeated."""
    accepted = "redis://HOST:PORT/DB, rediss://HOST:PORT/DB (TLS) or unix:///PATH?db=DB"
    parts = _split(redis.url)
    if parts is None:  # it may hold a password all the same
        yield Mistake("redis.url", "no URL" if "@" in redis.url else show(redis.url), accepted)
    elif parts.password is not None or "password=" in parts.query:
        yield Mistake(
            "redis.url",
            "a password",
            f"no secret in the file: set the environment variable {SECRETS['redis']}",
        )
    elif not _addresses_redis(parts):
        yield Mistake("redis.url", show(redis.url), accepted)
    else:
        yield from _tls("redis", redis.tls, parts.scheme == "rediss", "a redis.url of rediss://")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        return parts if parts.port != 0 else None
    except ValueError:
        return None


def _addresses_redis(parts: SplitResult) -> bool:
    """Whether a client can be made of it: options of a query would go to the client unseen."""
    if parts.scheme == "unix":
        name, _, database = parts.query.partition("=")
        return bool(parts.path) and not parts.netloc and (not parts.query or (name == "db" and database.isdecimal()))
    database = parts.path.removeprefix("/")
    try:
        host = (parts.hostname or "").encode("idna")
    except UnicodeError:  # two dots in a row, a part that is too long
        return False
    known = parts.scheme in ("redis", "rediss") and not parts.query
    return known and bool(host) and (not database or database.isdecimal())
