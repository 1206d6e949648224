"""Every decision made again from the ledger, one entry after the other.

After each entry the recorded outcome is taken over, so that one entry's rounding never spoils the next.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from controller import assignment
from controller.core import breaker, ledger, operate
from controller.core.control import Carry, Control, fold, initial
from controller.core.decide import decide
from controller.core.ledger import Cells
from controller.core.operate import Command
from controller.core.plan import Plan
from controller.core.rollout import Deal
from controller.core.step import seeded

Outcome = Literal["exact", "equivalent", "different"]

TOLERANCE = 1e-3  # relative: other kernels and threads round differently, and optimisers stop a step apart


class Entry(Protocol):
    """A ledger entry, as the journal gives it."""

    @property
    def seq(self) -> int: ...
    @property
    def at_ms(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def body(self) -> dict[str, Any]: ...
    @property
    def data(self) -> bytes | None: ...


class Checked(msgspec.Struct, frozen=True):
    """What came of one entry. `found` names the first value that differs, "" when exact."""

    seq: int
    kind: str
    outcome: Outcome
    found: str = ""


class Unreadable(Exception):
    """An entry whose hash is right but that this code cannot make sense of."""


class _Story(msgspec.Struct, frozen=True, eq=False):
    plan: Plan
    control: Control
    recorded: Cells


def replay(entries: Iterable[Entry]) -> Iterator[Checked]:
    """Make every decision again; yields one result for each entry that holds one.

    Raises:
        Unreadable: an entry is not what this version of the code writes.
    """
    story: _Story | None = None
    for entry in entries:
        try:
            story, made = _again(story, entry)
        except (KeyError, ValueError, TypeError) as error:  # msgspec's errors are ValueErrors
            raise Unreadable(f"entry {entry.seq} ({entry.kind}): {type(error).__name__}: {error}") from error
        if made is None:
            continue
        yield _compare(entry, made)
        if "carry" in entry.body:
            story = _adopt(story, entry.body)


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


def _again(story: _Story | None, entry: Entry) -> tuple[_Story, dict[str, Any] | None]:
    """The story after an entry, and what this code would have written into it (None: nothing is decided there)."""
    body = entry.body
    if entry.kind in ("study_started", "plan_changed"):
        plan = msgspec.convert(body["plan"], Plan)
        if story is None:
            return _Story(plan, initial(plan), {}), None
        return msgspec.structs.replace(story, plan=plan), None
    if story is None:
        raise ValueError("the ledger must begin with study_started")
    plan, control, recorded = story.plan, story.control, story.recorded
    table: bytes | None = None
    more: dict[str, Any] = {}
    match entry.kind:
        case "daemon_started":
            control, table = operate.begin(plan, control, body["epoch"], entry.at_ms)
        case "operator":
            control, answer = operate.apply(plan, control, msgspec.convert(body["order"], Command), entry.at_ms)
            table, more = answer.table, {"said": answer.said}
        case "decided":
            seen, recorded = ledger.unpack(_data(entry), recorded)
            rng = seeded(plan.seed)(seen.end_ms)
            control, decision = decide(plan, control, seen, entry.at_ms, rng, body["act"])
            table, more = decision.table, {"outcome": decision.outcome, "why": decision.why}
        case "breaker_tripped":
            seen, recorded = ledger.unpack(_data(entry), recorded)
            control, table = breaker.stop(plan, control, breaker.tripped(plan, control, seen), entry.at_ms)
        case "sealed":
            seen, recorded = ledger.unpack(_data(entry), recorded)
            cells = {key: cell for key, cell in seen.cells.items() if key[0] == seen.end_ms}
            control = fold(plan, control, seen.end_ms, {version: cell for (_, version), cell in cells.items()})
            recorded = ledger.without(recorded, seen.end_ms)
            more = {"sums_sha256": ledger.digest(cells)}
        case _:
            return story, None
    made = {"carry": ledger.carried(control.carry), "table": None if table is None else table.decode()} | more
    return _Story(plan, control, recorded), made


def _data(entry: Entry) -> bytes:
    if entry.data is None:
        raise ValueError("the sums it was decided on are missing")
    return entry.data


def _compare(entry: Entry, made: dict[str, Any]) -> Checked:
    first = ""
    exact = True
    for name, value in made.items():
        stored = entry.body.get(name)
        if stored == value:
            continue
        exact = False
        if name == "table" and isinstance(stored, str) and isinstance(value, str):
            stored, value = msgspec.json.decode(stored), msgspec.json.decode(value)
        if name == "why" and isinstance(stored, str):
            continue  # a sentence with figures in it: the figures themselves stand in `carry`
        place = _differs(stored, value, name)
        if place:
            return Checked(entry.seq, entry.kind, "different", place)
        first = first or name
    return Checked(entry.seq, entry.kind, "exact" if exact else "equivalent", first)


def _differs(stored: Any, made: Any, place: str) -> str:
    """The first place where two JSON values differ by more than rounding, or ""."""
    if isinstance(stored, dict) and isinstance(made, dict) and stored.keys() == made.keys():
        pairs = ((f"{place}.{key}", stored[key], made[key]) for key in stored)
    elif isinstance(stored, list) and isinstance(made, list) and len(stored) == len(made):
        pairs = ((f"{place}[{i}]", a, b) for i, (a, b) in enumerate(zip(stored, made, strict=True)))
    elif place.endswith(".reason") or _close(stored, made):
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
    control = msgspec.structs.replace(story.control, carry=carry)
    if body.get("table") is not None:
        table = assignment.decode(body["table"].encode())
        stage = control.deals[carry.deal].stage if carry.deal in control.deals else table.stage
        deal = Deal(carry.deal, stage, table.arms, np.array(table.buckets, np.int16))
        control = msgspec.structs.replace(control, deals={**control.deals, carry.deal: deal})
    return msgspec.structs.replace(story, control=control)
