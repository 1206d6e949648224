"""A broker and a Redis as a company runs them: TLS, logins, clients' certificates."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import admin

from tests.services.certificates import Authority
from tests.services.kafka_broker import KafkaBroker, MakeBroker
from tests.services.process import free_port
from tests.services.redis_server import MakeRedis, RedisServer

USER, PASSWORD = "trimtab", "s3cr3t words"
TOPICS = "secured"  # what the names of the topics begin with that they may use
_ADMIN: Any = admin  # its package's annotations leave out what its documentation names
_MODULES = "org.apache.kafka.common.security"


class SecuredRedis(NamedTuple):
    """Its plain port asks for a password too."""

    server: RedisServer
    url: str


def secured_broker(make: MakeBroker, authority: Authority) -> KafkaBroker:
    """Listeners: SSL asks for a client's certificate; SASL_SSL and SASL_PLAINTEXT for a login of `USER`.

    Both may read, describe and write the topics of `TOPICS`, and nothing else.
    """
    broker = make(properties=_properties(authority), listeners=("SSL", "SASL_SSL", "SASL_PLAINTEXT"))
    client = admin.AdminClient({"bootstrap.servers": broker.bootstrap})
    for mechanism in ("SCRAM_SHA_256", "SCRAM_SHA_512"):  # one request may name a user once
        how = _ADMIN.ScramCredentialInfo(_ADMIN.ScramMechanism[mechanism], 4096)
        login = _ADMIN.UserScramCredentialUpsertion(USER, how, PASSWORD.encode())
        for done in client.alter_user_scram_credentials([login]).values():
            done.result(30)
    _allow(client)
    return broker


def _allow(client: Any) -> None:
    """What a daemon with dead letters, and a simulated product, may do on topics whose name begins with `TOPICS`."""
    where = (_ADMIN.ResourceType.TOPIC, TOPICS, _ADMIN.ResourcePatternType.PREFIXED)
    allow = _ADMIN.AclPermissionType.ALLOW
    bindings = [
        _ADMIN.AclBinding(*where, f"User:{who}", "*", operation, allow)
        for who in (USER, "CN=client")
        for operation in (_ADMIN.AclOperation.READ, _ADMIN.AclOperation.DESCRIBE, _ADMIN.AclOperation.WRITE)
    ]
    for done in client.create_acls(bindings).values():
        done.result(30)


def secured_redis(make: MakeRedis, authority: Authority, *, ask_clients: bool) -> SecuredRedis:
    """TLS and a password; `ask_clients`: and a client's certificate."""
    files, port = authority.server(), free_port()
    server = make(
        arguments=(
            *("--requirepass", PASSWORD, "--tls-port", str(port), "--tls-auth-clients", "yes" if ask_clients else "no"),
            *("--tls-cert-file", str(files.certificate), "--tls-key-file", str(files.key)),
            *("--tls-ca-cert-file", str(authority.ca)),
        )
    )
    return SecuredRedis(server, f"rediss://127.0.0.1:{port}/0")


def _properties(authority: Authority) -> Mapping[str, str]:
    files: Mapping[str, Path] = {"keystore": authority.server().both, "truststore": authority.ca}
    settings = {f"ssl.{store}.type": "PEM" for store in files}
    settings |= {f"ssl.{store}.location": str(path) for store, path in files.items()}
    settings |= {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",  # who comes by the plain listener
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
    }
    plain = f'{_MODULES}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    scram = f"{_MODULES}.scram.ScramLoginModule required;"
    modules = {"plain": plain, "scram-sha-256": scram, "scram-sha-512": scram}
    for listener in ("sasl_ssl", "sasl_plaintext"):
        settings |= {f"listener.name.{listener}.{name}.sasl.jaas.config": how for name, how in modules.items()}
    return settings
