"""Calibration: how often Trimtab's statements about errors are wrong, beside what is allowed.

Promotions and intervals come from the arena's runner, guardrail stops and the sample-ratio check from simulations of
their own; what is judged is the production code throughout. Each module `_calibration_*` says what it simulates.
"""

import argparse
from collections.abc import Callable, Sequence

import msgspec
from rich.console import Console
from rich.progress import track

from benchmarks import _calibration_intervals, _calibration_promotions, _calibration_srm, _calibration_stops
from benchmarks._calibration_figures import Figure, Job, Outcome, Spread, table
from nas.processes import processes
from simulators.arguments import new_file, positive

CLAIMS: dict[str, Callable[[int | None, Spread], list[Figure]]] = {
    "promotions": _calibration_promotions.measured,
    "intervals": _calibration_intervals.measured,
    "stops": _calibration_stops.measured,
    "srm": _calibration_srm.measured,
}


def main(argv: Sequence[str]) -> int:
    """Measure the claims asked for, print them, and write JSON where asked; status 1 where one does not hold."""
    options = _options(argv)
    found, console = {}, Console(width=170)
    for claim in options.claims:
        found[claim] = CLAIMS[claim](options.studies, spread_over(options.jobs))
        console.print(table(claim, found[claim]))
        if options.json:
            options.json.write_bytes(msgspec.json.encode(found))
    return int(any(figure.holds is False for figures in found.values() for figure in figures))


def spread_over(count: int) -> Spread:
    """A `Spread` over so many processes, which shows how far it is."""

    def spread(work: Callable[[Job], Outcome], jobs: Sequence[Job], title: str) -> list[Outcome]:
        console = Console(stderr=True)
        with processes(count) as pool:
            if pool is None:
                return [work(job) for job in track(jobs, title, console=console)]
            return list(track(pool.map(work, jobs), title, len(jobs), console=console))

    return spread


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks calibration", description=__doc__)
    parser.add_argument("--claims", nargs="+", choices=CLAIMS, default=list(CLAIMS), help="default: all")
    parser.add_argument("--studies", type=positive, help="studies (runs) of each case instead of the default")
    parser.add_argument("--jobs", type=positive, default=1, help="processes")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the figures there, after every claim")
    return parser.parse_args(argv)
