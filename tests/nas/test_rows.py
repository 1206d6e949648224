import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.rows import mapped, shuffled
from nas.schema import DataError
from tests.nas.files import parts


@pytest.mark.parametrize(("name", "more"), [("labels", 8), ("labels", -8), ("bag0", -1)])
def test_a_file_of_another_length_than_its_rows_is_refused(name: str, more: int, tmp_path: Path) -> None:
    parts(tmp_path, rows=300)
    path = tmp_path / "prepared" / "train" / f"{name}.bin"
    size = path.stat().st_size
    os.truncate(path, size + more)
    with pytest.raises(DataError, match=rf"{name}\.bin: found {size + more:,} bytes; expected {size:,}, for .* rows"):
        mapped(tmp_path / "prepared" / "train")


@given(rows=st.integers(1, 300), batch=st.integers(1, 80), epoch=st.integers(0, 3))
def test_an_epoch_is_every_row_once_and_can_be_entered_midway(rows: int, batch: int, epoch: int) -> None:
    batches = list(shuffled(rows, batch, 7, epoch))
    seen = np.concatenate(batches)
    assert len(np.unique(seen)) == len(seen) == rows - rows % min(batch, rows)
    later = list(shuffled(rows, batch, 7, epoch, skip=2 * min(batch, rows)))
    assert [b.tolist() for b in later] == [b.tolist() for b in batches[2:]]
