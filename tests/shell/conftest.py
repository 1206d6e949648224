"""Fixtures of the tests that run daemons in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.shell.fingerprint import single_threaded
from tests.shell.loop import World


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    with single_threaded():  # as a daemon, and so that what it decides can be compared bit for bit
        yield


@pytest.fixture
def world(tmp_path: Path, one_thread: None) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    for rig in made.rigs:
        rig.drop()
