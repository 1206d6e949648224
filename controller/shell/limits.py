"""A guardrail's limit in words, so that a fraction that was meant as a percentage is seen."""

from controller.core.safety import Guardrail


def words(rail: Guardrail) -> str:
    """What it lets a metric do: "ctr may fall by at most 1 %", "clicks must rise by at least 1 %"."""
    hurts, wish = ("fall", "rise") if rail.min_change is not None else ("rise", "fall")
    if rail.limit == 0:
        return f"{rail.metric} may not {hurts}"
    if rail.borne != rail:
        return f"{rail.metric} must {wish} by at least {percent(rail.limit)}"
    return f"{rail.metric} may {hurts} by at most {percent(rail.limit)}"


def percent(change: float) -> str:
    """The size of a relative change."""
    return f"{100 * abs(change):.4g} %"
