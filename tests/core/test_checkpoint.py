import pytest

from controller.core import step as core
from controller.core.checkpoint import changes, restore
from controller.core.step import State
from controller.core.windows import Batch, PartBatch, WindowsState
from tests.core.loop import Loop, at_stage, columns, same, varied


def windows_of(state: State) -> dict[str, object]:
    """What of the windows can be compared: how an index lies in memory is not part of it."""
    windows: WindowsState = state.windows
    names = ("partitions", "cells", "quality", "units", "sealed_through_ms", "watermark_ms")
    return {name: getattr(windows, name) for name in names}


def equal(a: State, b: State) -> bool:
    rest = ("experiment", "recorded", "rejected", "arrived", "looked_ms", "reasons")
    return same(windows_of(a), windows_of(b)) and all(same(getattr(a, n), getattr(b, n)) for n in rest)


class Kept:
    """A checkpoint table, and a loop that writes every step to it."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.rows: dict[str, bytes] = {}
        self.written: State | None = None

    def commit(self) -> tuple[set[str], set[str]]:
        changed, self.loop.state = changes(self.written, self.loop.state)
        self.written = self.loop.state
        for key in changed.drop:
            del self.rows[key]
        self.rows |= changed.put
        return set(changed.put), set(changed.drop)


@pytest.mark.parametrize("segments", [(), ("new", "old")])
def test_what_is_restored_is_what_was_at_every_step(segments: tuple[str, ...]) -> None:
    kept = Kept(Loop(varied(segments=segments)))
    kept.commit()
    for _ in range(9):
        rows = kept.loop.rows()
        kept.loop.poll(rows[:50], rejected=3)
        kept.commit()
        assert equal(restore(kept.rows), kept.loop.state)
        kept.loop.poll([*rows[50:], kept.loop.settles()])
        kept.commit()
        assert equal(restore(kept.rows), kept.loop.state)
        kept.loop.hour += 1


def test_a_restored_state_goes_on_to_the_same_bits() -> None:
    """At every window a process ends and another one goes on; nothing in the ledger tells."""
    steady, restarted = Loop(), Loop()
    kept = Kept(restarted)
    for _ in range(12):
        for loop in (steady, restarted):
            loop.poll(loop.rows())
        kept.commit()
        restarted.state = kept.written = restore(kept.rows)
        for loop in (steady, restarted):
            loop.poll([loop.settles()])
            loop.hour += 1
        kept.commit()
        restarted.state = kept.written = restore(kept.rows)
    assert steady.carry.stage in ("ramp", "hold")
    assert same(steady.records, restarted.records)
    assert same(steady.tables, restarted.tables)


def test_a_commit_writes_what_changed() -> None:
    kept = Kept(at_stage("ramp"))
    kept.commit()
    kept.loop.poll(kept.loop.rows()[:10])
    put, drop = kept.commit()
    assert "control" not in put
    assert "step" in put
    assert len([key for key in put if key.startswith("cell/")]) == 1
    assert not [key for key in put if key.startswith("recorded/")]
    assert drop == set()
    kept.loop.poll([kept.loop.settles()])
    put, _ = kept.commit()
    assert "control" in put
    assert [key for key in put if key.startswith("recorded/")]


def test_sealed_windows_leave_the_checkpoint() -> None:
    kept = Kept(Loop())
    for _ in range(8):
        kept.loop.window()
        kept.commit()
    assert len([key for key in kept.rows if key.startswith("recorded/")]) == len(kept.loop.state.recorded) <= 4
    assert len(kept.rows) < 40


def test_a_first_checkpoint_holds_everything() -> None:
    loop = at_stage("ramp")
    first, _ = changes(None, loop.state)
    assert first.drop == ()
    assert equal(restore(first.put), loop.state)


def test_rows_that_are_missing_or_of_another_version_are_refused() -> None:
    rows = changes(None, at_stage("ramp").state)[0].put
    for key in ("step", "control", "windows"):
        with pytest.raises((KeyError, ValueError), match=key):
            restore({k: v for k, v in rows.items() if k != key})
        with pytest.raises(ValueError, match=r".+"):
            restore(rows | {key: b"\x91\xc0"})


def test_an_id_that_was_seen_before_the_restart_is_seen_after_it() -> None:
    loop = Loop()
    loop.windows(1)
    rows = loop.rows()
    loop.poll(rows)
    state = restore(changes(None, loop.state)[0].put)
    part = PartBatch(0, columns(rows, 5000), {}, 6000)
    _, _, info = core.step(loop.plan, state, Batch((part,)), None, core.seeded(7))
    assert info.ingested.counts["duplicate"] == len(rows)
