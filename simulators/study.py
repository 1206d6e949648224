"""The study that fits a world, as the file that an operator would have written."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from controller.core.estimate import BUCKETS, Metric
from controller.core.rollout import TrafficPlan
from controller.shell.config import Study, load
from simulators.kinds import AnyWorld

WAIVER = "a simulated world: its truth tells what the denominator does"


class Services(msgspec.Struct, frozen=True):
    """Where a simulation's study finds its services; a closed loop needs none of them."""

    bootstrap: str = "localhost:9092"
    topic: str = "engagement"
    redis_url: str = "redis://localhost:6379/0"
    journal: str = ""  # "" is the world's name with .journal


def study_text(world: AnyWorld, services: Services | None = None, seed: int = 0) -> str:
    """The TOML of a study that tunes this world."""
    services = services or Services()
    journal = services.journal or f"{world.name}.journal"
    tables = [
        f"# {world.summary}\nstudy = {_value(world.name)}\nseed = {seed}",
        _table("window", {"length": "1h", "grace": "5m", "lateness": "6h"}),
        *(_table("[weights]", msgspec.structs.asdict(weight)) for weight in world.weights),
        "[metrics]\n" + "\n".join(_metric(m) for m in world.metrics),
        _table("objective", world.objective),
        *(_table("[guardrails]", msgspec.structs.asdict(guardrail)) for guardrail in world.guardrails),
        _table("traffic", _traffic(world)),
        *([_table("segments", {"values": list(world.segments)})] if world.segments else []),
        _table("kafka", {"bootstrap": services.bootstrap, "topic": services.topic}),
        _table("redis", {"url": services.redis_url}),
        _table("journal", {"path": journal}),
    ]
    return "\n\n".join(tables) + "\n"


def study_of(world: AnyWorld, seed: int = 0) -> Study:
    """The checked study of a world; raises `ConfigError` when the world asks for an impossible one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{world.name}.toml"
        path.write_text(study_text(world, seed=seed))
        return load(path)


def mismatches(world: AnyWorld, study: Study) -> list[str]:
    """Why a study cannot be run on this world's events; empty when it can."""
    plan = study.plan
    names, tuned = ({weight.name for weight in weights} for weights in (world.weights, plan.weights))
    sent = {quantity.name for quantity in world.quantities}
    used = {component.name for component in plan.events.brought}
    found = [
        *(f"weights: the world has no {name!r}; it has {', '.join(sorted(names))}" for name in sorted(tuned - names)),
        *(f"weights: the study has no {name!r}, which the world responds to" for name in sorted(names - tuned)),
        *(f"metrics: the world sends no {name!r}; it sends {', '.join(sorted(sent))}" for name in sorted(used - sent)),
    ]
    if plan.buckets != world.buckets:
        found.append(f"traffic.buckets: {plan.buckets}, where the world has {world.buckets}")
    return found


def _traffic(world: AnyWorld) -> dict[str, object]:
    share = world.explore_share
    at_risk = {"max_share_at_risk": share} if share > TrafficPlan().max_share_at_risk else {}
    return {"explore_arms": world.explore_arms, "explore_share": share, **at_risk, "buckets": world.buckets}


def _table(name: str, values: Mapping[str, object]) -> str:
    return "\n".join(
        [
            f"[{name}]",
            *(f"{key} = {_value(value)}" for key, value in values.items() if value is not None and value is not False),
        ]
    )


def _metric(metric: Metric) -> str:
    more = "" if metric.denominator == BUCKETS else f", waiver = {_value(WAIVER)}"
    more += "" if metric.response == "immediate" else f", response = {_value(metric.response)}"
    ratio = f"numerator = {_value(metric.numerator)}, denominator = {_value(metric.denominator)}"
    return f"{metric.name} = {{ {ratio}{more} }}"


def _value(value: object) -> str:
    return json.dumps(value)  # for texts, numbers, booleans and lists of them TOML and JSON agree
