"""The space of weight vectors and its unit cube.

Notation: W weights (as the product knows them), d free weights (not fixed), u a point of the
unit cube (d,), theta a weight vector (W,).
"""

from typing import Literal

import msgspec


class Weight(msgspec.Struct, frozen=True):
    """One weight of the value model. A fixed weight stays at its baseline."""

    name: str
    low: float
    high: float
    baseline: float
    scale: Literal["linear", "log"] = "linear"
    fixed: bool = False
