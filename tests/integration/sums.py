"""The sealed windows' sums as a journal holds them, in the recount's form."""

from pathlib import Path

import numpy as np

from controller.core.replay import window_sums
from controller.shell.journal import Journal
from tests.recount import Sums


def ledger_sums(journal: Path, components: list[str]) -> Sums:
    """(window end, version) -> (bucket, component) -> 1e-6 units; zeros left out."""
    found: Sums = {}
    with Journal.read_only(journal) as book:
        for end, cells in window_sums(book.entries()):
            for version, cell in cells.items():
                total = cell.sums.sum(axis=0)  # over segments
                places = zip(*np.nonzero(total), strict=True)
                found[end, version] = {(int(b), components[int(c)]): int(total[b, c]) for b, c in places}
    return found
