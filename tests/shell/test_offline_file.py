"""A file of predictions becomes part of the plan, or every line that is wrong is named."""

from pathlib import Path

import pytest

from controller.core.offline import MAX_VECTORS, Prediction
from controller.core.plan import digest
from controller.core.replan import differences, refused
from controller.shell.config import ConfigError, Study, load
from tests.shell.test_config import SMALL

SOUND = "p_like,metric,change,se\n2.5,watch,0.013,0.004\n2.5,ctr,-0.001,0.002\n0,watch,-0.02,0.004\n"


def read(folder: Path, text: str, study: str = SMALL) -> Study:
    (folder / "predictions.csv").write_text(text)
    path = folder / "feed.toml"
    path.write_text(study + '[offline]\npath = "predictions.csv"\n')
    return load(path)


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_rows_become_predictions_at_whole_vectors(tmp_path: Path) -> None:
    """The fixed weight has no column: it stands at its baseline."""
    plan = read(tmp_path, SOUND).plan
    assert plan.offline == (
        Prediction((1.0, 2.5), "watch", 0.013, 0.004),
        Prediction((1.0, 2.5), "ctr", -0.001, 0.002),
        Prediction((1.0, 0.0), "watch", -0.02, 0.004),
    )
    assert read(tmp_path, "\ufeff" + SOUND).plan.offline == plan.offline  # as spreadsheets write it


def test_predictions_are_part_of_the_digest_and_a_study_can_follow_new_ones(tmp_path: Path) -> None:
    before, after = read(tmp_path, SOUND).plan, read(tmp_path, SOUND.replace("0.013", "0.014")).plan
    assert digest(before) != digest(after)
    changed = differences(before, after)
    assert changed == ("offline[0].change: 0.013 before, 0.014 now",)
    assert refused(changed) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p_like,metric,change\n", "offline.path, line 1: found no column 'se'"),
        (SOUND.replace("p_like", "p_lke"), "offline.path, line 1: found a column 'p_lke'; accepted: one of"),
        ("p_like,p_like,metric,change,se\n", "offline.path, line 1: found the column 'p_like' twice"),
        (SOUND.replace("0.013", "1%"), 'offline.path, line 2, change: found "1%"'),
        (SOUND.replace("0.013", "nan"), 'offline.path, line 2, change: found "nan"'),
        (SOUND.replace("-0.001,0.002", "-0.001,0"), 'offline.path, line 3, se: found "0"'),
        (SOUND.replace("ctr", "crt"), 'offline.path, line 3, metric: found "crt"'),
        (SOUND.replace("\n0,", "\nmuch,"), 'offline.path, line 4, p_like: found "much"; accepted: a number'),
        ("p_click," + SOUND.replace("\n2.5", "\n3,2.5").replace("\n0", "\n1,0"), "offline.path, line 2, p_click"),
        (SOUND + "2,watch\n", "offline.path, line 5: found another number of fields"),
        (SOUND + "2.5,ctr,0,0.002\n", "offline.path: found a vector with the same metric twice"),
        ("p_like,metric,change,se\n", "offline.path: found a header without rows"),
        ("", "offline.path, line 1: found no column 'metric'"),
    ],
)
def test_what_is_wrong_is_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    found = mistakes(tmp_path, text)
    assert any(mistake.startswith(message) for mistake in found), found


def test_too_many_vectors_are_refused(tmp_path: Path) -> None:
    rows = "".join(f"{k / 10},watch,0,0.01\n" for k in range(MAX_VECTORS + 1))
    assert "101 weight vectors; accepted: at most 100" in mistakes(tmp_path, "p_like,metric,change,se\n" + rows)[0]


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "feed.toml"
    path.write_text(SMALL + '[offline]\npath = "none.csv"\n')
    with pytest.raises(ConfigError, match=r"offline.path: found no such file: .*none.csv"):
        load(path)
    (tmp_path / "none.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="a CSV file in UTF-8"):
        load(path)
