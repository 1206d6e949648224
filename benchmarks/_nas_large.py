"""What the test rows of a large log say of networks that were chosen on fewer of its rows, and of baselines."""

from pathlib import Path

import msgspec

from benchmarks._nas_data import Bench
from benchmarks._nas_quality import LEVELS, Quality
from benchmarks._nas_runs import Candidate, Trained, Training, at_rates, best_rates, seeded, seeds_of, train, within
from benchmarks._nas_scale import Scale
from benchmarks._nas_stage import Stage
from benchmarks._nas_test_rows import Line, Versus, lines, versus
from nas.baselines import Baseline, Name

COMPARED: tuple[Name, ...] = ("dnn", "deepfm", "dcnv2", "xdeepfm", "finalnet", "finalmlp")  # others: slow, never best


class NothingFound(Exception):
    """A folder holds no finished measurement of `nas`."""


class Found(msgspec.Struct, frozen=True):
    """What is read of a finished measurement of `nas`."""

    scale: Scale
    quality: Quality

    @property
    def picks(self) -> list[Candidate]:
        """What its searches by evolution picked."""
        names = dict.fromkeys(level.searched for level in self.quality.levels)
        by_name = {one.name: one for one in self.quality.candidates}
        return [by_name[name] for name in names]

    @property
    def rivals(self) -> frozenset[str]:
        """Baselines that picks were held against there."""
        return frozenset(level.baseline for level in self.quality.levels)

    @property
    def baselines(self) -> list[Candidate]:
        """Of each kind that is compared the best by its validation rows, all seeds there; the best first."""
        best: dict[Name, Candidate] = {}
        for one in sorted(self.quality.candidates, key=lambda one: one.loss):
            if isinstance(one.architecture, Baseline) and one.architecture.name in COMPARED:
                best.setdefault(one.architecture.name, one)
        return [*best.values()]


class Large(msgspec.Struct, frozen=True):
    """Everything that was measured. `best`: the best baseline by validation rows."""

    best: str
    lines: list[Line]
    gaps: list[Versus]


def found_in(folder: Path) -> Found:
    """Of a folder that `python -m benchmarks nas` finished.

    Raises:
        NothingFound: it did not.
    """
    path = folder / "results.json"
    if not path.exists():
        raise NothingFound(f"{path}: there is none; --found takes a folder that `python -m benchmarks nas` finished")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Found)
    except msgspec.MsgspecError as error:
        raise NothingFound(f"{path}: not of this version of `python -m benchmarks nas`: {error}") from error


def at_rates_found(found: Found) -> dict[str, Training]:
    """Every model at each learning rate that baselines have there: with more rows, another one may be the better."""
    return at_rates(((one.name, one.architecture) for one in (*found.picks, *found.baselines)), found.scale.rates)


def large(stage: Stage[Bench], found: Found) -> Large:
    """Train everyone at every rate, and what is to be compared again at the better one; then read the test rows."""
    everyone = best_rates(stage.each("every model, one seed", Trained, train, at_rates_found(found)))
    picks = [one for one in everyone if not isinstance(one.architecture, Baseline)]
    others = [one for one in everyone if isinstance(one.architecture, Baseline)]
    best = min(others, key=lambda one: one.loss)
    rivals = {one.name: one for level in LEVELS if (one := within(others, level * best.flops))}
    rivals |= {one.name: one for one in others if one.name in found.rivals}
    again = seeded(stage, [*picks, *rivals.values()], lambda one: seeds_of(one.flops, stage.bench.scale.seeds))
    known = {one.name: one for one in everyone} | again
    read = lines(stage, known.values())
    pairs = [(one.name, best.name) for one in known.values() if one.name != best.name]
    pairs += [(pick.name, rival) for rival in rivals if rival != best.name for pick in picks]
    return Large(best.name, read, [versus(stage.bench, known[a], known[b]) for a, b in pairs])
