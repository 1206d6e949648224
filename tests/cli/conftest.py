"""A study that no service answers, and its journal."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.shell.fingerprint import single_threaded
from controller.shell.journal import Journal
from controller.shell.publisher import MemoryPublisher
from controller.shell.recorder import Recorder
from simulators.study import Services, study_text
from tests.shell.loop import PLAN, START_MS, WORLD

NOWHERE = Services(bootstrap="127.0.0.1:1", redis_url="redis://127.0.0.1:1/0")  # nobody listens on port 1


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "quick.toml"
    path.write_text(study_text(WORLD, NOWHERE))
    return path


@pytest.fixture
def journal(study: Path) -> Path:
    """The journal of a study whose daemon has started and decided nothing."""
    path = study.with_name("quick.journal")
    with Journal.open(path, PLAN.study) as book:
        Recorder.take_over(PLAN, book, MemoryPublisher(), START_MS, "wall")
    return path


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with single_threaded():  # `run` and `verify` leave BLAS on one thread, as a process of their own may
        yield
