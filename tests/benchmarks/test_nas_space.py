"""Networks made by hand and drawn, in seconds: a second call prints the same and trains nothing."""

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch", reason="pip install 'trimtab[nas]'")

from benchmarks import nas_space
from benchmarks._nas_scale import MIDDLE
from nas.genotype import Genotype
from nas.space import NASREC, misfits

TINY = msgspec.structs.replace(MIDDLE, hours=2, requests_per_hour=600.0, rows=512)


def test_a_second_call_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nas_space, "MIDDLE", TINY)
    arguments = ["--out", str(tmp_path), "--drawn", "1", "--json"]
    assert nas_space.main(arguments) == 0
    printed = capsys.readouterr().out
    names = [line.name for line in msgspec.json.decode(printed, type=list[nas_space.Line])]
    assert names == [*nas_space.made(), "drawn from this space, 0", "drawn from NASRec's, 0"]
    assert nas_space.main([*arguments, "--minutes", "0"]) == 0
    assert capsys.readouterr().out == printed


def test_what_is_drawn_from_nasrecs_space_has_none_of_ours() -> None:
    old = nas_space.SPACES["drawn from NASRec's"]
    assert all(getattr(old, name) == getattr(NASREC, name) for name in ("dense", "sparse", "mergers", "numeric"))
    imitations = [net for net in nas_space.made().values() if isinstance(net, Genotype)]
    assert len(imitations) == 8
    assert all(misfits(net, old) for net in imitations)
