"""`python -m tests.services`: a Redis and a Kafka broker to try things on, until Ctrl-C; nothing is kept."""

import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.services import kafka_broker, redis_server
from tests.services.kafka_broker import KafkaBroker
from tests.services.redis_server import RedisServer


def main() -> int:
    """Start both, print their addresses as shell lines, wait for SIGINT or SIGTERM, stop both; the exit status."""
    for missing in (redis_server.missing(), kafka_broker.missing()):
        if missing is not None:
            print(f"tests.services: {missing}; `make services` installs both (as root on Debian)", file=sys.stderr)
            return 1
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="trimtab-services-")))
        redis, broker = RedisServer(folder / "redis"), KafkaBroker(folder / "kafka")
        running.callback(redis.kill)
        running.callback(broker.kill)
        redis.start()
        broker.start()
        print(f"export TRIMTAB_TEST_REDIS={redis.url} TRIMTAB_TEST_KAFKA={broker.bootstrap}", flush=True)
        signal.sigwait(ends)
    return 0


if __name__ == "__main__":
    sys.exit(main())
