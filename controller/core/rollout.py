"""Stages, their legal moves, and how traffic is dealt."""

import msgspec


class TrafficPlan(msgspec.Struct, frozen=True):
    """How much traffic may carry vectors that are not promoted."""

    explore_arms: int = 8
    explore_share: float = 0.32
    max_share_at_risk: float = 0.4


class RolloutPlan(msgspec.Struct, frozen=True):
    """When stages advance. Durations in ms of event time."""

    explore_min_ms: int
    explore_max_ms: int
    confirm_ms: int
    ramp_step_ms: int
    ramp_shares: tuple[float, ...] = (0.05, 0.25, 0.5, 0.95)
    confirm_alpha: float = 0.05
    require_approval: bool = False
