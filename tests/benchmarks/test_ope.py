import json

import pytest

from benchmarks import ope


def test_every_log_has_three_estimates_near_what_the_target_earned(capsys: pytest.CaptureFixture[str]) -> None:
    assert ope.main(["--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert [line["estimator"] for line in lines[:3]] == ["ips", "snips", "dr"]
    for line in lines:
        assert abs(line["value"] - line["earned"]) < 4 * line["se"]
        assert line["theirs"] is None or line["theirs"] == pytest.approx(line["value"], rel=1e-12)
