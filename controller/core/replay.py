"""Every decision made again from the ledger, one entry after the other.

After each entry the recorded outcome is taken over, so that one entry's rounding never spoils the next.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from controller import assignment
from controller.core import breaker, ledger, operate, replan
from controller.core.decide import decide
from controller.core.evidence import fold
from controller.core.experiment import Carry, Experiment, initial
from controller.core.ledger import Cells
from controller.core.operate import Command
from controller.core.plan import Plan, digest
from controller.core.rollout import Deal, IllegalMove
from controller.core.step import seeded

Outcome = Literal["exact", "equivalent", "different"]

TOLERANCE = 1e-3  # relative: other kernels and threads round differently, and optimisers stop a step apart


class Entry(Protocol):
    """A ledger entry, as the journal gives it."""

    @property
    def seq(self) -> int:
        """Its number."""

    @property
    def at_ms(self) -> int:
        """When it was made, on the daemon's clock."""

    @property
    def kind(self) -> str:
        """What it is."""

    @property
    def body(self) -> dict[str, Any]:
        """JSON values."""

    @property
    def data(self) -> bytes | None:
        """Arrays, packed by `ledger.pack`."""


class Checked(msgspec.Struct, frozen=True):
    """What came of one entry. `found` names the first value that differs, "" when exact."""

    seq: int
    kind: str
    outcome: Outcome
    found: str = ""


class Unreadable(Exception):
    """An entry whose hash is right but that this code cannot make sense of."""


class _Story(msgspec.Struct, frozen=True, eq=False):
    """What the entries so far have led to."""

    plan: Plan
    experiment: Experiment
    recorded: Cells


class _Made(msgspec.Struct, frozen=True, eq=False):
    """What this code makes of an entry: the state after it, and the values that it would have written into it."""

    experiment: Experiment
    recorded: Cells
    values: dict[str, Any]


def replay(entries: Iterable[Entry]) -> Iterator[Checked]:
    """Make every decision again; yields one result for each entry that holds one.

    Raises:
        Unreadable: an entry is not what this version of the code writes.
    """
    story: _Story | None = None
    for entry in entries:
        try:
            story, checked = _checked(story, entry)
        except (LookupError, ValueError, TypeError, AttributeError, IllegalMove) as error:  # msgspec's are ValueErrors
            raise Unreadable(f"entry {entry.seq} ({entry.kind}): {type(error).__name__}: {error}") from error
        if checked is not None:
            yield checked


def window_sums(entries: Iterable[Entry]) -> Iterator[tuple[int, dict[int, Any]]]:
    """Every sealed window's end and its sums by version, as the ledger holds them."""
    recorded: Cells = {}
    for entry in entries:
        if entry.data is None:
            continue
        _, recorded = ledger.unpack(entry.data, recorded)
        if entry.kind == "sealed":
            end = int(entry.body["window_end_ms"])
            yield end, {version: cell for (e, version), cell in recorded.items() if e == end}
            recorded = ledger.without(recorded, end)


def _checked(story: _Story | None, entry: Entry) -> tuple[_Story, Checked | None]:
    """The story after an entry, and how the entry compares with what this code makes of it."""
    if entry.kind == "study_started":
        plan = msgspec.convert(entry.body["plan"], Plan)
        return _Story(plan, initial(plan), {}), None
    if story is None:
        raise ValueError("the ledger must begin with study_started")
    again = _AGAIN.get(entry.kind)
    if again is None:
        return story, None
    made = again(story, entry)
    checked = _compare(entry, {"carry": ledger.carried(made.experiment.carry), **made.values})
    plan = msgspec.convert(entry.body["plan"], Plan) if entry.kind == "plan_changed" else story.plan
    return _adopt(_Story(plan, made.experiment, made.recorded), entry.body), checked


def _replanned(story: _Story, entry: Entry) -> _Made:
    plan = msgspec.convert(entry.body["plan"], Plan)
    experiment = replan.follow(story.plan, plan, story.experiment, entry.at_ms)
    return _Made(experiment, story.recorded, {"digest": digest(plan)})


def _begun(story: _Story, entry: Entry) -> _Made:
    experiment, table = operate.begin(story.plan, story.experiment, entry.body["epoch"], entry.at_ms)
    return _Made(experiment, story.recorded, {"table": table.decode()})


def _ordered(story: _Story, entry: Entry) -> _Made:
    order = msgspec.convert(entry.body["order"], Command)
    experiment, answer = operate.apply(story.plan, story.experiment, order, entry.at_ms)
    table = None if answer.table is None else answer.table.decode()
    return _Made(experiment, story.recorded, {"said": answer.said, "table": table})


def _decided(story: _Story, entry: Entry) -> _Made:
    seen, recorded = ledger.unpack(_data(entry), story.recorded)
    rng = seeded(story.plan.seed)(seen.end_ms)
    experiment, decision = decide(story.plan, story.experiment, seen, entry.at_ms, rng, entry.body["act"])
    table = None if decision.table is None else decision.table.decode()
    told = {"window_end_ms": decision.end_ms, "outcome": decision.outcome, "why": decision.why, "table": table}
    return _Made(experiment, recorded, told)


def _broken(story: _Story, entry: Entry) -> _Made:
    seen, recorded = ledger.unpack(_data(entry), story.recorded)
    found = breaker.tripped(story.plan, story.experiment, seen)
    if not found:
        raise ValueError("the breaker does not trip on the sums that are recorded")
    experiment, table = breaker.stop(story.plan, story.experiment, found, seen.end_ms, entry.at_ms)
    return _Made(experiment, recorded, {"table": table.decode()})


def _sealed(story: _Story, entry: Entry) -> _Made:
    seen, recorded = ledger.unpack(_data(entry), story.recorded)
    cells = {key: cell for key, cell in seen.cells.items() if key[0] == seen.end_ms}
    by_version = {version: cell for (_, version), cell in cells.items()}
    experiment = fold(story.plan, story.experiment, seen.end_ms, by_version)
    told = {"window_end_ms": seen.end_ms, "sums_sha256": ledger.digest(cells)}
    return _Made(experiment, ledger.without(recorded, seen.end_ms), told)


_AGAIN: dict[str, Callable[[_Story, Entry], _Made]] = {
    "plan_changed": _replanned,
    "daemon_started": _begun,
    "operator": _ordered,
    "decided": _decided,
    "breaker_tripped": _broken,
    "sealed": _sealed,
}


def _data(entry: Entry) -> bytes:
    if entry.data is None:
        raise ValueError("the sums it was decided on are missing")
    return entry.data


def _compare(entry: Entry, made: dict[str, Any]) -> Checked:
    first, body = "", entry.body
    for name, value in made.items():
        stored = body[name]
        if stored == value:
            continue
        place = "" if name == "why" else _differs(*_parsed(name, stored, value), name)
        if place:
            return Checked(entry.seq, entry.kind, "different", place)
        first = first or f"{name} differs by rounding"
    return Checked(entry.seq, entry.kind, "equivalent" if first else "exact", first)


def _parsed(name: str, stored: Any, made: Any) -> tuple[Any, Any]:
    """Tables stand in the ledger as their very bytes; to see where two differ they are read."""
    if name != "table" or stored is None or made is None:
        return stored, made
    return msgspec.json.decode(stored), msgspec.json.decode(made)


def _differs(stored: Any, made: Any, place: str) -> str:
    """The first place where two JSON values differ by more than rounding, or ""."""
    if isinstance(stored, dict) and isinstance(made, dict) and stored.keys() == made.keys():
        pairs = ((f"{place}.{key}", stored[key], made[key]) for key in stored)
    elif isinstance(stored, list) and isinstance(made, list) and len(stored) == len(made):
        pairs = ((f"{place}[{i}]", a, b) for i, (a, b) in enumerate(zip(stored, made, strict=True)))
    elif place.endswith(".reason") or _close(stored, made):  # a sentence: its figures stand elsewhere
        return ""
    else:
        return f"{place}: the ledger holds {stored!r:.80}, made again it is {made!r:.80}"
    return next((found for found in (_differs(a, b, p) for p, a, b in pairs) if found), "")


def _close(stored: Any, made: Any) -> bool:
    if isinstance(stored, float) and isinstance(made, (int, float)):
        return math.isclose(stored, made, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(stored == made)


def _adopt(story: _Story, body: dict[str, Any]) -> _Story:
    """The story with the recorded choices in place of those made again."""
    carry = msgspec.convert(body["carry"], Carry)
    experiment = msgspec.structs.replace(story.experiment, carry=carry)
    if body.get("table") is not None:
        table = assignment.decode(body["table"].encode())
        made = experiment.deals.get(carry.deal)
        made = made or Deal(carry.deal, carry.stage, table.arms, np.zeros(0, np.int16))
        deal = msgspec.structs.replace(made, arms=table.arms, buckets=np.array(table.buckets, np.int16))
        experiment = msgspec.structs.replace(experiment, deals={**experiment.deals, carry.deal: deal})
    return msgspec.structs.replace(story, experiment=experiment)
