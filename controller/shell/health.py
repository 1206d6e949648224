"""Why the daemon is not ready, by part."""

from collections.abc import Callable


class Health:
    """Written by the daemon's thread, read by the server's. `changed` is told when there is news."""

    def __init__(self, changed: Callable[[dict[str, str]], None]) -> None:
        self._faults: dict[str, str] = {"start": "the daemon has not polled yet"}
        self._changed = changed

    @property
    def faults(self) -> dict[str, str]:
        """part -> what is wrong with it; empty when ready."""
        return self._faults

    def set(self, part: str, fault: str | None) -> None:
        """Note a part's fault, or None when it is well."""
        faults = {name: text for name, text in self._faults.items() if name != part}
        if fault is not None:
            faults[part] = fault
        news = faults.keys() != self._faults.keys()
        self._faults = faults  # one assignment: a reader sees the old or the new dict, never half of one
        if news:
            self._changed(faults)
