import pytest

from controller.core.durations import written
from controller.shell.toml_records import parse_duration


@pytest.mark.parametrize("text", ["2m", "40s", "1h30m", "250ms", "1d12h", "0s", "366d", "1h26m40s"])
def test_a_duration_is_told_as_it_would_be_written(text: str) -> None:
    assert written(parse_duration(text)) == text
