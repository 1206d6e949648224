"""The front from a journal, and a choice that a daemon carries out."""

from pathlib import Path

import msgspec
import pytest

from controller.core.operate import Command
from controller.shell import config, offers
from controller.shell.config import Study
from controller.shell.offers import NoSuchOffer, choice, offered
from controller.shell.recorder import PlanRefused
from controller.shell.story import current, moment
from controller.shell.story import lines as told
from controller.shell.verify import verify
from simulators.study import Services, study_text
from tests.core.loop import at_stage
from tests.shell.loop import START_MS, WORLD, World
from tests.shell.test_findings import journalled

NAMED = "\n[objectives.engagement]\nwatch = 1.0\n[objectives.traffic]\nctr = 2.0\n"


def study_at(folder: Path, text: str = NAMED) -> Study:
    path = folder / "quick.toml"
    path.write_text(study_text(WORLD, Services(bootstrap="127.0.0.1:1", redis_url="redis://127.0.0.1:1/0")) + text)
    return config.load(path)


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> tuple[World, Study]:
    """A world whose daemon has decided on four windows, knowing nothing of named objectives."""
    folder = tmp_path_factory.mktemp("explored")
    world = World(folder)
    rig = world.start()
    rig.settle()
    for _ in range(4):
        world.product.settle_window()
        rig.settle()
    rig.drop()
    return world, study_at(folder)


def test_objectives_that_were_only_just_named_have_a_front(explored: tuple[World, Study]) -> None:
    world, study = explored
    found = offered(study)
    assert found.decided_through_ms == world.table.decided_through_ms
    assert len(found.offers) >= 2
    assert set(found.offers[0].gain) == {"engagement", "traffic"}
    assert offered(study) == found
    text = offers.lines(study, found)
    assert "weights: " in text[0]
    assert f"decided through {moment(found.decided_through_ms)} UTC; " in text[0]
    assert sum(line.lstrip().startswith(offer.label) for offer in found.offers for line in text) == len(found.offers)


def test_a_number_or_a_label_names_a_point(explored: tuple[World, Study]) -> None:
    _, study = explored
    second = offered(study).offers[1]
    for name in ("2", second.label):
        assert choice(study, name, "me", "growth") == Command("choose", "me", "growth", second.theta, second.objective)
    assert choice(study, "file", "me", "") == Command("choose", "me")


@pytest.mark.parametrize("name", ["0", "99", "2.zzzz", "now", ""])
def test_a_point_that_is_not_there_is_refused_with_those_that_are(explored: tuple[World, Study], name: str) -> None:
    """A label of an older front too: its vector is not the one that was seen."""
    _, study = explored
    with pytest.raises(NoSuchOffer, match=r"has no point .* it has 1\.[0-9a-f]{4}, 2\."):
        choice(study, name, "me", "")


def test_before_the_first_decision_there_is_nothing_to_choose_from(tmp_path: Path) -> None:
    rig = World(tmp_path).start()
    rig.settle()
    with pytest.raises(NoSuchOffer, match="nothing was decided yet"):
        offered(study_at(tmp_path))
    rig.drop()


def test_a_study_file_that_the_journal_cannot_follow_is_named(explored: tuple[World, Study]) -> None:
    _, study = explored
    changed = msgspec.structs.replace(study, plan=msgspec.structs.replace(study.plan, seed=5))
    with pytest.raises(PlanRefused, match="seed: 0 before, 5 now"):
        offered(changed)


def test_a_choice_is_carried_out_told_and_made_again(tmp_path: Path, one_thread: None) -> None:
    world = World(tmp_path)
    study = study_at(tmp_path)
    rig = world.start()
    rig.settle()
    for _ in range(4):
        world.product.settle_window()
        rig.settle()
    last = offered(study).offers[-1]
    rig.journal.send(choice(study, last.label, "me", "growth"), START_MS)
    rig.turn()
    found = current(world.path)
    assert found["stage"] == "confirm"
    assert found["candidate"]["theta"] == {name: list(row) for name, row in last.theta.items()}
    assert found["objective"] == last.objective
    assert any(line.startswith("objective by an operator's choice: ") for line in told(found))
    name = found["candidate"]["arm"]
    assert offers.at_stake(study) == f"{name}, in its confirm test", "no traffic before the next decision"
    for _ in range(2):
        world.product.settle_window()
        rig.settle()
    stake = offers.at_stake(study)
    assert stake == f"{name}, in its confirm test at 20%"
    assert f"now: {stake}; choosing ends that" in offers.lines(study, offered(study), stake)
    assert [arm.role for arm in world.table.arms][:2] == ["control", "candidate"]
    after = offered(study)
    assert after.now is not None
    assert after.now.theta == last.theta
    assert [line for line in offers.lines(study, after) if "; chosen for " in line] == [offers.lines(study, after)[-2]]
    rig.drop()
    verdict = verify(world.path)
    assert verdict.ok, verdict


@pytest.mark.parametrize(
    ("stage", "told"), [("explore", ""), ("confirm", "in its confirm test"), ("ramp", "confirmed, in ramp at "),
                        ("hold", "promoted, held at ")],
)  # fmt: skip
def test_what_a_choice_ends_is_told(tmp_path: Path, stage: str, told: str) -> None:
    loop, study = at_stage(stage), study_at(tmp_path)
    journalled(loop, study.journal)
    stake = offers.at_stake(study)
    assert stake.startswith(f"{loop.carry.candidate.arm}, {told}" if told else "")
    assert bool(stake) == bool(told)


def test_what_a_choice_does_is_told(tmp_path: Path) -> None:
    study = study_at(tmp_path)
    theta = {"all": tuple(weight.low for weight in study.plan.weights)}
    chosen = Command("choose", "me", "", theta, {"watch": 1.0, "ctr": 0.3})
    vector = ", ".join(f"{weight.name} {weight.low:.4g}" for weight in study.plan.weights)
    tested = f"puts to the test: all ({vector}), for +1 watch +0.3 ctr"
    assert offers.consequences(study, chosen, "c3, confirmed, in ramp at 50%") == [
        "ends: c3, confirmed, in ramp at 50%",
        tested,
    ]
    assert offers.consequences(study, chosen, "") == [tested]
    assert offers.consequences(study, Command("choose", "me"), "") == ["goes on under the study file's own objective"]
