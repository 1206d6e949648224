import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller import assignment
from controller.core.plan import Plan
from controller.core.replay import window_sums
from controller.shell.journal import Journal
from tests.recount import Ledger, Sums, read_ledger, recount
from tests.shell.loop import PLAN, World, entries


def ledger_sums(path: Path, plan: Plan = PLAN) -> Sums:
    """The sealed sums in the recount's form, without zeros."""
    names = [component.name for component in plan.components]
    found: Sums = {}
    with Journal.read_only(path) as journal:
        for end, cells in window_sums(journal.entries()):
            for version, cell in cells.items():
                total = cell.sums.sum(axis=0)
                values = {(b, names[c]): int(total[b, c]) for b in range(PLAN.buckets) for c in range(len(names))}
                found[end, version] = {place: value for place, value in values.items() if value}
    return found


def recounted(ledger: Ledger, records: dict[int, list[tuple[int, bytes]]]) -> Sums:
    sums = recount(ledger, {p: iter(log) for p, log in records.items()})
    return {key: {place: value for place, value in cell.items() if value} for key, cell in sums.items()}


# --- being killed


def story(path: Path) -> list[Any]:
    """What was decided, without what names the start, and when within a poll a window was sealed."""
    told: list[Any] = []
    for entry in entries(path, "decided", "stage_changed", "guardrail_tripped"):
        body = dict(entry.body)
        carry = body.pop("carry", {})
        for name in ("epoch", "version", "published_ms", "valid_until_ms", "sealed_through_ms"):
            carry.pop(name, None)
        if body.get("table"):
            table = assignment.decode(body["table"].encode())
            body["table"] = msgspec.to_builtins((table.arms, table.buckets, table.decided_through_ms, table.stage))
        told.append((entry.kind, body, carry))
    return told


def sums_by_window(path: Path) -> dict[int, dict[tuple[int, str], int]]:
    found: dict[int, dict[tuple[int, str], int]] = {}
    for (end, _), cell in ledger_sums(path).items():
        total = found.setdefault(end, {})
        for place, value in cell.items():
            total[place] = total.get(place, 0) + value
    return found


WINDOWS = 10


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The journal of a daemon that was never interrupted."""
    world = World(tmp_path_factory.mktemp("whole"))
    rig = world.start()
    rig.settle()
    for _ in range(WINDOWS):
        world.product.settle_window()
        rig.settle()
    rig.drop()
    return world.path


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_daemon_that_is_killed_anywhere_decides_as_one_that_never_was(world: World, whole: Path, seed: int) -> None:
    rng = random.Random(seed)
    rig = world.start()
    rig.settle()
    kills = 0
    for _ in range(WINDOWS):
        world.product.settle_window()
        quiet = 0
        while quiet < 2:
            quiet = quiet + 1 if rig.turn(rng.choice([0.01, 0.3, 1.1])) == "quiet" else 0
            if rng.random() < 0.4:
                rig.drop()
                rig = world.start(max_records=rng.choice([50, 700, 1_000_000]))
                kills += 1
                quiet = 0
    rig.drop()
    assert kills > 8
    assert story(world.path) == story(whole)
    assert sums_by_window(world.path) == sums_by_window(whole)
    assert len(sums_by_window(world.path)) >= WINDOWS - 7
    ledger = read_ledger(world.path)
    assert ledger_sums(world.path) == recounted(ledger, world.records()), "version by version, also of every start"
    assert {version for version, _ in ledger.published} <= ledger.tables.keys()
    assert world.publisher.history.keys() <= ledger.tables.keys()


JUNK = (b"{", b"\xff", b"[]", b"", b'{"id": "x"}')


def is_sound(value: bytes) -> bool:
    return value not in JUNK


def test_the_sums_are_those_of_a_recount_whatever_comes(world: World) -> None:
    rng = random.Random(5)
    rig = world.start(max_records=333)
    rig.settle()
    for _ in range(WINDOWS):
        world.product.settle_window()
        rig.settle()
        for partition, log in world.topic.logs.items():
            sound = [record for record in log if is_sound(record.value)]
            for record in rng.choices(sound[-4000:], k=60):
                world.topic.append(partition, record.value)  # a copy
            for record in rng.choices(sound, k=40):
                event = msgspec.json.decode(record.value)
                event["id"] = f"late{rng.random()}"  # of any time until now: late, or expired
                if rng.random() < 0.3:
                    event["arm"] = "somebody"
                world.topic.append(partition, msgspec.json.encode(event))
            for junk in JUNK:
                world.topic.append(partition, junk)
        rig.settle()
    for result in ("duplicate", "expired", "misattributed"):
        assert (rig.metric("events_total", result=result) or 0) > 0
    good = {p: [row for row in log if is_sound(row[1])] for p, log in world.records().items()}
    sums = ledger_sums(world.path)
    assert len({end for end, _ in sums}) >= WINDOWS - 7
    assert sums == recounted(read_ledger(world.path), good)
