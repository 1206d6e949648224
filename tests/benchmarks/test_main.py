"""The list of claims is told with no extra installed, and a claim that needs one names it."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import names

ROOT = Path(__file__).parents[2]
# An environment without the extras: what they bring cannot be imported.
WITHOUT = """
import runpy, sys
for name in ("torch", "optuna", "ax", "botorch", "matplotlib"):
    sys.modules[name] = None
runpy.run_module("benchmarks", run_name="__main__", alter_sys=True)
"""


def without_extras(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)


def test_the_list_needs_no_extra() -> None:
    listed = without_extras()
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == names()
    assert all(len(line.split()) > 1 for line in listed.stdout.splitlines()), "each says what it measures"


@pytest.mark.parametrize("name", ["nas", "nas_space"])
def test_a_claim_names_the_extra_that_it_lacks(name: str) -> None:
    run = without_extras(name)
    assert run.returncode == 2
    assert run.stderr == f"{name}: there is no module torch; pip install '.[nas]' brings it along\n"
