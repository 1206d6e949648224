"""The decision that is timed is a real one of the size that is claimed."""

import numpy as np

from benchmarks import decision
from controller.core.belief import believe
from controller.core.decide import decide


def test_the_past_is_of_the_size_that_is_claimed() -> None:
    study = decision.plan()
    experiment, seen = decision.past(study, 6)
    believed = believe(study, experiment, (), 6.0)
    assert believed.posterior.rows == 5 * decision.ARMS * decision.SEGMENTS
    assert len(believed.posterior.hypers) == decision.METRICS
    assert len(believed.posterior.baseline) == decision.WEIGHTS
    _, made = decide(study, experiment, seen, seen.end_ms, np.random.default_rng(0), True)
    assert made.outcome == "dealt"
    assert all(windows % study.stay_windows == 0 for windows in decision.LIMITS_S), "vectors would stay"
    assert made.changes is not None
    assert made.changes.change.shape == (decision.METRICS, decision.SEGMENTS + 1, decision.ARMS)
    assert "paused" not in made.why
    assert made.table is not None
