"""What goes wrong in production, as a list that any world can be wrapped in.

A fault sits at one place of the way from the product to the topic: in the product itself (`OnScenario`), in how it
serves (`OnServing`), among the events it sends (`OnRows`), or among their bytes (`OnRecords`). Hours count from the
scenario's start; a fault lasts from `at` for `hours`. Shares are of events unless said otherwise.
"""

from collections.abc import Sequence
from math import inf
from typing import Annotated, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from simulators.events import ID_BYTES, Population, Rows, Served, joined, taken
from simulators.kinds import AnyWorld, SameScenario
from simulators.scenarios import Swap
from simulators.worlds import HOUR_MS

Share = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
MOST_H = 1e6  # a century: times are milliseconds in 64 bits
Hour = Annotated[float, msgspec.Meta(ge=0.0, le=MOST_H)]
Positive = Annotated[float, msgspec.Meta(gt=0.0)]
Span = Annotated[float, msgspec.Meta(gt=0.0, le=MOST_H)]  # of hours, where they are moved by as much
Minutes = Annotated[float, msgspec.Meta(gt=0.0, le=60 * MOST_H)]
Index = Annotated[int, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Moment(msgspec.Struct, frozen=True, eq=False):
    """Where a span of traffic lies, and what served it."""

    world: AnyWorld
    people: Population
    served: Served
    start_ms: int  # of the scenario
    begin_ms: int  # of the span


@runtime_checkable
class OnScenario(Protocol):
    """Changes what people do, so what is true."""

    def scenario(self, scenario: SameScenario) -> SameScenario:
        """The scenario with the fault in it."""
        ...


@runtime_checkable
class OnServing(Protocol):
    """Changes what the product serves by."""

    def serving(self, moment: Moment) -> Served:
        """What it serves by in a span instead."""
        ...


@runtime_checkable
class OnRows(Protocol):
    """Changes the events on their way; a row that arrives later is held back until then."""

    def rows(self, rows: Rows, moment: Moment, rng: np.random.Generator) -> Rows:
        """The rows of a span as they are sent."""
        ...


@runtime_checkable
class OnRecords(Protocol):
    """Changes the bytes of events."""

    def records(self, events: list[bytes], rng: np.random.Generator) -> list[bytes]:
        """The events of a span as they arrive."""
        ...


Fault = OnScenario | OnServing | OnRows | OnRecords


class Swapped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new ranking model: half of the predictions become `scale` times as large, the others as much smaller."""

    at: Index = 30
    scale: Annotated[float, msgspec.Meta(ge=0.1, le=10.0)] = 1.5  # beyond, weights act far outside their bounds

    def scenario(self, scenario: SameScenario) -> SameScenario:
        """See `OnScenario`."""
        return msgspec.structs.replace(scenario, swap=Swap(self.at, self.scale))


class Ignored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A serving bug: a share of buckets is served the control arm, whatever the table says, and says so."""

    share: Share = 0.1
    at: Hour = 0.0
    hours: Positive = inf

    def serving(self, moment: Moment) -> Served:
        """See `OnServing`."""
        if not self.at <= (moment.begin_ms - moment.start_ms) / HOUR_MS < self.at + self.hours:
            return moment.served
        buckets = len(moment.served.arm_of)
        ignored = np.random.default_rng(moment.people.seed).permutation(buckets) < self.share * buckets
        return msgspec.structs.replace(moment.served, arm_of=np.where(ignored, 0, moment.served.arm_of))


class Vanished(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share of one arm's events vanishes, whole people at a time (1: all of them). Arm 0 is control."""

    arm: Index = 1
    share: Share = 1.0
    at: Hour = 0.0
    hours: Positive = inf

    def rows(self, rows: Rows, moment: Moment, rng: np.random.Generator) -> Rows:
        """See `OnRows`."""
        gone = _now(self.at, self.hours, rows, moment) & (rows.arm == self.arm)
        return taken(rows, ~(gone & _some(self.share, rows, moment)))


class Stopped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A partition stops (-1: all do), and what was sent to it comes after `hours`."""

    partition: Annotated[int, msgspec.Meta(ge=-1)] = 0
    at: Hour = 20.0
    hours: Span = 3.0

    def rows(self, rows: Rows, moment: Moment, rng: np.random.Generator) -> Rows:
        """See `OnRows`."""
        begin, end = (moment.start_ms + int(hour * HOUR_MS) for hour in (self.at, self.at + self.hours))
        mine = (moment.people.partition[rows.unit] == self.partition) | (self.partition < 0)
        held = mine & (rows.arrival_ms >= begin)
        return msgspec.structs.replace(
            rows, arrival_ms=np.where(held, np.maximum(rows.arrival_ms, end), rows.arrival_ms)
        )


class Outage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The product is down: nobody is served and nothing is sent."""

    at: Hour = 20.0
    hours: Positive = 3.0

    def rows(self, rows: Rows, moment: Moment, rng: np.random.Generator) -> Rows:
        """See `OnRows`."""
        return taken(rows, ~_now(self.at, self.hours, rows, moment))


class Skewed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The clocks of a share of producers are wrong by so many minutes (above 0: ahead)."""

    share: Share = 0.05
    minutes: Annotated[float, msgspec.Meta(ge=-60 * MOST_H, le=60 * MOST_H)] = 30.0
    at: Hour = 0.0
    hours: Positive = inf

    def rows(self, rows: Rows, moment: Moment, rng: np.random.Generator) -> Rows:
        """See `OnRows`."""
        wrong = _now(self.at, self.hours, rows, moment) & _some(self.share, rows, moment)
        return msgspec.structs.replace(rows, ts_ms=rows.ts_ms + wrong * int(self.minutes * 60_000))


class Late(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share of events arrives so many hours after its time, on average (exponential)."""

    share: Share = 0.1
    mean_h: Span = 2.0
    at: Hour = 0.0
    hours: Positive = inf

    def rows(self, rows: Rows, moment: Moment, rng: np.random.Generator) -> Rows:
        """See `OnRows`."""
        late = _now(self.at, self.hours, rows, moment) & (rng.random(len(rows)) < self.share)
        delay = (rng.exponential(self.mean_h, len(rows)) * HOUR_MS).astype(np.int64)
        return msgspec.structs.replace(rows, arrival_ms=rows.arrival_ms + late * delay)


class Copied(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share of events is sent twice, the copy some minutes later (exponential)."""

    share: Share = 0.1
    mean_minutes: Minutes = 10.0
    at: Hour = 0.0
    hours: Positive = inf

    def rows(self, rows: Rows, moment: Moment, rng: np.random.Generator) -> Rows:
        """See `OnRows`."""
        again = taken(rows, _now(self.at, self.hours, rows, moment) & (rng.random(len(rows)) < self.share))
        delay = (rng.exponential(self.mean_minutes, len(again)) * 60_000).astype(np.int64)
        return joined(rows, msgspec.structs.replace(again, arrival_ms=again.arrival_ms + delay))


class Lost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share of events is lost, of all arms alike."""

    share: Share = 0.1
    at: Hour = 0.0
    hours: Positive = inf

    def rows(self, rows: Rows, moment: Moment, rng: np.random.Generator) -> Rows:
        """See `OnRows`."""
        return taken(rows, ~(_now(self.at, self.hours, rows, moment) & (rng.random(len(rows)) < self.share)))


class Exploded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A quantity is reported `factor` times too large: by one arm, or by all (`arm=-1`). Default: the world's last."""

    quantity: str = ""
    factor: Positive = 10.0
    arm: Annotated[int, msgspec.Meta(ge=-1)] = 1
    at: Hour = 0.0
    hours: Positive = inf

    def rows(self, rows: Rows, moment: Moment, rng: np.random.Generator) -> Rows:
        """See `OnRows`."""
        wrong = _now(self.at, self.hours, rows, moment) & ((rows.arm == self.arm) | (self.arm < 0))
        values = rows.values.copy()
        values[wrong, moment.world.index(self.quantity) if self.quantity else -1] *= self.factor
        return msgspec.structs.replace(rows, values=values)


class Bots(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A few units send a share of all events: they see as much as everyone a visit, and never engage."""

    share: Annotated[float, msgspec.Meta(gt=0.0, le=0.5)] = 0.1  # at most one bot's event beside each
    units: Count = 20
    at: Hour = 0.0
    hours: Positive = inf

    def rows(self, rows: Rows, moment: Moment, rng: np.random.Generator) -> Rows:
        """See `OnRows`."""
        odds = self.share / (1.0 - self.share)
        once = np.zeros(len(rows), np.bool_)
        once[np.unique(rows.ids, return_index=True)[1]] = True  # a copy's bot would bear the id of its original's
        seen = taken(rows, once & _now(self.at, self.hours, rows, moment) & (rng.random(len(rows)) < odds))
        people, served = moment.people, moment.served
        chosen = np.random.default_rng(people.seed).choice(len(people.names), self.units, replace=False)
        unit = chosen[rng.integers(0, self.units, len(seen))].astype(np.int32)
        counts = [quantity.law == "count" for quantity in moment.world.quantities]
        arm = served.arm_of[people.bucket[unit]].astype(np.int32)
        bots = msgspec.structs.replace(seen, ids=_other(seen.ids), unit=unit, arm=arm, values=seen.values * counts)
        if moment.world.segment_by == "unit":
            bots = msgspec.structs.replace(bots, segment=people.segment[unit])
        return joined(rows, bots)


class Corrupt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share of events is broken on the way: cut off, NaN, negative, of a wrong type, not UTF-8, too large."""

    share: Share = 0.01

    def records(self, events: list[bytes], rng: np.random.Generator) -> list[bytes]:
        """See `OnRecords`."""
        broken = np.flatnonzero(rng.random(len(events)) < self.share)
        found = list(events)
        for i, kind in zip(broken.tolist(), rng.integers(0, len(_BREAKS), len(broken)).tolist(), strict=True):
            head, mark, tail = events[i].partition(b'"values":{')
            name, colon, rest = tail.partition(b":")
            number = len(rest) - len(rest.lstrip(b"-+.0123456789eE"))
            found[i] = head + mark + name + colon + _BREAKS[kind] + rest[number:] if _BREAKS[kind] else head
        return found


_BREAKS = (b"", b"NaN", b"-3", b'"many"', b'"\xff"', b"1e300")  # of a value; the first cuts the event off

FAULTS: dict[str, type[Fault]] = {
    "corrupt": Corrupt,
    "copied": Copied,
    "late": Late,
    "lost": Lost,
    "stopped": Stopped,
    "outage": Outage,
    "skewed": Skewed,
    "vanished": Vanished,
    "ignored": Ignored,
    "exploded": Exploded,
    "bots": Bots,
    "swap": Swapped,
}


def summary(name: str) -> str:
    """What a fault does, in one line, with its arguments and their defaults."""
    kind = FAULTS[name]
    fields = msgspec.structs.fields(kind)  # type: ignore[arg-type]
    arguments = ",".join(f"{f.encode_name}={f.default}" for f in fields if f.default not in ("", inf))
    return f"{(kind.__doc__ or '').splitlines()[0]} [{arguments}]"


def parse(text: str, world: AnyWorld) -> Fault:
    """The fault written as `NAME` or `NAME:argument=value,...`; raises `ValueError` saying what would be accepted."""
    name, _, rest = text.partition(":")
    if name not in FAULTS:
        raise ValueError(f"no fault is called {name!r}; there are {', '.join(FAULTS)}")
    known = [f.encode_name for f in msgspec.structs.fields(FAULTS[name])]  # type: ignore[arg-type]
    given: dict[str, float | str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in known:
            raise ValueError(f"fault {name}: {part!r}; write {', '.join(f'{k}=...' for k in known)}")
        given[key] = _number(value)
    try:
        fault: Fault = msgspec.convert(given, FAULTS[name], strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"fault {text}: {error}") from error
    quantities = [quantity.name for quantity in world.quantities]
    if isinstance(fault, Exploded) and fault.quantity not in ("", *quantities):
        raise ValueError(f"fault {text}: the world sends no {fault.quantity!r}; it sends {', '.join(quantities)}")
    if isinstance(fault, Bots) and fault.units > world.units:
        raise ValueError(f"fault {text}: the world has {world.units} units")
    return fault


def _number(text: str) -> float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def faulty(scenario: SameScenario, faults: Sequence[Fault]) -> SameScenario:
    """The scenario with those faults that change the product itself."""
    for fault in faults:
        if isinstance(fault, OnScenario):
            scenario = fault.scenario(scenario)
    return scenario


def _now(at: float, hours: float, rows: Rows, moment: Moment) -> NDArray[np.bool_]:
    """Which rows (n,) belong to exposures while the fault lasts."""
    hour = (rows.ts_ms - moment.start_ms) / HOUR_MS
    return np.asarray((hour >= at) & (hour < at + hours))


def _some(share: float, rows: Rows, moment: Moment) -> NDArray[np.bool_]:
    """The rows (n,) of a share of the people, for ever the same ones; apart from their buckets and partitions."""
    mixed = moment.people.unit_hash * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(11)
    return np.asarray((mixed / 2.0**53 < share)[rows.unit])


def _other(ids: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    """Ids that no event of a world has."""
    letters = ids.copy().view(np.uint8).reshape(len(ids), ID_BYTES)
    digit = np.where(letters[:, 0] <= ord("9"), letters[:, 0] - ord("0"), letters[:, 0] - ord("a") + 10)
    letters[:, 0] = ord("g") + digit
    return np.asarray(letters.view(ids.dtype).reshape(-1))
