from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """As the daemon runs: small matrices lose more to many threads than they gain, and bits depend on their number."""
    with threadpool_limits(1):
        yield
