"""Durations in ms, and as people write them."""

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
UNIT_MS = {"d": DAY_MS, "h": HOUR_MS, "m": 60_000, "s": 1_000, "ms": 1}  # largest first


def written(ms: int) -> str:
    """As the study file has it: "1h30m", "40s", "250ms", "0s"."""
    parts, rest = [], ms
    for unit, size in UNIT_MS.items():
        count, rest = divmod(rest, size)
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts) or "0s"
