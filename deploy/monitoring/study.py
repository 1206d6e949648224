"""The page of one study: what the controller is doing to live traffic, and why."""

from deploy.monitoring.panels import Dashboard, Panel, Row
from deploy.monitoring.queries import gauge, rise, told

_BROKEN_BELOW_0 = ((None, "red"), (0.0, "green"))
_GAIN, _SD = "trimtab_expected_gain_ratio{}", "trimtab_expected_gain_sd_ratio{}"

_NOW = (
    Panel("Stage", "Where the study stands; `trimtab status` says why", "name",
          told("trimtab_stage{} == 1", "{{stage}}"), "none", 4, 4),
    Panel("In it for", "On the daemon's clock", "number", gauge("stage_age_seconds"), "s", 4, 4),
    Panel("Waits for approval", "Say `trimtab approve`, or let it wait", "number", gauge("awaiting_approval"),
          "none", 4, 4, values=((0, "no", "text"), (1, "yes", "orange"))),
    Panel("Expected gain", "In the objective, of the best vector known", "number", gauge("expected_gain_ratio"),
          "percentunit", 4, 4),
    Panel("P(feasible)", "That this vector keeps every guardrail", "number", gauge("feasible_probability_ratio"),
          "percentunit", 4, 4, ((None, "orange"), (0.6, "green"))),
    Panel("Guardrails tripped", "In the time shown", "number",
          told("sum by (study) (increase(trimtab_guardrail_trips_total{}[$__range]))"), "short", 4, 4,
          ((None, "green"), (1e-9, "orange"))),
)  # fmt: skip

_WHAT = (
    Panel("Stage over time", "", "states", gauge("stage", "{{stage}}"), "none", 12, 8,
          values=((0, "", "transparent"), (1, "here", "blue"))),
    Panel("Traffic by arm", "Share of the buckets in the newest table", "stacked", gauge("arm_share_ratio", "{{arm}}"),
          "percentunit", 12, 8),
    Panel("Events by arm", "Accepted, in the newest window decided on", "bars", gauge("arm_events", "{{arm}}"),
          "short", 6, 8),
    Panel("Decisions", "By outcome", "stacked", rise("decisions", "outcome"), "short", 6, 8),
    Panel("Guardrails tripped by metric", "", "stacked", rise("guardrail_trips", "metric"), "short", 6, 8),
    Panel("Since the last trip", "Of each guardrail, on the daemon's clock", "lines",
          gauge("guardrail_trip_age_seconds", "{{metric}}"), "s", 6, 8),
)  # fmt: skip

_WHY = (
    Panel("Relative change against control", "Of the deal decided on last, with 95 % intervals", "table",
          gauge("relative_change_low_ratio", "low") + gauge("relative_change_ratio", "change")
          + gauge("relative_change_high_ratio", "high"), "percentunit", 12, 10),
    Panel("Room under the guardrails", "Negative: broken; a low end below 0 may still be chance", "table",
          gauge("guardrail_margin_low_ratio", "low") + gauge("guardrail_margin_ratio", "margin"),
          "percentunit", 12, 10, _BROKEN_BELOW_0),
    Panel("Least room under each guardrail", "Over all arms", "lines",
          told("min by (metric, limit) (trimtab_guardrail_margin_ratio{})", "{{metric}} {{limit}}"),
          "percentunit", 12, 8, _BROKEN_BELOW_0),
    Panel("Relative change over time", "Largest and smallest over the arms", "lines",
          told("max by (metric) (trimtab_relative_change_ratio{})", "{{metric}} max")
          + told("min by (metric) (trimtab_relative_change_ratio{})", "{{metric}} min"), "percentunit", 12, 8),
    Panel("Expected gain over time", "With its 95 % interval", "lines",
          told(_GAIN, "gain") + told(f"{_GAIN} - 1.96 * {_SD}", "low") + told(f"{_GAIN} + 1.96 * {_SD}", "high"),
          "percentunit", 12, 8),
    Panel("What is left to find", "Expected gain of the best feasible vector over the best one known", "lines",
          gauge("expected_regret_ratio", "regret"), "percentunit", 6, 8),
    Panel("Probabilities", "Of the best vector known", "lines",
          gauge("feasible_probability_ratio", "feasible") + gauge("better_probability_ratio", "better"),
          "percentunit", 6, 8),
    Panel("Carry-over", "How much of an arm's change its buckets keep in the next deal", "lines",
          gauge("carryover_ratio", "{{metric}}"), "percentunit", 12),
)  # fmt: skip

STUDY = Dashboard(
    "trimtab-study",
    "Trimtab / Study",
    "What the controller is doing to live traffic, and why",
    (Row("Now", _NOW), Row("What it does", _WHAT), Row("Why", _WHY)),
    one_study=True,
)
