"""The space of weight vectors and its unit cube.

Notation: W weights (as the product knows them), d free weights (not fixed), u a point of the
unit cube (d,), theta a weight vector (W,). A log-scaled weight is uniform in its logarithm.
"""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Weight(msgspec.Struct, frozen=True):
    """One weight of the value model. A fixed weight stays at its baseline."""

    name: str
    low: float
    high: float
    baseline: float
    scale: Literal["linear", "log"] = "linear"
    fixed: bool = False


class Space:
    """Maps weight vectors to the unit cube of the free ones, and back; leading axes are batches."""

    def __init__(self, weights: tuple[Weight, ...]) -> None:
        """`weights`: checked (low < high, 0 < low where log-scaled, the baseline inside), in the product's order."""
        self.baseline: Floats = np.array([weight.baseline for weight in weights])  # (W,)
        self.free = np.flatnonzero([not weight.fixed for weight in weights])  # (d,) positions in theta
        chosen = [weights[i] for i in self.free]
        self._log = np.array([weight.scale == "log" for weight in chosen], dtype=np.bool_)
        self._low: Floats = np.array([weight.low for weight in chosen], dtype=np.float64)
        self._high: Floats = np.array([weight.high for weight in chosen], dtype=np.float64)
        self._start, self._end = self._scaled(self._low), self._scaled(self._high)

    @property
    def d(self) -> int:
        """Free weights: the dimension of the unit cube."""
        return len(self.free)

    @property
    def baseline_unit(self) -> Floats:
        """(d,) where the baseline lies in the unit cube."""
        return self.to_unit(self.baseline)

    def to_unit(self, theta: Floats) -> Floats:
        """(..., W) weights to (..., d) points; weights outside their bounds map outside the cube."""
        return (self._scaled(theta[..., self.free]) - self._start) / (self._end - self._start)

    def to_theta(self, unit: Floats) -> Floats:
        """(..., d) points, clipped to the cube, to (..., W) weights; fixed weights stand at their baseline."""
        scaled = self._start + np.clip(unit, 0.0, 1.0) * (self._end - self._start)
        values = scaled.copy()
        values[..., self._log] = np.exp(scaled[..., self._log])
        theta = np.broadcast_to(self.baseline, (*unit.shape[:-1], len(self.baseline))).copy()
        theta[..., self.free] = np.clip(values, self._low, self._high)  # exp(log(high)) may exceed high
        return theta

    def _scaled(self, values: Floats) -> Floats:
        scaled = values.copy()
        scaled[..., self._log] = np.log(values[..., self._log])
        return scaled
