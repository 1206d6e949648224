"""Simulators: impressions a second and core, of the short-video feed beside SARDINE and the Open Bandit Pipeline.

An impression is one item shown to one person, with what came of it. The peers answer one item at a time or a batch of
independent rounds; what each of them simulates is told beside the figure. CPU time of this process; one run.
"""

import argparse
import json
import resource
import time
from collections.abc import Sequence
from importlib.util import find_spec

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from simulators.arguments import positive
from simulators.catalog import WORLDS
from simulators.closed_loop import START_MS
from simulators.events import Population, Rows, Served, exposures, population
from simulators.feed.crowd import Crowd, Processes, Workforce, feed_population
from simulators.feed.product import Feed
from simulators.feed.shipped import SHORTVIDEO
from simulators.worlds import HOUR_MS

PER_HOUR = 400_000.0  # pages: some 1.4 million people
HOURS = 3
SALT = "bench:"


class Figure(msgspec.Struct, frozen=True):
    """`per_s`: impressions (rounds, for bandit data) a second of one core; None where the peer is not installed."""

    simulator: str
    what: str
    impressions: int
    per_s: float | None


def main(argv: Sequence[str]) -> int:
    """Measure all, print a table or JSON; status 1 where several processes make other events than one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks simulators", description=__doc__)
    parser.add_argument("--hours", type=positive, default=HOURS, help="simulated, of the feed")
    parser.add_argument("--processes", type=positive, default=2, help="that the scaling is shown with")
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    options = parser.parse_args(argv)
    feed = msgspec.structs.replace(SHORTVIDEO, events_per_hour=PER_HOUR)
    people = feed_population(feed, 0, SALT)
    figures = [*_feed(feed, people, options.hours), _closed_form(), _sardine(), _obp()]
    scaling = _scaling(feed, people, options.processes)
    if options.json:
        print(json.dumps({"figures": msgspec.to_builtins(figures), "processes": scaling}, indent=2))
        return int(not scaling["same"])
    Console(width=140).print(_table(figures))
    print(f"{scaling['processes']} processes: {scaling['ratio']:.2f} times as fast as one, by the clock, same events: "
          f"{scaling['same']}")  # fmt: skip
    return int(not scaling["same"])


def _feed(feed: Feed, people: Population, hours: int) -> list[Figure]:
    """Events as columns; and the memory of the process after each half, which must not grow with time."""
    crowd, table = Crowd(feed, people), _control(feed.buckets, feed.baseline)
    _hour(crowd, table, 8)  # people have come for the first time
    begin_s, shown, peaks = time.process_time(), 0, []
    for hour in range(hours):
        shown += int(_hour(crowd, table, 9 + hour).values[:, 0].sum())
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    spent_s = time.process_time() - begin_s
    memory = f"peak memory {peaks[0]:.0f} MiB after 1 h, {peaks[-1]:.0f} after {hours}"
    what = f"{PER_HOUR:,.0f} requests/h of 16 candidates, a ranker, 7 signals; {memory}"
    return [Figure("trimtab shortvideo", what, shown, shown / spent_s)]


def _closed_form() -> Figure:
    world = msgspec.structs.replace(WORLDS["feed"], events_per_hour=PER_HOUR)
    people, table = population(world, 0, SALT), _control(world.buckets, world.baseline)
    begin_s = time.process_time()
    rows = exposures(world, people, table, START_MS + 9 * HOUR_MS, START_MS + 10 * HOUR_MS)
    shown = int(rows.values[:, 0].sum())
    return Figure("trimtab feed", "1 h of the closed-form world", shown, shown / (time.process_time() - begin_s))


def _sardine() -> Figure:
    what = "slates of 10 from 1,000 items, one person after the other (SlateTopK-Bored)"
    if find_spec("sardine") is None:
        return Figure("SARDINE", f"{what}: not installed; pip install sardine-rec", 0, None)
    import gymnasium
    import sardine  # noqa: F401  # registers its environments

    env = gymnasium.make("sardine/SlateTopK-Bored-v0")
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    size, items = len(env.action_space.nvec), int(env.action_space.nvec[0])
    slates = rng.permuted(np.tile(np.arange(items), (200, 1)), axis=1)[:, :size]
    steps, begin_s = 0, time.process_time()
    while time.process_time() - begin_s < 5.0:
        _, _, ended, cut, _ = env.step(slates[steps % len(slates)])
        steps += 1
        if ended or cut:
            env.reset()
    return Figure("SARDINE", what, steps * size, steps * size / (time.process_time() - begin_s))


def _obp() -> Figure:
    what = "rounds of 10 actions with 5 features, one reward each (SyntheticBanditDataset)"
    if find_spec("obp") is None:
        return Figure("Open Bandit Pipeline", f"{what}: not installed; pip install obp==0.4.1", 0, None)
    from obp.dataset import SyntheticBanditDataset, logistic_reward_function

    data = SyntheticBanditDataset(n_actions=10, dim_context=5, reward_function=logistic_reward_function, random_state=0)
    rounds, begin_s = 0, time.process_time()
    while time.process_time() - begin_s < 5.0:
        data.obtain_batch_bandit_feedback(n_rounds=10_000)
        rounds += 10_000
    return Figure("Open Bandit Pipeline", what, rounds, rounds / (time.process_time() - begin_s))


def _scaling(feed: Feed, people: Population, processes: int) -> dict[str, float | bool]:
    """Wall time of an hour here and in processes that share the shards, the same events."""
    table = _control(feed.buckets, feed.baseline)
    alone, own_s = _timed(feed, people, table, None)
    with Processes(feed, people.seed, SALT, processes) as workers:
        shared, shared_s = _timed(feed, people, table, workers)
    same = alone.ids.tobytes() == shared.ids.tobytes() and alone.values.tobytes() == shared.values.tobytes()
    return {"processes": processes, "ratio": own_s / shared_s, "same": same}


def _timed(feed: Feed, people: Population, table: Served, at_work: Workforce | None) -> tuple[Rows, float]:
    crowd = Crowd(feed, people, at_work=at_work)
    _hour(crowd, table, 8)
    begin_s = time.perf_counter()
    rows = _hour(crowd, table, 9)
    return rows, time.perf_counter() - begin_s


def _hour(crowd: Crowd, table: Served, hour: int) -> Rows:
    return crowd.exposures(table, START_MS + hour * HOUR_MS, START_MS + (hour + 1) * HOUR_MS)


def _control(buckets: int, baseline: np.ndarray) -> Served:
    return Served(1, ("control",), np.zeros(buckets, np.int16), ({"all": baseline},))


def _table(figures: list[Figure]) -> Table:
    table = Table("simulator", "what", title="impressions a second of one core", box=None)
    for name in ("impressions", "a second", "ratio"):
        table.add_column(name, justify="right")
    ours = figures[0].per_s or 1.0
    for each in figures:
        rate, ratio = ("-", "-") if each.per_s is None else (f"{each.per_s:,.0f}", f"{ours / each.per_s:.3g}x")
        table.add_row(each.simulator, each.what, f"{each.impressions:,}", rate, ratio)
    return table
