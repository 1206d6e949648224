"""Arena: Trimtab beside other controllers on worlds whose true response is known in closed form.

Everyone gets the same traffic, arms and estimates (see `_arena_run`); scores are by the closed form, never by what a
controller believes. A peer whose library is not installed is named as missing; one more is one more `Tuner` in
`_arena_run.PEERS`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from functools import partial
from itertools import chain, product
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import track

from benchmarks._arena_noise import beyond_noise
from benchmarks._arena_plot import plot
from benchmarks._arena_protocol import Missing
from benchmarks._arena_report import Line, ahead, best_peers, lines
from benchmarks._arena_run import CONTROLLERS, run
from benchmarks._arena_scores import Scores, scored
from benchmarks._arena_table import tables
from benchmarks._arena_worlds import SCENARIOS, entered, names, of_run
from controller.shell.fingerprint import single_threaded
from nas.processes import processes
from simulators.arguments import new_file, positive, random_seed

SHORT_WORLDS, SHORT_HOURS = ("quick", "drift"), 24
Job = tuple[str, str, int]  # scenario, controller, seed
Outcome = Scores | tuple[str, str]  # a run's scores, or the controller's name and what it lacks
Work = Callable[[Job], Outcome]


class Asked(msgspec.Struct, frozen=True):
    """Which seeds a run was of."""

    first_seed: int
    seeds: int


class Earlier(msgspec.Struct, frozen=True):
    """What is read of a JSON that another run wrote."""

    asked: Asked
    lines: list[Line]


def main(argv: Sequence[str]) -> int:
    """Play, print, and write JSON where asked; status 1 where no controller could run."""
    options = _options(argv)
    jobs = list(product(options.worlds, options.controllers, _seeds(options)))
    scores, missing = play(jobs, options.hours, options.cadence, options.jobs, options.runs)
    console = Console(stderr=True)
    with console.status("which limits can be told from the noise"):
        hard = frozenset(name for name in options.worlds if beyond_noise(entered(name)))
    made, compared = lines(scores, hard), ahead(scores, hard, options.peers_from)
    Console(width=200).print(*tables(made, compared, missing, options.hours), sep="\n")
    if options.json:
        options.json.write_bytes(_json(options, scores, made, compared, missing))
    if options.plot:
        plot(scores, hard, options.plot)
    return int(not scores)


def play(
    jobs: Sequence[Job], hours: int, cadence: int | None = None, count: int = 1, kept: Path | None = None
) -> tuple[list[Scores], dict[str, str]]:
    """The scores of all runs, in the order of the jobs, and the controllers that cannot run here.

    `count`: of processes. `kept`: a file of runs, a JSON line each, to which every finished one is added and in which
    it is found again.
    """
    found = {job: s for job, s in _earlier(kept) if len(s.series) == hours}
    # By seed: what was stopped early has every world of the seeds that it came to.
    left, missing = sorted((job for job in jobs if job not in found), key=lambda job: job[2]), {}
    work = partial(_played, hours=hours, cadence=cadence)
    outcomes = track(_outcomes(left, work, count), "studies", total=len(left), console=Console(stderr=True))
    for job, outcome in outcomes:
        if isinstance(outcome, tuple):
            missing[outcome[0]] = outcome[1]
            continue
        found[job] = outcome
        if kept:
            with kept.open("ab") as file:
                file.write(msgspec.json.encode(outcome) + b"\n")
    return [found[job] for job in jobs if job in found], missing


def _outcomes(jobs: Sequence[Job], work: Work, count: int) -> Iterator[tuple[Job, Outcome]]:
    """As they are finished."""
    with processes(count) as pool:
        if pool is None:
            yield from ((job, work(job)) for job in jobs)
            return
        asked = {pool.submit(work, job): job for job in jobs}
        yield from ((asked[one], one.result()) for one in as_completed(asked))


def _earlier(kept: Path | None) -> Iterator[tuple[Job, Scores]]:
    """The runs of a file; what a run that was killed had begun to write is cut off, so that the next one can follow.

    Raises `SystemExit` with the line that is no run.
    """
    if kept is None or not kept.exists():
        return
    *whole, torn = kept.read_bytes().split(b"\n")
    if torn:
        kept.write_bytes(b"".join(line + b"\n" for line in whole))
    for number, line in enumerate(whole, 1):
        try:
            s = msgspec.json.decode(line, type=Scores)
        except msgspec.DecodeError as error:
            raise SystemExit(f"--runs {kept}, line {number}: no run of the arena: {error}") from error
        yield (s.scenario, s.controller, s.seed), s


def _played(job: Job, hours: int, cadence: int | None) -> Outcome:
    """A run's scores, or the controller's name and what it lacks."""
    name, controller, seed = job
    try:
        with single_threaded():
            return scored(run(of_run(name, seed), controller, seed, hours, cadence))
    except Missing as lack:
        return controller, str(lack)


def _json(options: argparse.Namespace, scores: list[Scores], *results: object) -> bytes:
    """Figures by line, and every run's; arm-hours are left out for their number."""
    made, compared, missing = results
    runs = [{k: v for k, v in msgspec.to_builtins(s).items() if not k.endswith("violations")} for s in scores]
    asked = {"hours": options.hours, "seeds": options.seeds, "first_seed": options.first_seed}
    return msgspec.json.encode({"asked": asked, "lines": made, "ahead": compared, "missing": missing, "runs": runs})


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks arena", description=__doc__)
    parser.add_argument(
        "--worlds",
        nargs="+",
        type=_worlds,
        metavar="WORLD",
        help=f"of {', '.join(SCENARIOS)} (all); drawn-0..29: thirty at random",
    )
    parser.add_argument("--controllers", nargs="+", choices=CONTROLLERS, default=None, help="default: all")
    parser.add_argument("--seeds", type=positive, default=None, help="runs of each pair (4)")
    parser.add_argument("--first-seed", type=random_seed, default=0, help="peers were chosen on seeds from 100 on")
    parser.add_argument("--hours", type=positive, default=None, help="of each run (72)")
    parser.add_argument("--cadence", type=positive, default=None, help="windows that every peer holds its vectors for")
    parser.add_argument("--jobs", type=positive, default=1, help="processes")
    parser.add_argument("--short", action="store_true", help="two worlds, one seed, 24 hours")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--runs", type=new_file, metavar="FILE", help="runs are kept there, and those there are not made again"
    )
    parser.add_argument("--plot", type=new_file, metavar="FILE", help="draw the scores there, as .svg or .png")
    parser.add_argument("--peers-from", type=Path, metavar="FILE", help="JSON by other seeds, whose best peers count")
    options = parser.parse_args(argv)
    _refuse_files(parser, options)
    worlds, controllers, seeds, hours = (
        (SHORT_WORLDS, CONTROLLERS, 1, SHORT_HOURS) if options.short else (tuple(SCENARIOS), CONTROLLERS, 4, 72)
    )
    if options.cadence and options.runs:
        parser.error("--runs keeps no cadence: give --cadence without it")
    options.worlds = tuple(dict.fromkeys(chain.from_iterable(options.worlds))) if options.worlds else worlds
    options.controllers = tuple(dict.fromkeys(options.controllers or controllers))  # each once, as worlds are
    options.seeds, options.hours = options.seeds or seeds, options.hours or hours
    if options.peers_from:
        try:
            earlier = msgspec.json.decode(options.peers_from.read_bytes(), type=Earlier)
            best = best_peers(earlier.lines)
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
            parser.error(f"--peers-from {options.peers_from}: no JSON of the arena: {error}")
        if set(_seeds(earlier.asked)) & set(_seeds(options)):
            parser.error(f"--peers-from {options.peers_from}: it has some of the seeds compared; others are needed")
        options.peers_from = best
    return options


def _refuse_files(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What cannot be read or drawn is told before hours are played."""
    if options.plot and options.plot.suffix not in (".png", ".svg"):
        parser.error(f"--plot {options.plot}: found the ending {options.plot.suffix!r}; expected .png or .svg")
    if options.peers_from and not options.peers_from.is_file():
        parser.error(f"--peers-from {options.peers_from}: there is no such file")


def _worlds(text: str) -> tuple[str, ...]:
    try:
        return names(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seeds(asked: Asked | argparse.Namespace) -> range:
    return range(asked.first_seed, asked.first_seed + asked.seeds)
