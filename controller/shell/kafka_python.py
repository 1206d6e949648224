"""What every kafka-python client of a study shares: address, login, and a connection that leaves nothing behind."""

from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any, Final

from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from controller.shell.connections import Kafka
from controller.shell.tls import Renewed, context, require_password

# Kafka's own backoff grows to 30 s: so long after a broker's return a client would still be away.
RECONNECT: Final = {"reconnect_backoff_ms": 50, "reconnect_backoff_max_ms": 2_000, "retry_backoff_ms": 100}


def client_options(kafka: Kafka, password: str | None) -> dict[str, Any]:
    """Address, login and TLS as kafka-python's consumers and producers take them; raises `CannotConnect`."""
    require_password("kafka", kafka.username, password)
    options: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in kafka.bootstrap.split(",")],
        "client_id": "trimtab",
        "security_protocol": kafka.security.upper(),
    }
    if kafka.security.endswith("ssl"):
        options["ssl_context"] = Renewed(lambda: context("kafka", kafka.tls))
    if kafka.sasl_mechanism is not None:
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.username
        options["sasl_plain_password"] = password
    return options


def connect(make: Callable[..., Any], options: dict[str, Any], answer_s: float) -> Any:
    """A consumer or producer that has reached a broker; raises KafkaError when none answers in time.

    The client tries servers at random, and one that hangs, or whose host is gone, would have all of the time. So it has
    half of it, and then each server alone its share of the rest.
    """
    servers = options["bootstrap_servers"]
    if len(servers) == 1:
        return _connected(make, options, answer_s)
    try:
        return _connected(make, options, answer_s / 2)
    except KafkaError as error:
        last = error
    for server in servers:
        try:
            return _connected(make, options | {"bootstrap_servers": [server]}, answer_s / 2 / len(servers))
        except KafkaError as error:
            last = error
    raise last


def _connected(make: Callable[..., Any], options: dict[str, Any], answer_s: float) -> Any:
    """Constructors connect, and on failure would leave their network thread running."""
    made: list[Any] = []

    def client(**settings: Any) -> Any:
        made.append(KafkaNetClient(**settings))
        return made[-1]

    try:
        return make(**options, kafka_client=client, bootstrap_timeout_ms=int(answer_s * 1000))
    except KafkaError:
        for connection in made:
            connection.close()
        raise


def topic_id(consumer: Any, topic: str) -> str:
    """By the consumer's newest metadata, as Kafka's own tools write it; "" of a broker before 2.8, or of no topic."""
    cluster = getattr(consumer, "_cluster", None)  # the client has no public way to it
    found = None if cluster is None else cluster.topic_id(topic)
    return "" if found is None or not found.int else urlsafe_b64encode(found.bytes).decode().rstrip("=")


def unread(consumer: Any, error: KafkaError) -> str:
    """Why a fetch failed: at which record, where it came to one, and how to go on, where another client can."""
    records = getattr(getattr(consumer, "_fetcher", None), "_next_partition_records", None)
    place = (
        ""
        if records is None
        else f", partition {records.topic_partition.partition}, offset {records.next_fetch_offset}"
    )
    # Of a record the names of headers alone are decoded, each batch from its beginning: there is no way past one.
    if "UnicodeDecodeError" in str(error):
        return (
            f"{place}: found a record with a header whose name is not UTF-8, which kafka-python cannot read; set "
            'kafka.client = "confluent", which can, and mend the producer'
        )
    return f"{place}: {said(error)}"


def said(error: KafkaError) -> str:
    """An error with its name in front, which the text of most begins with already."""
    text, name = str(error), type(error).__name__
    return text if text.startswith(name) else f"{name}: {text}"
