"""Ranges of what a design says. Each refusal names the key, what was found, what would do."""

import msgspec


def expect(place: str, found: object, sound: bool, expected: str) -> None:
    """Raises ValueError unless what was found there is `sound`."""
    if not sound:
        raise ValueError(f"{place}: found {found}; expected {expected}")


def at_least(place: str, record: msgspec.Struct, **least: int) -> None:
    """Raises ValueError where a field of the record, which stands at `place`, is less; None is none."""
    for key, low in least.items():
        found = getattr(record, key)
        expect(f"{place}.{key}", found, found is None or found >= low, f"{low} or more")
