from pathlib import Path

import pytest

from nas.atomic import replaced


def test_a_file_is_as_before_until_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text("before")

    def killed() -> None:
        with replaced(path) as part:
            part.write_text("half of wh")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert path.read_text() == "before"
    with replaced(path) as part:
        part.write_text("whole")
        assert path.read_text() == "before"
    assert path.read_text() == "whole"
