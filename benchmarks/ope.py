"""Off-policy estimates beside the Open Bandit Pipeline's, on the same rows: equal to rounding.

Claim: IPS, self-normalised IPS and doubly robust differ by less than 1e-12 of the value. Rows: the Open Bandit
Dataset's small release where TRIMTAB_DATA names the shared data, and a made-up bandit. Both sides get the same
predicted rewards.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from simulators import ope
from simulators.ope import Floats, Log
from simulators.reward_log import Columns, read_logs

LIMIT = 1e-12
OBD = Columns("click", "propensity_score", "item_id", ("position",))


class Line(msgspec.Struct, frozen=True):
    """One estimator on one log."""

    log: str
    estimator: str
    value: float
    se: float
    effective: float
    earned: float  # by the target itself; the truth of a made-up bandit
    theirs: float | None  # None without obp


def main(argv: Sequence[str]) -> int:
    """Measure and print; status 1 where the claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ope", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    found = [line for name, log, target, earned in _logs() for line in _lines(name, log, target, earned)]
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        Console().print(_table(found))
    if any(line.theirs is None for line in found):
        print("obp is not installed: pip install 'trimtab[peers]'", file=sys.stderr)
    return int(any(line.theirs is not None and _apart(line) > LIMIT for line in found))


def _logs() -> list[tuple[str, Log, Floats, float]]:
    """Name, log, target policy and what it is worth."""
    found = [("made up", *made_up(0, 100_000))]
    if "TRIMTAB_DATA" in os.environ:
        folder = Path(os.environ["TRIMTAB_DATA"]) / "obd_small"
        for campaign in ("men", "women"):
            random, bts = read_logs([folder / p / campaign / f"{campaign}.csv" for p in ("random", "bts")], OBD)
            found.append((f"bts to random, {campaign}", bts, ope.uniform(bts), float(random.reward.mean())))
            found.append((f"random to bts, {campaign}", random, ope.allocation(bts), float(bts.reward.mean())))
    return found


def made_up(seed: int, n: int, actions: int = 20, contexts: int = 3) -> tuple[Log, Floats, float]:
    """A log of a random policy over random click rates, another random policy, and that one's true value."""
    rng = np.random.default_rng(seed)
    logging, target = (rng.dirichlet(np.full(actions, 2.0), contexts) for _ in range(2))
    rate = rng.uniform(0.02, 0.3, (contexts, actions))
    context = rng.integers(0, contexts, n)
    action = (rng.random(n)[:, None] > np.cumsum(logging, axis=1)[context]).sum(axis=1).clip(0, actions - 1)
    reward = (rng.random(n) < rate[context, action]).astype(float)
    log = Log(reward, logging[context, action], action, context, actions, contexts)
    return log, target, float((rate * target).sum(axis=1).mean())


def _lines(name: str, log: Log, target: Floats, earned: float) -> list[Line]:
    found, weights = ope.evaluate(log, target)
    theirs = obp_values(log, target)
    return [
        Line(name, each.name, each.value, each.se, weights.effective, earned, None if theirs is None else theirs[i])
        for i, each in enumerate(found)
    ]


def obp_values(log: Log, target: Floats) -> list[float] | None:
    """Their three estimates; None where obp is not installed."""
    try:
        from obp import ope as theirs
    except ImportError:
        return None
    rows = {
        "reward": log.reward,
        "action": log.action,
        "pscore": log.propensity,
        "position": log.context,
        "action_dist": np.repeat(target.T[None], len(log.reward), axis=0),
    }
    predicted = np.repeat(ope.rewards(log)[:, :, None], log.contexts, axis=2)
    return [
        float(theirs.InverseProbabilityWeighting().estimate_policy_value(**rows)),
        float(theirs.SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**rows)),
        float(theirs.DoublyRobust().estimate_policy_value(**rows, estimated_rewards_by_reg_model=predicted)),
    ]


def _apart(line: Line) -> float:
    return abs(line.value - (line.theirs or 0.0)) / abs(line.value)


def _table(found: Sequence[Line]) -> Table:
    table = Table("log", "estimator", "value", "s.e.", "effective rows", "earned", "obp", "apart", box=None)
    for line in found:
        theirs = ("-", "-") if line.theirs is None else (f"{line.theirs:.6f}", f"{_apart(line):.0e}")
        cells = (f"{line.value:.6f}", f"{line.se:.6f}", f"{line.effective:,.0f}", f"{line.earned:.6f}", *theirs)
        table.add_row(line.log, line.estimator, *cells)
    return table
