"""A study file for a world, on the real services."""

from collections.abc import Callable
from pathlib import Path

import pytest

from simulators.catalog import world_named
from simulators.study import Services, study_text


@pytest.fixture
def study_file(tmp_path: Path, kafka_bootstrap: str, redis_url: str) -> Callable[..., Path]:
    """Writes `NAME.toml` beside its journal and returns its path; services other than the shared ones by keyword."""

    def write(
        world: str, topic: str, *, bootstrap: str = kafka_bootstrap, redis: str = redis_url, more: str = ""
    ) -> Path:
        path = tmp_path / f"{world}.toml"
        services = Services(bootstrap=bootstrap, topic=topic, redis_url=redis)
        path.write_text(study_text(world_named(world), services) + more)
        return path

    return write
