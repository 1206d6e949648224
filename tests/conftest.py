"""Fixtures for the real services. A test says what it needs by naming a fixture.

`redis_url`        an empty database of a shared Redis, for each test anew
`redis_server`     makes private Redis servers, which a test may stop, kill, pause and restart
`kafka_bootstrap`  the address of a shared broker
`kafka_topic`      makes new topics on the shared broker
`kafka_broker`     makes private brokers, which a test may stop, kill, pause and restart
`prometheus`       makes Prometheus servers of a configuration
`browser`          a Chromium for the module

The shared services are those of TRIMTAB_TEST_REDIS and TRIMTAB_TEST_KAFKA when set; otherwise this session (of
`--numprocesses` each) starts them when a test first asks, on free ports, with data in its temporary folder, and stops
them when it ends. What cannot be had makes its tests skip, which a loud line at the end says;
TRIMTAB_REQUIRE_SERVICES=1 makes them fail instead. Tests are marked `redis` and `kafka` by the fixtures they use.
"""

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from uuid import uuid4

import pytest
from hypothesis import settings
from playwright.sync_api import Browser
from redis import Redis

from tests.services import chromium
from tests.services import kafka_broker as kafka_service
from tests.services import prometheus_server as prometheus_service
from tests.services import redis_server as redis_service
from tests.services.kafka_broker import KafkaBroker, MakeBroker, MakeTopic
from tests.services.needed import NOT_AVAILABLE, need
from tests.services.prometheus_server import MakePrometheus, PrometheusServer
from tests.services.redis_server import MakeRedis, RedisServer

# The same examples in every run, and no verdict on how fast a shared machine was.
settings.register_profile("trimtab", derandomize=True, deadline=None)
settings.load_profile("trimtab")

_FIXTURES = {
    "redis": {"redis_url", "redis_server"},
    "kafka": {"kafka_bootstrap", "kafka_topic", "kafka_broker"},
    "prometheus": {"prometheus"},
    "chromium": {"browser"},
}
_REMEDY = (
    "Install them (python -m tests.services.install) or name running ones: "
    "TRIMTAB_TEST_KAFKA=host:port TRIMTAB_TEST_REDIS=redis://host:port/db"
)


@pytest.fixture(scope="session")
def _redis_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = os.environ.get("TRIMTAB_TEST_REDIS")
    if given:
        _refuse_data(given)
        yield given
        _empty(given)
        return
    need(redis_service.missing())
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def redis_url(_redis_shared: str) -> str:
    """URL of an empty Redis database; the server is shared, so a test must not stop it.

    def test_publishes(redis_url: str) -> None:
        client = redis.Redis.from_url(redis_url)
    """
    _empty(_redis_shared)
    return _redis_shared


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeRedis]:
    """Makes running, private Redis servers (20 ms each); all are gone at the end of the module.

    def test_survives_a_restart(redis_server: MakeRedis) -> None:
        server = redis_server(keep_data=True)  # without keep_data a restart begins empty
        ... server.url ...
        server.restart()  # or stop, kill, start; pause, unpause: the port stays
    """
    with ExitStack() as running:

        def make(*, keep_data: bool = False, arguments: Sequence[str] = ()) -> RedisServer:
            need(redis_service.missing())
            folder = tmp_path_factory.mktemp("redis")
            server = RedisServer(folder, keep_data=keep_data, arguments=arguments)
            running.callback(server.kill)
            server.start()
            return server

        yield make


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of a Kafka broker shared by the session, so a test must not stop it; see `kafka_topic`."""
    given = os.environ.get("TRIMTAB_TEST_KAFKA")
    if given:
        yield given
        return
    need(kafka_service.missing())
    patient = {"broker.session.timeout.ms": "60000"}  # it is never killed; one held up for seconds keeps its partitions
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka") / "broker", properties=patient)
    broker.start()
    yield broker.bootstrap
    broker.stop()


@pytest.fixture
def kafka_topic(kafka_bootstrap: str) -> Iterator[MakeTopic]:
    """Makes new topics on the shared broker; each has a leader on every partition when it is returned.

    def test_reads(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
        topic = kafka_topic(partitions=3)
    """
    made: list[str] = []

    def make(partitions: int = 4, config: Mapping[str, str] | None = None) -> str:
        name = f"test-{uuid4().hex[:12]}"
        made.append(kafka_service.create_topic(kafka_bootstrap, name, partitions, config))
        return name

    yield make
    if made:
        kafka_service.delete_topics(kafka_bootstrap, made)


@pytest.fixture(scope="module")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeBroker]:
    """Makes running, private brokers (3 s each); all are gone at the end of the module.

    def test_waits_for_the_broker(kafka_broker: MakeBroker) -> None:
        broker = kafka_broker()
        topic = broker.create_topic("events", partitions=4)
        ... broker.bootstrap ...
        broker.restart()  # or stop, kill, start; pause, unpause: port and data stay
    """
    with ExitStack() as running:

        def make(*, properties: Mapping[str, str] | None = None, listeners: Sequence[str] = ()) -> KafkaBroker:
            need(kafka_service.missing())
            broker = KafkaBroker(
                tmp_path_factory.mktemp("kafka") / "broker", properties=properties, listeners=listeners
            )
            running.callback(broker.kill)
            broker.start()
            return broker

        yield make


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakePrometheus]:
    """Makes running Prometheus servers; all are gone at the end of the module.

    def test_scrapes(prometheus: MakePrometheus) -> None:
        server = prometheus({"scrape_configs": [...]})
        server.query("up")
    """
    with ExitStack() as running:

        def make(configuration: Mapping[str, object]) -> PrometheusServer:
            need(prometheus_service.missing())
            server = PrometheusServer(tmp_path_factory.mktemp("prometheus"), configuration)
            running.callback(server.kill)
            server.start()
            return server

        yield make


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium; a test opens contexts of its own in it, and closes them."""
    need(chromium.missing())
    with chromium.launched() as running:
        yield running


def _empty(url: str) -> None:
    with Redis.from_url(url) as client:
        client.flushdb()


def _refuse_data(url: str) -> None:
    """Every test empties the database, so one that holds data is somebody's."""
    with Redis.from_url(url) as client:
        if client.dbsize():
            pytest.exit(f"TRIMTAB_TEST_REDIS={url} holds keys, and tests empty it; name an empty database", 2)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what cannot work before anything runs."""
    if os.environ.get("TRIMTAB_TEST_REDIS") and config.getoption("numprocesses", None):
        raise pytest.UsageError("TRIMTAB_TEST_REDIS names one database, which each test empties: use --numprocesses 0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the services that their fixtures need, so that `-m "not kafka"` is always true."""
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        for mark, fixtures in _FIXTURES.items():
            if used & fixtures:
                item.add_marker(mark)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """Say loudly what was not tested, after everything but the closing line."""
    yield
    told = [_reason(report) for report in terminalreporter.getreports("skipped")]
    missing = [reason.partition(NOT_AVAILABLE)[2] for reason in told if NOT_AVAILABLE in reason]
    if not missing:
        return
    terminalreporter.write_sep("!", red=True, bold=True)
    terminalreporter.write_line(
        f"{len(missing)} TESTS AGAINST REAL SERVICES DID NOT RUN: {'; '.join(sorted(set(missing)))}",
        red=True,
        bold=True,
    )
    terminalreporter.write_line(_REMEDY, red=True)
    terminalreporter.write_sep("!", red=True, bold=True)


def _reason(report: pytest.TestReport) -> str:
    """Of a skipped test; pytest keeps (file, line, reason)."""
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
