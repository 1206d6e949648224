"""A real Apache Kafka broker for tests: one KRaft node, one port and one data folder for its whole life."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient, OffsetSpec
from kafka.errors import KafkaError
from kafka.protocol.consumer.offsets import IsolationLevel

from tests.services.install import FORMATTED, JVM_OPTIONS, java
from tests.services.process import ServerProcess, free_port, listens
from tests.waiting import wait_until

_START_S = 90.0  # 3 s on an idle machine
_STOP_S = 60.0


def missing() -> str | None:
    """What keeps a broker from being started here, or None."""
    if java() is None:
        return "no java on the PATH or in JAVA_HOME"
    if not FORMATTED.is_dir():
        return "the broker's jars are not installed (python -m tests.services.install)"
    return None


class KafkaBroker:
    """A private broker. `stop`, `kill`, `restart` keep its port and its data, so clients find both again.

    Args:
        directory: where its data and log lie; made when it is not there.
        properties: broker settings beside those of the tests, such as `{"message.max.bytes": "2000000"}`.
        listeners: beside the plain one, such as `("SSL", "SASL_SSL")`; `address` tells where they are.
        heap_mb: of the Java machine.
    """

    def __init__(
        self,
        directory: Path,
        *,
        properties: Mapping[str, str] | None = None,
        listeners: Sequence[str] = (),
        heap_mb: int = 512,
    ) -> None:
        self.port = free_port()
        self._ports = {"PLAINTEXT": self.port, **{name: free_port() for name in listeners}}
        data = directory / "data"
        shutil.copytree(FORMATTED, data)
        settings = directory / "server.properties"
        settings.write_text(_settings(self._ports, free_port(), data, properties or {}))
        command = [java() or "java", f"-Xmx{heap_mb}m", *JVM_OPTIONS, "kafka.Kafka", str(settings)]
        self._process = ServerProcess(command, directory / "kafka.log", self._answers)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def address(self, listener: str) -> str:
        return f"127.0.0.1:{self._ports[listener]}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        self._process.start(_START_S)

    def stop(self) -> None:
        self._process.stop(_STOP_S)

    def kill(self) -> None:
        self._process.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Hang (SIGSTOP): connections stay open, nothing answers until `unpause`."""
        self._process.pause()

    def unpause(self) -> None:
        self._process.unpause()

    def create_topic(self, name: str, partitions: int = 4, config: Mapping[str, str] | None = None) -> str:
        """Make a topic and wait until each partition has a leader; returns its name."""
        return create_topic(self.bootstrap, name, partitions, config)

    def _answers(self) -> bool:
        if not listens(self.port):
            return False
        try:
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=5000)
        except KafkaError:
            return False
        try:
            return bool(admin.describe_cluster()["brokers"])
        except KafkaError:
            return False
        finally:
            admin.close()


class MakeBroker(Protocol):
    """The fixture `kafka_broker`."""

    def __call__(
        self, *, properties: Mapping[str, str] | None = None, listeners: Sequence[str] = ()
    ) -> KafkaBroker: ...


class MakeTopic(Protocol):
    """The fixture `kafka_topic`."""

    def __call__(self, partitions: int = 4, config: Mapping[str, str] | None = None) -> str: ...


def create_topic(bootstrap: str, name: str, partitions: int = 4, config: Mapping[str, str] | None = None) -> str:
    """Make a topic and wait until each partition's leader answers as such; returns its name.

    Raises:
        kafka.errors.KafkaError: the broker is away, the name is taken, a setting is unknown.
    """
    options = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(config or {})}
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_topics({name: options}, wait_for_metadata=True)
        admin.list_partition_offsets({TopicPartition(name, p): OffsetSpec.EARLIEST for p in range(partitions)})
    finally:
        admin.close()
    return name


def wait_for_transactions(bootstrap: str, topic: str, partition: int = 0) -> None:
    """Wait until none is open: a broker answers a commit before it has written the marker that ends it."""
    at = TopicPartition(topic, partition)
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)

    def end(level: IsolationLevel) -> int:
        return int(admin.list_partition_offsets({at: OffsetSpec.LATEST}, isolation_level=level)[at].offset)

    try:
        wait_until(
            lambda: end(IsolationLevel.READ_COMMITTED) == end(IsolationLevel.READ_UNCOMMITTED), "transactions end"
        )
    finally:
        admin.close()


def delete_topics(bootstrap: str, names: list[str]) -> None:
    """Take topics away; one that is gone already is not an error."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.delete_topics(names, raise_errors=False)
    finally:
        admin.close()


def _settings(ports: Mapping[str, int], controller_port: int, data: Path, more: Mapping[str, str]) -> str:
    """server.properties. Records of tests carry old timestamps, so nothing may expire by time."""
    listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": listeners,
        "listener.security.protocol.map": ",".join(f"{name}:{name}" for name in ports) + ",CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(data),
        "log.retention.ms": "-1",
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "2",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.num.partitions": "2",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "broker.session.timeout.ms": "3000",  # a killed broker may register again only after this
        "broker.heartbeat.interval.ms": "500",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
        "log.index.size.max.bytes": str(1 << 20),
        **more,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())
