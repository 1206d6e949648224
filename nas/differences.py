"""Where two records of one kind differ: what a refusal names."""

from collections.abc import Iterator, Mapping

import msgspec


def differences(held: msgspec.Struct, wanted: msgspec.Struct, keys: Mapping[str, str]) -> str:
    """Such as "recipe.learning_rate was 0.004, is 0.1".

    `keys`: by which name whoever reads it knows a field, by the beginning of its dotted place; the first that fits.
    """
    return "; ".join(f"{_key(place, keys)} was {before}, is {now}" for place, before, now in _differing(held, wanted))


def _differing(held: msgspec.Struct, wanted: msgspec.Struct, within: str = "") -> Iterator[tuple[str, str, str]]:
    for name in held.__struct_fields__:
        before, now, place = getattr(held, name), getattr(wanted, name), f"{within}{name}"
        if isinstance(before, msgspec.Struct) and isinstance(now, msgspec.Struct):
            yield from _differing(before, now, f"{place}.")
        elif before != now:
            yield place, _told(before), _told(now)


def _told(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _key(place: str, keys: Mapping[str, str]) -> str:
    for start, key in keys.items():
        if place.startswith(start):
            return key + place.removeprefix(start)
    return place
