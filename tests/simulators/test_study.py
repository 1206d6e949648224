"""The study written for a world is sound, and fits it."""

from pathlib import Path

import msgspec
import pytest

from controller.core.safety import Guardrail
from controller.shell.config import load
from simulators.catalog import PRODUCTS
from simulators.handmade import FEED, QUICK, TENURE
from simulators.study import Services, mismatches, study_of, study_text
from simulators.worlds import World


@pytest.mark.parametrize("world", [product.world for product in PRODUCTS.values()], ids=list(PRODUCTS))
def test_the_study_of_a_world_says_what_the_world_is(world: World) -> None:
    study = study_of(world, seed=7)
    plan = study.plan
    assert (plan.study, plan.seed, plan.weights, plan.metrics) == (world.name, 7, world.weights, world.metrics)
    assert (plan.objective, plan.guardrails) == (world.objective, world.guardrails)
    assert (plan.segments, plan.buckets) == (tuple(world.segments), world.buckets)
    assert plan.traffic.explore_arms == world.explore_arms
    fixed = any(weight.fixed for weight in world.weights)
    assert ["fix one weight" in warning for warning in study.warnings] == ([] if fixed else [True])
    assert not mismatches(world, study)


def test_the_services_are_written_down(tmp_path: Path) -> None:
    path = tmp_path / "feed.toml"
    path.write_text(study_text(FEED, Services("kafka:1", "t", "redis://r:2/3", "deep/x.journal")))
    study = load(path)
    assert (study.kafka.bootstrap, study.kafka.topic, study.redis.url) == ("kafka:1", "t", "redis://r:2/3")
    assert study.journal == tmp_path / "deep/x.journal"


def test_a_limit_of_zero_is_kept() -> None:
    world = msgspec.structs.replace(FEED, guardrails=(Guardrail("hide_rate", max_change=0.0),))
    assert study_of(world).plan.guardrails == world.guardrails


def test_a_study_of_another_world_is_told_apart() -> None:
    found = "\n".join(mismatches(TENURE, study_of(FEED)))
    for part in ("no 'p_hide'", "no 'p_report'", "sends no 'shares'", "1000, where the world has 200"):
        assert part in found


def test_a_world_says_how_much_traffic_its_arms_get() -> None:
    usual, half = (study_of(w).plan.traffic for w in (QUICK, msgspec.structs.replace(QUICK, explore_share=0.5)))
    assert (usual.explore_share, usual.max_share_at_risk) == (0.32, 0.4)
    assert (half.explore_share, half.max_share_at_risk) == (0.5, 0.5)
