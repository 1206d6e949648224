"""Relative changes of a deal's arms against control, with their covariance."""

from typing import Literal

import msgspec

BUCKETS = "buckets"  # the denominator of a metric per assigned bucket


class Metric(msgspec.Struct, frozen=True):
    """A ratio of two components, or of a component to assigned buckets (denominator `buckets`)."""

    name: str
    numerator: str
    denominator: str
    response: Literal["immediate", "delayed"] = "immediate"
