"""`trimtab calibration`, and the ranking log of `trimtab simulate`."""

import argparse
import json
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from simulators.arguments import random_seed
from simulators.events import Served
from simulators.feed.calibration import DAYS, PEOPLE, Figure, figures, tally
from simulators.feed.crowd import feed_population
from simulators.feed.pages import shelf_of
from simulators.feed.people import people_of
from simulators.feed.product import Feed
from simulators.feed.ranking_log import Progress, truth_path, write
from simulators.feed.shipped import SHORTVIDEO

FAILED, MISUSED = 1, 2


def calibration(argv: list[str]) -> int:
    """Show the simulated short-video feed beside the real app it is fitted to, number by number."""
    parser = argparse.ArgumentParser(prog="trimtab calibration", description=calibration.__doc__)
    parser.add_argument("--people", type=int, default=PEOPLE, metavar="N", help=f"simulated ({PEOPLE:,})")
    parser.add_argument("--days", type=int, default=DAYS, metavar="N", help=f"whole weeks ({DAYS})")
    parser.add_argument("--seed", type=random_seed, default=0)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it too (needs trimtab[bench])")
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    args = parser.parse_args(argv)
    if args.days < 7 or args.days % 7 or args.people < 100:
        parser.error(f"--days {args.days}, --people {args.people}: whole weeks, and 100 people or more")
    if args.plot is not None and (args.plot.suffix != ".png" or not args.plot.parent.is_dir()):
        parser.error(f"--plot {args.plot}: expected a name that ends in .png, in a folder that exists")
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{args.people:,} people", total=args.days)
        found = tally(SHORTVIDEO, args.people, args.days, args.seed, lambda day: bar.update(task, completed=day))
    latents = people_of(SHORTVIDEO, shelf_of(SHORTVIDEO).items, args.people, args.seed)
    made = figures(found, latents)
    if args.plot is not None:
        try:
            from simulators.feed.calibration_plot import draw
        except ImportError as error:
            return _say("calibration", f"--plot: {error}; pip install 'trimtab[bench]'", MISUSED)
        draw(made, args.plot)
    if args.json:
        print(json.dumps([msgspec.to_builtins(each) | {"held": each.held} for each in made], indent=2))
    else:
        Console(width=110).print(_table(made))
    return 0 if all(each.held for each in made) else FAILED


def ranking_log(
    feed: Feed, seed: int, served: Served, salt: str, bounds: tuple[int, int], path: Path, *, as_json: bool
) -> int:
    """Write a feed's ranking log of [begin, end), and what is true beside it."""
    if path.suffix != ".parquet":
        return _say("simulate", f"--ranking-log {path}: the name must end in .parquet", MISUSED)
    for each in (path, truth_path(path)):
        if each.exists():
            return _say("simulate", f"--ranking-log {each}: exists already; name a new file", MISUSED)
    people = feed_population(feed, seed, salt)
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{path}", total=bounds[1] - bounds[0])

        def tell(progress: Progress) -> None:
            said = f"{path}  {progress.candidates:,} candidates"
            bar.update(task, completed=progress.through_ms - bounds[0], description=said)

        try:
            done = write(feed, people, served, bounds, path, tell)
        except OSError as error:
            return _say("simulate", f"--ranking-log {path}: {error.strerror or error}", FAILED)
    if done.requests == 0:
        return _say("simulate", f"--ranking-log {path}: nobody came: more --hours or --events-per-hour", FAILED)
    told: dict[str, str | int] = {
        "log": str(path),
        "truth": str(truth_path(path)),
        "requests": done.requests,
        "candidates": done.candidates,
        "shown": done.shown,
    }
    print(json.dumps(told, indent=2) if as_json else _told(told))
    return 0


def _told(told: dict[str, str | int]) -> str:
    return (
        f"{told['log']}: {told['candidates']:,} candidates of {told['requests']:,} requests, {told['shown']:,} of them "
        f"seen; what is true of them: {told['truth']}"
    )


def _table(made: list[Figure]) -> Table:
    held = sum(each.held for each in made)
    table = Table("group", "figure", title=f"simulated and real: {held} of {len(made)} within tolerance", box=None)
    for name in ("real", "simulated", "difference", "tolerance"):
        table.add_column(name, justify="right")
    for each in made:
        style = "" if each.held else "red"
        numbers = [_short(x) for x in (each.real, each.simulated, each.simulated - each.real, each.tolerance)]
        table.add_row(each.group, each.name, *numbers, style=style)
    return table


def _short(x: float) -> str:
    return f"{x:.5f}" if abs(x) >= 0.001 else f"{x:.3g}"


def _say(command: str, message: str, status: int) -> int:
    print(f"trimtab {command}: {message}", file=sys.stderr)
    return status
