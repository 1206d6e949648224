"""An offline recount of a topic under the ledger's versions, written apart from the controller's code.

It reads the journal as a plain SQLite file and each record as plain JSON, one event at a time, in Python's integers.
"""

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

Records = Iterable[tuple[int, bytes]]  # offset, value
Sums = dict[tuple[int, int], dict[tuple[int, str], int]]  # (window end, version) -> (bucket, component) -> 1e-6 units


class Ledger(NamedTuple):
    plan: dict[str, Any]
    tables: dict[int, dict[str, Any]]  # version -> table
    published: list[tuple[int, bool]]  # version, whether Redis took it
    sealed: dict[int, dict[int, int]]  # window end -> partition -> offset


def read_ledger(journal: Path) -> Ledger:
    tables, published, sealed = {}, [], {}
    plan: dict[str, Any] = {}
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        for kind, text in db.execute("SELECT kind, body FROM ledger ORDER BY seq"):
            body = json.loads(text)
            plan = body["plan"] if kind == "study_started" else plan
            if body.get("table"):
                table = json.loads(body["table"])
                assert table["version"] not in tables, f"version {table['version']} names two tables"
                tables[table["version"]] = table
            if kind == "published":
                published.append((body["version"], body["accepted"]))
            if kind == "sealed":
                assert body["window_end_ms"] not in sealed, "a window was sealed twice"
                sealed[body["window_end_ms"]] = {int(p): offset for p, offset in body["offsets"].items()}
    return Ledger(plan, tables, published, sealed)


def recount(ledger: Ledger, topic: Mapping[int, Records]) -> Sums:
    """Sums of every sealed window, zeros left out. `topic`: partition -> (offset, value) from the study's start on."""
    sums: Sums = {}
    ended = _ended(ledger)
    caps = {component["name"]: component["cap"] for component in ledger.plan["components"]}
    for partition, records in topic.items():
        for event, end in _counted(ledger, partition, records):
            if end not in ledger.sealed:
                continue
            table = ledger.tables.get(event["version"])
            if table is None or end - ledger.plan["window"]["length_ms"] >= ended[event["version"]]:
                continue
            rule = table["unit_hash"]
            bucket = xxhash.xxh64_intdigest((rule["salt"] + event["unit"]).encode()) % rule["buckets"]
            if table["arms"][table["buckets"][bucket]]["arm"] != event["arm"]:
                continue
            cell = sums.setdefault((end, event["version"]), {})
            for component in ledger.plan["components"]:
                name = component["name"]
                value = _counted_value(component, caps, event["values"])
                cell[bucket, name] = cell.get((bucket, name), 0) + value
    return {key: {place: value for place, value in cell.items() if value} for key, cell in sums.items()}


def _ended(ledger: Ledger) -> dict[int, float]:
    """Version -> where windows begin that it cannot have served: the validity after the next table that has a time."""
    times = {version: table["published_ms"] for version, table in ledger.tables.items()}
    later = {v: [times[w] for w in sorted(times) if w > v and times[w]] for v in times}
    return {v: after[0] + ledger.plan["window"]["validity_ms"] if after else math.inf for v, after in later.items()}


def _counted(ledger: Ledger, partition: int, records: Records) -> Iterable[tuple[dict[str, Any], int]]:
    """Events that are neither expired nor copies, with their window's end."""
    window = ledger.plan["window"]
    horizon = min(window["dedupe_ms"], window["lateness_ms"])
    watermark: float = -math.inf
    seen: dict[str, list[int]] = {}  # id -> the ends of the windows it was taken in
    for offset, value in records:
        for line in value.split(b"\n"):
            if not line.strip():
                continue
            event = json.loads(line)
            end = (event["ts_ms"] // window["length_ms"] + 1) * window["length_ms"]
            before, watermark = watermark, max(watermark, event["ts_ms"])
            if before >= end + window["lateness_ms"] or _behind(ledger, end, partition, offset):
                continue
            known = (taken for taken in seen.get(event["id"], ()) if not _behind(ledger, taken, partition, offset))
            if any(before < taken + horizon for taken in known):
                continue
            if before < end + horizon:
                seen.setdefault(event["id"], []).append(end)
            yield event, end


def _behind(ledger: Ledger, end: int, partition: int, offset: int) -> bool:
    """Whether the window was sealed before this record was read: nothing counts for it, and its ids are forgotten."""
    return end in ledger.sealed and offset >= ledger.sealed[end].get(partition, 0)


def _counted_value(component: dict[str, Any], caps: dict[str, Any], values: dict[str, float]) -> int:
    """What an event adds to a component; to one `of` another only what that one counts at its cap."""
    value = _fixed_point(values.get(component["of"] or component["name"], 0.0))
    cap = caps[component["of"] or component["name"]]
    top = value if cap is None else max(-_fixed_point(cap), min(value, _fixed_point(cap)))
    return (top if top != value else 0) if component["of"] else top


def _fixed_point(value: float) -> int:
    product = value * 1e6
    whole = math.trunc(product)
    return whole + (int(math.copysign(1, product)) if abs(product - whole) >= 0.5 else 0)
