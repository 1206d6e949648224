"""A guardrail in words."""

import pytest

from controller.core.safety import Guardrail
from controller.shell.limits import words


@pytest.mark.parametrize(
    ("rail", "said"),
    [
        (Guardrail("ctr", min_change=-0.01), "ctr may fall by at most 1 %"),
        (Guardrail("reports", max_change=0.05), "reports may rise by at most 5 %"),
        (Guardrail("clicks", min_change=0.01), "clicks must rise by at least 1 %"),
        (Guardrail("reports", max_change=-0.005), "reports must fall by at least 0.5 %"),
        (Guardrail("ctr", min_change=0.0), "ctr may not fall"),
        (Guardrail("reports", max_change=5), "reports may rise by at most 500 %"),
    ],
)
def test_each_side_of_a_limit_says_what_it_lets_through(rail: Guardrail, said: str) -> None:
    assert words(rail) == said
