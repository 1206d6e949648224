"""The plan of a study: everything a decision depends on besides what it has seen.

One frozen tree; each part is declared beside its user.
"""

import hashlib

import msgspec

from controller.assignment import Form
from controller.core.durations import HOUR_MS
from controller.core.estimate import Metric
from controller.core.events import Component, EventPlan
from controller.core.offline import Prediction
from controller.core.rollout import RolloutPlan, TrafficPlan
from controller.core.safety import Guardrail, SafetyPlan
from controller.core.space import Weight
from controller.core.windows import WindowPlan

MAX_ROWS = 600  # evidence that the posterior is conditioned on: the newest; bounds the cost of a decision
REACH_MS = 36 * HOUR_MS  # how far back it is to reach, where exploring lasts so long: what is older has faded


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A checked study, in ms and fractions.

    `objective` maps a metric to its coefficient; `objectives` are named ones, to see the trade-offs between.
    """

    study: str
    seed: int
    form: Form
    salt: str
    buckets: int
    window: WindowPlan
    segments: tuple[str, ...]
    components: tuple[Component, ...]
    weights: tuple[Weight, ...]
    metrics: tuple[Metric, ...]
    objective: dict[str, float]
    guardrails: tuple[Guardrail, ...]
    traffic: TrafficPlan
    rollout: RolloutPlan
    safety: SafetyPlan
    objectives: dict[str, dict[str, float]] = {}
    offline: tuple[Prediction, ...] = ()

    @property
    def events(self) -> EventPlan:
        """The part that the decoder needs."""
        return EventPlan(self.components, self.segments, self.salt, self.buckets)

    @property
    def component_names(self) -> tuple[str, ...]:
        """The components in the order of every sum's last axis."""
        return tuple(component.name for component in self.components)

    @property
    def stay_windows(self) -> int:
        """How many windows vectors that explore stay: as few as let the belief hold what exploring shows."""
        rows = max(len(self.segments), 1) * self.traffic.explore_arms  # of a deal
        reach_ms = min(self.rollout.explore_max_ms, REACH_MS)
        return max(1, -(-rows * reach_ms // (MAX_ROWS * self.window.length_ms)))

    @property
    def tested(self) -> frozenset[str]:
        """The metrics that a vector is tested by: those of the objective and of the guardrails."""
        return frozenset((*self.objective, *(guardrail.metric for guardrail in self.guardrails)))


def digest(plan: Plan) -> str:
    """SHA-256 of the plan's canonical JSON, as hexadecimal."""
    return hashlib.sha256(msgspec.json.encode(plan, order="sorted")).hexdigest()
