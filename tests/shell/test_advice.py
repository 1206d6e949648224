"""What a journal says of its metrics: whose noise the objective has, which denominators move; or why nothing."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from controller.core.estimate import combined_se
from controller.core.evidence import deal_sums, served
from controller.shell.advice import advice, told
from controller.shell.config import Study, load
from controller.shell.journal import Journal
from controller.shell.publisher import MemoryPublisher
from controller.shell.recorder import Recorder
from simulators.study import study_of, study_text
from tests.core.loop import PLAN, Loop, Truth, pleasant
from tests.shell.loop import WORLD


@pytest.fixture
def study(tmp_path: Path) -> Study:
    plan = msgspec.structs.replace(PLAN, objective={"watch": 1.0, "ctr": 0.5})
    return msgspec.structs.replace(study_of(WORLD), plan=plan, journal=tmp_path / "hand.journal")


def shows_less(theta: tuple[float, ...], segment: str) -> dict[str, float]:
    return {"impressions": -0.2 * np.log10(theta[1])}


def recorded(study: Study, hours: int, truth: Truth = pleasant, brought: int = 3) -> Loop:
    """The study's journal with the state that so many hours lead to; events bring so many of the components."""
    loop = Loop(noise=0.05, truth=truth)
    for _ in range(hours):
        loop.window(lambda row: row._replace(values=(*row.values[:brought], 0.0, 0.0, 0.0)[:3]))
    with Journal.open(study.journal, study.plan.study) as journal:
        recorder, _ = Recorder.take_over(study.plan, journal, MemoryPublisher(), 0, "events")
        recorder.commit(loop.state, ())
    return loop


def test_the_terms_are_those_of_the_objective_and_make_its_error(study: Study) -> None:
    loop = recorded(study, 3)
    found = advice(study)
    noise = found.noise
    assert noise is not None
    assert found.moved == ()
    assert sum(noise.share.values()) == pytest.approx(1.0)
    assert noise.share["watch"] > noise.share["ctr"] > 0.02
    deal = loop.state.experiment.deals[noise.deal]
    cell = deal_sums(loop.state.experiment, loop.state.windows.cells, noise.deal)
    assert cell is not None
    assert noise.events == cell.events.sum()
    se = combined_se(np.array([1.0, 0.5]), PLAN.metrics, PLAN.component_names, served(deal, cell))
    assert noise.se == pytest.approx(np.sqrt(np.mean(se**2)))
    assert told(found)[0].startswith(f"the objective's noise: watch {noise.share['watch']:.0%}, ctr ")


def test_without_a_deal_it_says_so(study: Study) -> None:
    assert "is not known: there is no journal yet" in told(advice(study))[0]
    recorded(study, 0)
    assert advice(study).unknown == "no deal has had traffic yet"


@pytest.mark.parametrize(("brought", "named"), [(1, "watch, ctr"), (2, "watch"), (0, "watch, ctr")])
def test_deals_whose_events_lack_components_are_not_said_to_have_no_traffic(
    study: Study, brought: int, named: str
) -> None:
    recorded(study, 2, brought=brought)
    assert advice(study).unknown == f"no deal has measured {named} yet"


def test_a_ratio_whose_denominator_the_weights_move_is_flagged_and_the_other_form_offered(study: Study) -> None:
    """More p_watch shows less, and people click as often: ctr rises, and nobody has gained anything."""
    recorded(study, 3, shows_less)
    watch, ctr = advice(study).moved
    assert (watch.metric, ctr.metric, ctr.denominator) == ("watch", "ctr", "impressions")
    assert abs(ctr.change) > 3 * ctr.se
    assert ctr.offered == 'clicks_per_bucket = { numerator = "clicks", denominator = "buckets" }'
    said = told(advice(study))
    assert "the weights move what ctr is divided by: impressions per bucket" in said[2]


def test_a_journal_of_other_metrics_or_none_at_all_is_said_too(study: Study, tmp_path: Path) -> None:
    recorded(study, 1)
    other = tmp_path / "quick.toml"
    other.write_text(study_text(WORLD))
    assert "not of this study" in advice(msgspec.structs.replace(load(other), journal=study.journal)).unknown
    study.journal.write_bytes(b"no journal" * 100)
    assert str(study.journal) in advice(study).unknown
