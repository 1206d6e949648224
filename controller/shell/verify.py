"""`trimtab verify`: is the ledger whole, and does this code decide the same again?"""

from collections import Counter
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import msgspec

from controller.core.replay import Checked, Unreadable, replay
from controller.shell.fingerprint import fingerprint
from controller.shell.journal import Journal, check_chain


class Verification(msgspec.Struct, frozen=True):
    """What a journal's check came to. `ok`: the chain is whole and every decision was made again as it has to be."""

    ok: bool
    entries: int
    chain: str  # "whole", or the first broken entry and what is wrong with it
    same_fingerprint: bool  # of all the processes that wrote it and this one
    decisions: dict[str, int]  # outcome -> entries made again
    first: str  # the first entry that was not made again exactly, "" when all were


def verify(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Verification:
    """Check the hash chain, then make every decision again. `progress(entries done, of)` is called as it goes.

    Under the fingerprint that wrote an entry its bytes must come out the same; under another, the same within
    rounding, which is `equivalent`.

    Raises:
        JournalRefused, JournalFailed: it is no journal, or cannot be read.
    """
    broken = check_chain(path)
    if broken is not None:
        return Verification(False, 0, str(broken), False, {}, "")
    outcomes: Counter[str] = Counter()
    first, ok, same = "", True, True
    with Journal.read_only(path) as journal:
        total = journal.head().seq
        mine = _comparable(fingerprint())
        writers = {e.seq: _comparable(e.body.get("about")) == mine for e in journal.entries(kinds=("daemon_started",))}
        try:
            # What a daemon enters meanwhile is not of the head that is reported, nor is its writer known here.
            for checked in replay(takewhile(lambda entry: entry.seq <= total, journal.entries())):
                same = writers.get(checked.seq, same)  # of the process that wrote this entry
                outcomes[checked.outcome] += 1
                if checked.outcome != "exact":
                    first = first or _sentence(checked, same)
                    ok = ok and checked.outcome == "equivalent" and not same
                progress(checked.seq, total)
        except Unreadable as error:
            ok, first = False, str(error)
    return Verification(ok, total, "whole", all(writers.values()), dict(outcomes), first)


def _comparable(about: object) -> dict[str, object]:
    known = about if isinstance(about, dict) else {}
    return {name: value for name, value in known.items() if name not in ("admin", "clock", "source", "version")}


def _sentence(checked: Checked, same: bool) -> str:
    told = f"entry {checked.seq} ({checked.kind}) is {checked.outcome}: {checked.found}"
    if checked.outcome == "equivalent" and same:
        told += "; the fingerprint is the same, so it should be exact"
    return told
