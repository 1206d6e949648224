"""Guardrails, time-uniform sequences, sample-ratio and attribution checks."""

import msgspec


class Guardrail(msgspec.Struct, frozen=True):
    """A limit on a metric's relative change, in the direction that hurts: exactly one of the two is set.

    `min_change`: the change must stay at or above it (a loss limit, e.g. -0.005).
    `max_change`: the change must stay at or below it (e.g. reports, +0.01).
    """

    metric: str
    min_change: float | None = None
    max_change: float | None = None


class SafetyPlan(msgspec.Struct, frozen=True):
    """Error budgets and alarm limits."""

    risk: float = 0.25  # largest P(a guardrail is broken) of a vector that exploration may deal
    stop_alpha: float = 0.01  # P(a harmless vector is ever stopped) in confirm and ramp, per vector
    breaker_change: float = -0.3  # a change that surely hurts by more than this trips the breaker within a window
    misattributed_share: float = 0.02  # of the attributed events of a window: above it the study freezes
    rejected_share: float = 0.2  # of a window's events: above it the study freezes
    srm_alpha: float = 1e-6  # sample-ratio mismatch, per window
    unit_sample: float = 0.0625  # share of units (by hash) that the sample-ratio check counts
