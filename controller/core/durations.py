"""Durations as people write them."""

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


def written(ms: int) -> str:
    """As the study file has it: "1h30m", "40s", "250ms", "0s"."""
    parts, rest = [], ms
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts) or "0s"
