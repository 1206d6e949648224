"""`trimtab verify`: is the ledger whole, and does this code decide the same again?"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from controller.core.replay import Checked, Unreadable, replay
from controller.shell.fingerprint import fingerprint
from controller.shell.journal import Journal, check_chain


class Verdict(msgspec.Struct, frozen=True):
    """What a journal's check came to. `ok`: the chain is whole and nothing differs."""

    ok: bool
    entries: int
    chain: str  # "whole", or the first broken entry and what is wrong with it
    same_fingerprint: bool  # of the processes that wrote it and this one
    decisions: dict[str, int]  # outcome -> entries made again
    first: str  # the first entry that was not made again exactly, "" when all were


def verify(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Verdict:
    """Check the hash chain, then make every decision again. `progress(entries done, of)` is called as it goes.

    Under the fingerprint that wrote an entry its bytes must come out the same; under another, the same within
    rounding, which is `equivalent`.

    Raises:
        JournalRefused, JournalFailed: it is no journal, or cannot be read.
    """
    broken = check_chain(path)
    if broken is not None:
        return Verdict(False, 0, str(broken), False, {}, "")
    with Journal.read_only(path) as journal:
        total = journal.head().seq
        mine, same = _comparable(fingerprint()), True
        outcomes: Counter[str] = Counter()
        first = ""
        for entry in journal.entries(kinds=("daemon_started",)):
            same = same and _comparable(entry.body["about"]) == mine
        try:
            for checked in replay(journal.entries()):
                outcomes[checked.outcome] += 1
                if not first and checked.outcome != "exact":
                    first = _sentence(checked)
                progress(checked.seq, total)
        except Unreadable as error:
            return Verdict(False, total, "whole", same, dict(outcomes), str(error))
    ok = not outcomes["different"] and not (same and outcomes["equivalent"])
    return Verdict(ok, total, "whole", same, dict(outcomes), first)


def _comparable(about: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in about.items() if name not in ("clock", "version")}


def _sentence(checked: Checked) -> str:
    return f"entry {checked.seq} ({checked.kind}) is {checked.outcome}: {checked.found}"
