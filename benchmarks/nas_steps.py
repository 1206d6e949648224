"""NAS: milliseconds of a training step, recorded and plain where there is a GPU, and the loss that each ends at.

Claim: a recorded step is several times as fast, and training ends at the same validation loss.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks._nas_data import bench, prepared
from benchmarks._nas_scale import LONG
from nas import steps
from nas.architecture import Architecture
from nas.baselines import Baseline
from nas.rows import Parts
from nas.space import drawn
from nas.train import fit

ROWS, RECIPE = 25_600, msgspec.structs.replace(LONG.recipe, batch_size=256)
HOURS, REQUESTS_PER_HOUR = 2, 3000.0  # of the simulated log


class Line(msgspec.Struct, frozen=True):
    """One architecture; `recorded` is None without a GPU."""

    name: str
    plain_ms: float
    plain_loss: float
    recorded_ms: float | None
    recorded_loss: float | None


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks nas_steps", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        prepared(Path(folder), HOURS, REQUESTS_PER_HOUR)
        parts = bench(LONG, Path(folder)).parts
        lines = [_line(name, architecture, parts) for name, architecture in _architectures().items()]
    if options.json:
        print(msgspec.json.encode(lines).decode())
    else:
        Console().print(_table(lines))
    return 0


def _architectures() -> dict[str, Architecture]:
    nets: dict[str, Architecture] = {f"genotype {i}": drawn(LONG.space, np.random.default_rng(i)) for i in range(3)}
    others = (Baseline(name="dcnv2", width=64), Baseline(name="ple", width=64), Baseline(name="autoint", width=16))
    return nets | {one.name: one for one in others}


def _line(name: str, architecture: Architecture, parts: Parts) -> Line:
    with _plainly():
        plain = _measured(architecture, parts)
    recorded = _measured(architecture, parts) if torch.cuda.is_available() else (None, None)
    return Line(name, *plain, *recorded)


def _measured(architecture: Architecture, parts: Parts) -> tuple[float, float]:
    """Milliseconds of a step, the start and the recording included, and the loss at the end."""
    record = fit(architecture, RECIPE, parts, rows=ROWS).record
    return 1e3 * record.seconds * RECIPE.batch_size / record.rows, record.best.valid.loss


@contextmanager
def _plainly() -> Iterator[None]:
    """As on a CPU."""
    with patch.object(steps, "Recorded", lambda step: step):
        yield


def _table(lines: Sequence[Line]) -> Table:
    title = f"steps of {RECIPE.batch_size} rows"
    table = Table("", "plain, ms", "its loss", "recorded, ms", "its loss", title=title)
    for one in lines:
        numbers = (one.plain_ms, one.plain_loss, one.recorded_ms, one.recorded_loss)
        table.add_row(one.name, *("" if number is None else f"{number:.5g}" for number in numbers))
    return table
