"""The description is served, kept, and true: a fuzz run over it finds no fault of the server."""

import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest

from controller.shell.openapi import description, text
from tests.shell.interface import ANN, serving_world
from tests.shell.loop import World, entries

KEPT = Path(__file__).parents[2] / "docs" / "openapi.json"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
MORE = "response_headers_conformance,negative_data_rejection,unsupported_method,ignored_auth"


def test_the_copy_that_is_kept_is_the_one_that_is_served() -> None:
    assert KEPT.read_text() == text(), "python -m controller.shell.openapi > docs/openapi.json"


def test_every_reference_leads_somewhere() -> None:
    schemas = description()["components"]["schemas"]
    named = {part.split('"')[0] for part in text().split('"#/components/schemas/')[1:]}
    assert named
    assert named <= schemas.keys()


@pytest.mark.slow
def test_a_fuzz_run_finds_no_fault_of_the_server(world: World, tmp_path: Path) -> None:
    fuzz = Path(sys.executable).with_name("schemathesis")
    with serving_world(world) as (rig, interface), (tmp_path / "told").open("w") as told:
        command = [str(fuzz), "run", f"{interface.url}/api/v1/openapi.json", "--seed", "1", "--max-examples", "25",
                   "--phases", "examples,coverage,fuzzing", "--checks", f"{CHECKS},{MORE}", "--workers", "1",
                   "--suppress-health-check", "all", "-H", f"Authorization: Bearer {ANN}"]  # fmt: skip
        run = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=told, stderr=told)
        while run.poll() is None:
            rig.turn()  # the daemon goes on, and obeys
            sleep(0.01)  # and leaves the interpreter to the server meanwhile
    said = (tmp_path / "told").read_text()
    assert run.returncode == 0, said[-6000:]
    orders = [entry.body["order"] for entry in entries(world.path, "operator")]
    assert {order["who"] for order in orders} == {"ann"}, "some of what was made up was an order"
