import msgspec
import numpy as np
import pytest

from controller.core import ledger
from controller.core.experiment import Carry, Choice, Statistics
from controller.core.ledger import Cells, carried, digest, pack, unpack
from controller.core.safety import Crossing
from controller.core.windows import Cell, Quality
from tests.core.loop import Loop, at_stage, same

SHAPE = (2, 5, 3)


def cell(seed: int) -> Cell:
    rng = np.random.default_rng(seed)
    return Cell(rng.integers(-(2**55), 2**55, SHAPE), rng.integers(0, 9, SHAPE[:2]))


def plus(a: Cell, b: Cell) -> Cell:
    return Cell(a.sums + b.sums, a.events + b.events)


def seen(end_ms: int, cells: Cells) -> Statistics:
    return Statistics(end_ms, cells, np.arange(5), Quality(10, 1, 2, 3), 4, 20)


def test_statistics_come_back_from_differences() -> None:
    first: Cells = {(100, 1): cell(1), (100, 2): cell(2)}
    data, recorded = pack(seen(100, first), {})
    told, held = unpack(data, {})
    assert same(told, seen(100, first))
    # The next decision: one window amended, one untouched, one new.
    second: Cells = {(100, 1): plus(first[100, 1], cell(3)), (100, 2): first[100, 2], (200, 2): cell(4)}
    data, recorded = pack(seen(200, second), recorded)
    told, held = unpack(data, held)
    assert same(told, seen(200, second))
    assert same(recorded, held)


def test_reasons_of_refused_rows_come_back_and_cost_nothing_where_there_are_none() -> None:
    some = msgspec.structs.replace(seen(100, {}), reasons={"future": 1, "negative": 3})
    assert same(unpack(pack(some, {})[0], {})[0], some)
    assert b"reasons" not in pack(seen(100, {}), {})[0], "as in a ledger of before they were kept"


def test_a_decision_before_a_recorded_window_does_not_see_it() -> None:
    """The breaker records an open window; what is then decided on an older one leaves it out, and takes it up later."""
    both: Cells = {(100, 1): cell(1), (200, 1): cell(2)}
    data, recorded = pack(seen(200, both), {})
    _, held = unpack(data, {})
    data, recorded = pack(seen(100, {(100, 1): both[100, 1]}), recorded)
    told, held = unpack(data, held)
    assert list(told.cells) == [(100, 1)]
    data, recorded = pack(seen(200, both), recorded)
    assert same(unpack(data, held)[0].cells, both)


def test_what_did_not_change_is_not_written_again() -> None:
    big: Cells = {(100, v): cell(v) for v in range(9)}
    data, recorded = pack(seen(100, big), {})
    again, _ = pack(seen(100, big), recorded)
    assert len(again) < len(data) / 9


def test_copies_lead_to_the_same_bytes_as_the_originals() -> None:
    """A process that was started again holds copies."""
    cells: Cells = {(100, 1): cell(1), (100, 2): cell(2)}
    _, recorded = pack(seen(100, cells), {})
    cells = cells | {(200, 2): cell(3)}
    copies = {key: Cell(c.sums.copy(), c.events.copy()) for key, c in recorded.items()}
    assert pack(seen(200, cells), recorded)[0] == pack(seen(200, cells), copies)[0]


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x95\x01\x02\x03\x04\x05", b"\xc1" * 40])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        unpack(data, {})


def test_a_flipped_byte_never_gives_the_same_statistics() -> None:
    data, _ = pack(seen(100, {(100, 1): cell(1)}), {})
    for place in range(0, len(data), 7):
        bent = bytearray(data)
        bent[place] ^= 1
        try:
            told, _ = unpack(bytes(bent), {})
        except (ValueError, TypeError):
            continue
        assert not same(told, seen(100, {(100, 1): cell(1)}))


def test_a_digest_names_the_sums_whatever_their_order() -> None:
    cells: Cells = {(100, 1): cell(1), (100, 2): cell(2)}
    assert digest(cells) == digest(dict(reversed(cells.items())))
    assert digest(cells) != digest({(100, 1): cells[100, 2], (100, 2): cells[100, 1]})
    one = cells[100, 1].sums.copy()
    one[1, 4, 2] += 1
    assert digest(cells) != digest(cells | {(100, 1): Cell(one, cells[100, 1].events)})
    assert digest({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_sealed_window_leaves_the_recorded_sums() -> None:
    assert list(ledger.without({(100, 1): cell(1), (200, 1): cell(2)}, 100)) == [(200, 1)]


def test_every_carry_of_a_study_survives_json_to_the_bit() -> None:
    loop = at_stage("hold")
    bodies = [record.body["carry"] for record in loop.records if "carry" in record.body]
    assert len(bodies) > 20
    for body in bodies:
        text = msgspec.json.encode(body, order="sorted")
        back = msgspec.convert(msgspec.json.decode(text), Carry)
        assert carried(back) == body == msgspec.json.decode(text)
    assert same(msgspec.convert(bodies[-1], Carry), loop.carry)


def test_a_number_that_json_has_not_would_be_seen() -> None:
    """Why a pick must be finite: what is written for NaN is no number any more."""
    carry = Carry(pick=Choice({"all": (1.0,)}, float("nan"), 0.0, 1.0, 1.0, 0.0))
    with pytest.raises(msgspec.ValidationError, match=r"pick.gain_mean"):
        msgspec.convert(carried(carry), Carry)


def test_facts_tell_what_tripped_and_which_stage_follows() -> None:
    loop = Loop()
    loop.windows(2)
    deal = loop.state.experiment.deals[loop.carry.deal]
    after = msgspec.structs.replace(loop.carry, stage="paused", reason="why")
    records = ledger.facts(loop.carry, after, (Crossing(2, "ctr", -0.3, -0.05, 0.01),), deal, 5)
    assert [(r.kind, r.at_ms) for r in records] == [("guardrail_tripped", 5), ("stage_changed", 5)]
    assert records[0].body["arm"] == deal.arms[2].arm
    assert records[1].body == {"from": "explore", "to": "paused", "why": "why"}
    assert ledger.facts(loop.carry, loop.carry, (), deal, 5) == ()
