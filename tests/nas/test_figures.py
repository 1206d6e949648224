from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas import figures
from nas.evolution import Evaluated, Rules, Sizes, front
from nas.space import SMALL, drawn


def network(index: int, loss: float, flops: float) -> Evaluated:
    return Evaluated(index, drawn(SMALL, np.random.default_rng(index)), loss, Sizes(flops, 10, None), 0, 0.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 20])
def test_all_of_a_front_is_seen(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [network(0, 0.9, 10.0), *(network(i, 0.5 + i / 1000, 1000.0 + i) for i in range(1, count))]
    drawings: list[Any] = []
    written = figures._written

    def kept(figure: Any, path: Path) -> None:
        drawings.append(figure)
        written(figure, path)

    monkeypatch.setattr(figures, "_written", kept)
    figures.draw_front(Rules(), found, tmp_path / "front.png")
    low, high = drawings[0].axes[0].get_ylim()
    assert all(low < one.loss < high for one in front(Rules(), found))
    assert found[0] in front(Rules(), found)
