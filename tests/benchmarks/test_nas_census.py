"""Census-Income over folds: what is found in a folder is compared; nothing is trained twice."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="pip install 'trimtab[nas]'")

from benchmarks._nas_census import LABELS
from benchmarks.nas_census import FOLDS, LIGHTGBM, MODELS, Fold, main

GAIN = {"dnn": 0.0, LIGHTGBM: 0.01}


def test_gaps_are_paired_over_folds_and_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIMTAB_DATA", str(tmp_path / "nowhere"))
    rng = np.random.default_rng(0)
    for fold in range(FOLDS):
        losses, area = rng.exponential(0.2, 50), 0.9 + 0.02 * rng.random()  # a fold is as hard for all
        for heads, models in MODELS.items():
            found = [
                Fold(model, head, area + GAIN.get(model, 0.005), (losses - GAIN.get(model, 0.005)).tolist())
                for model in (*models, LIGHTGBM)
                for head in (LABELS if heads == "both" else (heads,))
            ]
            (tmp_path / f"{heads}-{fold}.json").write_bytes(msgspec.json.encode(found))
    assert main(["--out", str(tmp_path), "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert len(lines) == sum(len(models) + 1 for models in MODELS.values()) + len(MODELS["both"]) + 1
    for line in lines:
        if line["model"] == "dnn":
            assert line["auc_gap"] is None
        else:
            gain = GAIN.get(line["model"], 0.005)
            assert line["auc_gap"]["mean"] == pytest.approx(gain)
            assert line["auc_gap"]["high"] - line["auc_gap"]["low"] < 1e-6
            assert line["logloss_gap"]["mean"] == pytest.approx(-gain)


def test_the_folder_of_the_data_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIMTAB_DATA", raising=False)
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path)])
