"""The simulated feed beside the real app, as a picture."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from simulators.feed.calibration import Figure

REAL, SIMULATED = "#5b7c99", "#d9822b"
PANELS = {
    "signals": "P(signal) of an impression",
    "pairs": "P(both signals) of an impression",
    "hourly volume": "share of the day's impressions, by hour",
    "hourly click rate": "click rate, by hour",
    "weekly volume": "impressions by weekday, over their mean",
    "return gap": "share of gaps between active days, by days",
}


def draw(made: list[Figure], path: Path) -> None:
    """Write a PNG (or what the ending says) of every group with more than a few figures."""
    figure, axes = plt.subplots(2, 3, figsize=(16, 9), constrained_layout=True)
    for (group, title), axis in zip(PANELS.items(), axes.flat, strict=True):
        _panel(axis, [each for each in made if each.group == group], group)
        axis.set_title(title, loc="left", fontsize=11)
    axes.flat[0].legend(frameon=False)
    held = sum(each.held for each in made)
    figure.suptitle(f"the simulated short-video feed beside KuaiRand: {held} of {len(made)} figures within tolerance")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis: Any, made: list[Figure], group: str) -> None:
    real, simulated = (np.array([getattr(each, side) for each in made]) for side in ("real", "simulated"))
    if group == "pairs":
        axis.loglog([real.min() / 2, real.max() * 2], [real.min() / 2, real.max() * 2], color="#bbbbbb", lw=1)
        axis.errorbar(real, simulated, [each.tolerance for each in made], fmt="o", color=SIMULATED, ms=5, lw=1)
        axis.set_xlabel("real")
        axis.set_ylabel("simulated (bar: tolerance)")
        return
    at = np.arange(len(made))
    if group in ("hourly click rate", "weekly volume"):  # differences of a few per cent: no bars from 0
        axis.plot(at, real, "o-", color=REAL, ms=5)
        axis.plot(at, simulated, "o-", color=SIMULATED, ms=5)
    else:
        axis.bar(at - 0.2, real, 0.4, color=REAL, label="real (KuaiRand)")
        axis.bar(at + 0.2, simulated, 0.4, color=SIMULATED, label="simulated")
    names = [each.name.removesuffix(" days").removesuffix("h") for each in made]
    axis.set_xticks(at, names, rotation=30 if group == "signals" else 0, fontsize=8)
    if group in ("signals", "return gap"):
        axis.set_yscale("log")
