"""A real broker and a real Redis with TLS, logins and clients' certificates, for every client that a study has."""

import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from controller.serving import Client
from controller.shell.connections import Kafka, Tls
from controller.shell.publisher import PublisherRefused, PublisherUnavailable, RedisPublisher, connect
from controller.shell.sources import SourceUnavailable
from controller.shell.sources_confluent import ConfluentSource
from controller.shell.sources_kafka import KafkaSource
from simulators.catalog import world_named
from simulators.sinks import KafkaSink, SinkFailed
from simulators.study import Services, study_text
from tests.integration.processes import PATIENT, RUN_S, DaemonProcess, Process, trimtab
from tests.integration.topic import read_topic
from tests.services.certificates import Authority
from tests.services.kafka_broker import KafkaBroker, MakeBroker
from tests.services.redis_server import MakeRedis
from tests.services.secured import PASSWORD, TOPICS, USER, SecuredRedis, secured_broker, secured_redis
from tests.waiting import wait_until

Settings = dict[str, Any]
SecuredStudy = Callable[[str, str], Path]  # topic, client
LOGIN = {"username": USER, "sasl_mechanism": "SCRAM-SHA-512"}
SOURCES = pytest.mark.parametrize("source", [KafkaSource, ConfluentSource])
WINDOWS = 4

# kafka-python leaves a socket whose TLS failed to the garbage collector, which tells on it in whatever test it runs.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def broker(kafka_broker: MakeBroker, authority: Authority) -> KafkaBroker:
    made = secured_broker(kafka_broker, authority)
    made.create_topic(TOPICS, partitions=2)
    return made


@pytest.fixture(scope="module")
def store(redis_server: MakeRedis, authority: Authority) -> SecuredRedis:
    return secured_redis(redis_server, authority, ask_clients=True)


def shown(authority: Authority) -> Settings:
    files = authority.client()
    return {"cert_file": str(files.certificate), "key_file": str(files.key)}


def settings_of(listener: str, authority: Authority, **more: Any) -> Settings:
    ca = {"ca_file": str(authority.ca)} if listener.endswith("SSL") else {}
    return {"security": listener.lower(), **ca, **more}


def start(source: Any, address: str, settings: Settings, password: str | None, answer_s: float = 10.0) -> Any:
    made = source(
        Kafka(address, TOPICS, **settings), password=password, window_ms=1000, idle_after_s=None, answer_s=answer_s
    )
    try:
        return made.start(None, "earliest")
    finally:
        made.close()


@SOURCES
@pytest.mark.parametrize(
    ("listener", "mechanism"),
    [("SASL_SSL", "PLAIN"), ("SASL_SSL", "SCRAM-SHA-256"), ("SASL_SSL", "SCRAM-SHA-512"), ("SASL_PLAINTEXT", "PLAIN")],
)
def test_a_login_is_let_in(
    broker: KafkaBroker, authority: Authority, source: Any, listener: str, mechanism: str
) -> None:
    settings = settings_of(listener, authority, username=USER, sasl_mechanism=mechanism)
    assert start(source, broker.address(listener), settings, PASSWORD).keys() == {0, 1}


@SOURCES
def test_a_client_s_certificate_is_let_in(broker: KafkaBroker, authority: Authority, source: Any) -> None:
    settings = settings_of("SSL", authority, **shown(authority))
    assert start(source, broker.address("SSL"), settings, None).keys() == {0, 1}


@SOURCES
@pytest.mark.parametrize(
    ("listener", "change", "words"),
    [
        (
            "SASL_SSL",
            {"password": "bad words"},
            "refuses the login of 'trimtab' by SCRAM-SHA-512.*TRIMTAB_KAFKA_PASSWORD",
        ),
        ("SASL_SSL", {"username": "nobody"}, "refuses the login of 'nobody'"),
        ("SASL_SSL", {"ca_file": None}, r"its certificate is not trusted .*see kafka\.ca_file"),
        ("SASL_SSL", {"security": "sasl_plaintext", "ca_file": None}, "it speaks TLS there"),
        ("SASL_PLAINTEXT", {"security": "sasl_ssl"}, "it does not speak TLS there"),
        ("PLAINTEXT", {"security": "sasl_plaintext"}, "takes no login there"),
        ("SSL", {"sasl_mechanism": None, "username": None}, r"asks for a client's certificate .*kafka\.cert_file"),
    ],
)
def test_what_is_wrong_is_named(
    broker: KafkaBroker, authority: Authority, source: Any, listener: str, change: Settings, words: str
) -> None:
    settings = {**settings_of(listener, authority, **LOGIN), **change}
    password = settings.pop("password", PASSWORD)
    with pytest.raises(SourceUnavailable, match=words) as raised:
        start(source, broker.address(listener), settings, password, answer_s=0.5)
    assert password not in str(raised.value)


def test_a_certificate_of_another_authority_is_named(
    broker: KafkaBroker, authority: Authority, stranger: Authority
) -> None:
    wrong_ca = settings_of("SASL_SSL", stranger, **LOGIN)
    with pytest.raises(SourceUnavailable, match=r"not trusted \(unable to get local issuer certificate\)"):
        start(KafkaSource, broker.address("SASL_SSL"), wrong_ca, PASSWORD, 0.5)
    foreign = settings_of("SSL", authority, **shown(stranger))
    with pytest.raises(SourceUnavailable, match="does not accept this client's certificate"):
        start(KafkaSource, broker.address("SSL"), foreign, None, 0.5)
    with pytest.raises(SinkFailed, match="not trusted"):
        KafkaSink(Kafka(broker.address("SASL_SSL"), TOPICS, **wrong_ca), 2, PASSWORD, answer_s=0.5)


def test_redis_lets_in_by_certificate_and_password_and_names_what_is_wrong(
    store: SecuredRedis, authority: Authority, stranger: Authority
) -> None:
    good = Tls(str(authority.ca), **shown(authority))

    def stored(url: str, password: str, tls: Tls) -> object:
        with connect(url, password, tls) as client:
            return RedisPublisher(client, "feed").stored()

    assert stored(store.url, PASSWORD, good) is None
    with pytest.raises(PublisherRefused, match="TRIMTAB_REDIS_PASSWORD") as raised:
        stored(store.url, "wrong words", good)
    assert "wrong words" not in str(raised.value)
    for tls, words in (
        (Tls(str(stranger.ca), **shown(authority)), r"see redis\.ca_file"),
        (Tls(str(authority.ca)), r"see redis\.cert_file"),
        (Tls(str(authority.ca), **shown(stranger)), r"see redis\.cert_file"),
    ):
        with pytest.raises(PublisherUnavailable, match=words):
            stored(store.url, PASSWORD, tls)


def test_the_serving_client_takes_a_secured_connection(store: SecuredRedis, authority: Authority) -> None:
    files = authority.client("web")
    connection = redis.Redis.from_url(
        store.url, password=PASSWORD, ssl_ca_certs=str(authority.ca),
        ssl_certfile=str(files.certificate), ssl_keyfile=str(files.key), socket_timeout=2, socket_connect_timeout=2,
    )  # fmt: skip
    connection.set("trimtab:absent:assignment", "no table")
    with Client("absent", connection, {"p_click": 1.0}, poll_s=0.05) as client:
        wait_until(lambda: client.status().refused >= 1, "it reads what stands there, which is no table")
        assert client.status().connected


@pytest.fixture
def secured_study(tmp_path: Path, broker: KafkaBroker, store: SecuredRedis, authority: Authority) -> SecuredStudy:
    """Writes a study file with all security keys."""

    def write(topic: str, client: str) -> Path:
        services = Services(bootstrap=broker.address("SASL_SSL"), topic=topic, redis_url=store.url)
        text = study_text(world_named("quick"), services)
        kafka = settings_of("SASL_SSL", authority, **LOGIN, client=client, dead_letter_topic=f"{topic}-rejected")
        for table, keys in (("[kafka]", kafka), ("[redis]", {"ca_file": str(authority.ca), **shown(authority)})):
            lines = "".join(f'{key} = "{value}"\n' for key, value in keys.items())
            text = text.replace(f"{table}\n", f"{table}\n{lines}")
        path = tmp_path / "quick.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_daemon_and_simulated_product_run_on_secured_services(
    tmp_path: Path, broker: KafkaBroker, store: SecuredRedis, secured_study: SecuredStudy, client: str
) -> None:
    topic = broker.create_topic(f"{TOPICS}-{client}", partitions=1)
    letters = broker.create_topic(f"{topic}-rejected", partitions=1)
    redis.Redis.from_url(store.server.url, password=PASSWORD).flushall()
    study = secured_study(topic, client)
    secrets = {"TRIMTAB_KAFKA_PASSWORD": PASSWORD, "TRIMTAB_REDIS_PASSWORD": PASSWORD}
    sink = KafkaSink(Kafka(broker.bootstrap, topic), 1)
    sink.send(0, [b"no JSON"])
    sink.flush()
    sink.close()
    daemon = DaemonProcess(study, tmp_path / "daemon.log", "--clock", "events", "--from", "earliest", env=secrets)
    world = Process(
        tmp_path / "world.log",
        "simulate",
        "quick",
        "--study",
        str(study),
        "--hours",
        str(WINDOWS),
        *PATIENT,
        env=secrets,
    )
    try:
        assert world.wait(RUN_S) == 0, world.text[-3000:] + daemon.text[-3000:]
        assert daemon.stop() == 0, daemon.text[-3000:]
    finally:
        daemon.kill()
        world.kill()
    assert daemon.text.count(" window ") == WINDOWS
    assert [value for _, value in read_topic(broker.bootstrap, letters)[0]] == [b"no JSON"]
    assert PASSWORD not in daemon.text + world.text


def test_check_names_both_services_faults(secured_study: SecuredStudy) -> None:
    study = secured_study(TOPICS, "kafka-python")
    secrets = {"TRIMTAB_KAFKA_PASSWORD": "wrong", "TRIMTAB_REDIS_PASSWORD": "wrong"}
    done = trimtab("check", str(study), env=secrets)
    assert done.returncode == 1
    assert "redis: redis refuses this client; see redis.url, TRIMTAB_REDIS_PASSWORD" in done.stdout
    assert "it refuses the login of 'trimtab' by SCRAM-SHA-512" in done.stdout
    nothing = trimtab("check", str(study), env={"TRIMTAB_REDIS_PASSWORD": PASSWORD})
    assert "kafka: kafka.username is 'trimtab', and the environment variable TRIMTAB_KAFKA_PASSWORD" in nothing.stdout
    started = trimtab("run", str(study), "--listen", "127.0.0.1:0", env={"TRIMTAB_REDIS_PASSWORD": PASSWORD})
    assert started.returncode == 1
    assert started.stderr.splitlines()[-1].startswith("trimtab run: kafka.username is 'trimtab'")
