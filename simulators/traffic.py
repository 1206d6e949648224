"""A scenario's events in order of arrival, with everything that goes wrong with them on the way."""

from collections.abc import Iterator, Sequence
from zlib import crc32

import msgspec
import numpy as np

from controller.assignment import Assignment
from simulators.events import Delivery, Population, Rows, arrived, joined
from simulators.faults import Fault, Moment, OnRecords, OnRows, OnServing, Stopped, faulty
from simulators.kinds import AnyScenario, AnyWorld, source
from simulators.serving import served
from simulators.wire import json_events
from simulators.worlds import HOUR_MS


class Traffic:
    """What a product sends, span after span, each served by one table.

    Args:
        start_ms: hour 0 of the scenario and of its faults.

    Raises:
        ValueError: a fault stops a partition that is not there.
    """

    def __init__(
        self,
        scenario: AnyScenario,
        people: Population,
        partitions: int,
        start_ms: int,
        *,
        delivery: Delivery | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        self.scenario, self.people, self.faults = faulty(scenario, faults), people, tuple(faults)
        self.complete = True  # whether the last beat let every partition's watermark pass its time
        self._source = source(self.scenario, people, delivery)
        self._partitions, self._start_ms = partitions, start_ms
        self._waiting: Rows | None = None
        for fault in faults:
            if isinstance(fault, Stopped) and fault.partition >= partitions:
                raise ValueError(f"fault stopped: partition {fault.partition}; there are {partitions}, from 0 on")

    def until(self, table: Assignment | None, begin_ms: int, end_ms: int, *, beat: bool) -> Rows:
        """What arrives until `end_ms`; `beat`: then an event of `end_ms` on every partition, for its watermark."""
        parts = [] if self._waiting is None else [self._waiting]
        parts += [self._span(table, begin, end) for begin, end in self._pieces(begin_ms, end_ms)]
        due, self._waiting = arrived(joined(*parts), end_ms)
        return joined(due, self._beats(table, begin_ms, end_ms)) if beat else due

    def rest(self) -> Rows | None:
        """What is still on its way."""
        rest, self._waiting = self._waiting, None
        return None if rest is None else arrived(rest, 2**62)[0]

    def events(self, rows: Rows, partition: int, first: int) -> list[bytes]:
        """A partition's rows, from its event number `first` on, as JSON; broken where a fault breaks them."""
        found = json_events(self.scenario.world, self.people, rows)
        for k, fault in enumerate(self.faults):
            if isinstance(fault, OnRecords):
                found = fault.records(found, self._rng(k, partition, first))
        return found

    @property
    def breaks_bytes(self) -> bool:
        """Whether some fault can only be seen in the events' bytes."""
        return any(isinstance(fault, OnRecords) for fault in self.faults)

    def _pieces(self, begin_ms: int, end_ms: int) -> Iterator[tuple[int, int]]:
        """The span, by the hour where hours differ."""
        while begin_ms < end_ms:
            next_ms = begin_ms + HOUR_MS - (begin_ms - self._start_ms) % HOUR_MS
            until_ms = end_ms if self.scenario.still else min(end_ms, next_ms)
            yield begin_ms, until_ms
            begin_ms = until_ms

    def _span(self, table: Assignment | None, begin_ms: int, end_ms: int) -> Rows:
        hour = (begin_ms - self._start_ms) // HOUR_MS
        moment = self._moment(table, self.scenario.at(hour), begin_ms)
        wild = hour in self.scenario.bad_hours
        rows = self._source.exposures(moment.world, moment.served, begin_ms, end_ms, wild=wild)
        return self._sent(rows, moment)

    def _beats(self, table: Assignment | None, begin_ms: int, end_ms: int) -> Rows:
        """Those heartbeats that no fault keeps from coming at once."""
        world = self.scenario.at((end_ms - self._start_ms) // HOUR_MS)
        moment = self._moment(table, world, begin_ms)
        beats = self._sent(self._source.heartbeats(world, moment.served, end_ms, self._partitions), moment)
        now, late = arrived(beats, end_ms + 1)
        reached = self.people.partition[now.unit[now.ts_ms >= end_ms]]
        self.complete = len(np.unique(reached)) == self._partitions
        if len(late):
            self._waiting = late if self._waiting is None else joined(self._waiting, late)
        return now

    def _moment(self, table: Assignment | None, world: AnyWorld, begin_ms: int) -> Moment:
        moment = Moment(world, self.people, served(world, table, begin_ms), self._start_ms, begin_ms)
        for fault in self.faults:
            if isinstance(fault, OnServing):
                moment = msgspec.structs.replace(moment, served=fault.serving(moment))
        return moment

    def _sent(self, rows: Rows, moment: Moment) -> Rows:
        for k, fault in enumerate(self.faults):
            if isinstance(fault, OnRows):
                rows = fault.rows(rows, moment, self._rng(k, moment.begin_ms))
        return rows

    def _rng(self, k: int, *key: int) -> np.random.Generator:
        """The randomness of fault k at some place of the traffic."""
        return np.random.default_rng((self.people.seed, crc32(type(self.faults[k]).__name__.encode()), k, *key))
