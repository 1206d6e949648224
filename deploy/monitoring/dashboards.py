"""The three pages: what a study does and why, whether data flows, what clients serve."""

from deploy.monitoring.panels import Dashboard, Panel, Query, Row, S

RATE = "$__rate_interval"
GOOD_BAD = ((0, "no", "green"), (1, "yes", "red"))
UP_DOWN = ((0, "no", "red"), (1, "yes", "green"))
BROKEN_BELOW_0 = ((None, "red"), (0.0, "green"))
ALARM_ABOVE_0 = ((None, "green"), (1e-9, "orange"))


def _quantiles(metric: str) -> tuple[Query, ...]:
    return tuple(
        Query(f"histogram_quantile({q}, sum by (study, le) (rate({metric}_bucket{{{S}}}[{RATE}])))", f"p{100 * q:g}")
        for q in (0.5, 0.99)
    )


STUDY = Dashboard(
    "trimtab-study",
    "Trimtab / Study",
    "What the controller is doing to live traffic, and why",
    (
        Row(
            "Now",
            (
                Panel("Stage", "Where the study stands; `trimtab status` says why", "name",
                      (Query(f"trimtab_stage{{{S}}} == 1", "{{stage}}"),), "none", 4, 4),
                Panel("In it for", "On the daemon's clock", "number",
                      (Query(f"trimtab_stage_age_seconds{{{S}}}"),), "s", 4, 4),
                Panel("Waits for approval", "Say `trimtab approve`, or let it wait", "number",
                      (Query(f"trimtab_awaiting_approval{{{S}}}"),), "none", 4, 4,
                      ((None, "text"),), ((0, "no", "text"), (1, "yes", "orange"))),
                Panel("Expected gain", "In the objective, of the best vector known", "number",
                      (Query(f"trimtab_expected_gain_ratio{{{S}}}"),), "percentunit", 4, 4),
                Panel("P(feasible)", "That this vector keeps every guardrail", "number",
                      (Query(f"trimtab_feasible_probability_ratio{{{S}}}"),), "percentunit", 4, 4,
                      ((None, "orange"), (0.6, "green"))),
                Panel("Guardrails tripped", "In the time shown", "number",
                      (Query(f"sum by (study) (increase(trimtab_guardrail_trips_total{{{S}}}[$__range]))"),), "short", 4, 4,
                      ALARM_ABOVE_0),
            ),
        ),
        Row(
            "What it does",
            (
                Panel("Stage over time", "", "states", (Query(f"trimtab_stage{{{S}}}", "{{stage}}"),), "none", 12, 8,
                      ((None, "text"),), ((0, "", "transparent"), (1, "here", "blue"))),
                Panel("Traffic by arm", "Share of the buckets in the newest table", "stacked",
                      (Query(f"trimtab_arm_share_ratio{{{S}}}", "{{arm}}"),), "percentunit", 12, 8),
                Panel("Events by arm", "Accepted, in the newest window decided on", "bars",
                      (Query(f"trimtab_arm_events{{{S}}}", "{{arm}}"),), "short", 8, 8),
                Panel("Decisions", "By outcome", "stacked",
                      (Query(f"sum by (outcome) (increase(trimtab_decisions_total{{{S}}}[{RATE}]))", "{{outcome}}"),), "short", 8, 8),
                Panel("Guardrails tripped", "By metric", "stacked",
                      (Query(f"sum by (metric) (increase(trimtab_guardrail_trips_total{{{S}}}[{RATE}]))", "{{metric}}"),),
                      "short", 8, 8),
            ),
        ),
        Row(
            "Why",
            (
                Panel("Relative change against control", "Of the deal decided on last, with 95 % intervals", "table",
                      (Query(f"trimtab_relative_change_low_ratio{{{S}}}", "low"), Query(f"trimtab_relative_change_ratio{{{S}}}", "change"),
                       Query(f"trimtab_relative_change_high_ratio{{{S}}}", "high")), "percentunit", 12, 10),
                Panel("Room under the guardrails", "Negative: broken; a low end below 0 may still be chance", "table",
                      (Query(f"trimtab_guardrail_margin_low_ratio{{{S}}}", "low"), Query(f"trimtab_guardrail_margin_ratio{{{S}}}", "margin")),
                      "percentunit", 12, 10, BROKEN_BELOW_0),
                Panel("Least room under each guardrail", "Over all arms", "lines",
                      (Query(f"min by (metric, limit) (trimtab_guardrail_margin_ratio{{{S}}})", "{{metric}} {{limit}}"),),
                      "percentunit", 12, 8, BROKEN_BELOW_0),
                Panel("Relative change over time", "Largest and smallest over the arms", "lines",
                      (Query(f"max by (metric) (trimtab_relative_change_ratio{{{S}}})", "{{metric}} max"),
                       Query(f"min by (metric) (trimtab_relative_change_ratio{{{S}}})", "{{metric}} min")), "percentunit", 12, 8),
                Panel("Expected gain over time", "With its 95 % interval", "lines",
                      (Query(f"trimtab_expected_gain_ratio{{{S}}}", "gain"),
                       Query(f"trimtab_expected_gain_ratio{{{S}}} - 1.96 * trimtab_expected_gain_sd_ratio{{{S}}}", "low"),
                       Query(f"trimtab_expected_gain_ratio{{{S}}} + 1.96 * trimtab_expected_gain_sd_ratio{{{S}}}", "high")),
                      "percentunit", 12, 8),
                Panel("What is left to find", "Expected gain of the best feasible vector over the best one known", "lines",
                      (Query(f"trimtab_expected_regret_ratio{{{S}}}", "regret"),), "percentunit", 6, 8),
                Panel("Probabilities", "Of the best vector known", "lines",
                      (Query(f"trimtab_feasible_probability_ratio{{{S}}}", "feasible"),
                       Query(f"trimtab_better_probability_ratio{{{S}}}", "better")), "percentunit", 6, 8),
                Panel("Carry-over", "How much of an arm's change its buckets keep in the next deal", "lines",
                      (Query(f"trimtab_carryover_ratio{{{S}}}", "{{metric}}"),), "percentunit", 12, 7),
            ),
        ),
    ),
)  # fmt: skip

PIPELINE = Dashboard(
    "trimtab-pipeline",
    "Trimtab / Pipeline",
    "Whether data flows: from Kafka into windows, from decisions into Redis",
    (
        Row(
            "Now",
            (
                Panel("Ready", "/readyz says why not", "number", (Query(f"trimtab_ready{{{S}}}"),), "none", 4, 4,
                      ((None, "text"),), UP_DOWN),
                Panel("What is wrong", "The parts that keep it from being ready", "states",
                      (Query(f"trimtab_fault{{{S}}}", "{{part}}"),), "none", 8, 4, ((None, "text"),), GOOD_BAD),
                Panel("Watermark age", "The daemon's clock less the event time that has passed", "number",
                      (Query(f"trimtab_watermark_age_seconds{{{S}}}"),), "s", 4, 4),
                Panel("Lag", "Records behind the end of the topic", "number",
                      (Query(f"sum by (study) (trimtab_lag_records{{{S}}})"),), "short", 4, 4),
                Panel("Table valid for", "Then clients fall back by themselves", "number",
                      (Query(f"trimtab_assignment_remaining_seconds{{{S}}}"),), "s", 4, 4),
            ),
        ),
        Row(
            "In",
            (
                Panel("Events", "By what became of them", "lines",
                      (Query(f"sum by (result) (rate(trimtab_events_total{{{S}}}[{RATE}]))", "{{result}}"),), "ops"),
                Panel("Refused rows", "By reason", "lines",
                      (Query(f"sum by (reason) (rate(trimtab_events_rejected_total{{{S}}}[{RATE}]))", "{{reason}}"),), "ops"),
                Panel("Bytes", "Of record values", "lines",
                      (Query(f"sum by (study) (rate(trimtab_received_bytes_total{{{S}}}[{RATE}]))"),), "Bps"),
                Panel("Lag by partition", "One that stands out has a producer or broker of its own to ask", "lines",
                      (Query(f"trimtab_lag_records{{{S}}}", "{{partition}}"),), "short"),
                Panel("Watermark age over time", "", "lines", (Query(f"trimtab_watermark_age_seconds{{{S}}}"),), "s"),
                Panel("Components that the study does not use", "Rows: a new name may be a mistake in a producer", "lines",
                      (Query(f"sum by (component) (rate(trimtab_unknown_components_total{{{S}}}[{RATE}]))", "{{component}}"),), "ops"),
                Panel("Values beyond their cap", "Rows", "lines",
                      (Query(f"sum by (component) (rate(trimtab_capped_events_total{{{S}}}[{RATE}]))", "{{component}}"),), "ops"),
                Panel("Windows", "Settled ones were decided on, sealed ones cannot change any more", "lines",
                      (Query(f"increase(trimtab_windows_settled_total{{{S}}}[{RATE}])", "settled"),
                       Query(f"increase(trimtab_windows_sealed_total{{{S}}}[{RATE}])", "sealed"),
                       Query(f"increase(trimtab_windows_amended_total{{{S}}}[{RATE}])", "amended"))),
                Panel("Open windows", "They may still change", "lines", (Query(f"trimtab_windows_open{{{S}}}"),)),
            ),
        ),
        Row(
            "Through",
            (
                Panel("Duration of a step", "", "lines", _quantiles("trimtab_step_seconds"), "s"),
                Panel("Duration of a decision", "", "lines", _quantiles("trimtab_decision_seconds"), "s"),
                Panel("Duration of a transaction", "A slow disk shows here", "lines", _quantiles("trimtab_journal_commit_seconds"), "s"),
                Panel("Journal", "With its write-ahead log", "lines", (Query(f"trimtab_journal_bytes{{{S}}}"),), "bytes"),
                Panel("Room on the journal's disk", "The daemon ends when it is full", "lines",
                      (Query(f"trimtab_journal_free_bytes{{{S}}}"),), "bytes"),
                Panel("Processor", "Cores busy", "lines",
                      (Query(f"rate(process_cpu_seconds_total{{{S}}}[{RATE}])"),), "short"),
                Panel("Memory", "Resident", "lines", (Query(f"process_resident_memory_bytes{{{S}}}"),), "bytes"),
                Panel("What runs", "", "table", (Query(f"trimtab_build_info{{{S}}}", "running"),), "none", 16),
            ),
        ),
        Row(
            "Out",
            (
                Panel("Publications", "Tables that Redis took, and times that it did not", "lines",
                      (Query(f"increase(trimtab_publications_total{{{S}}}[{RATE}])", "taken"),
                       Query(f"increase(trimtab_publish_failures_total{{{S}}}[{RATE}])", "failures"))),
                Panel("Age of the newest table", "", "lines", (Query(f"trimtab_assignment_age_seconds{{{S}}}"),), "s"),
                Panel("The newest table waits for Redis", "", "states", (Query(f"trimtab_assignment_pending{{{S}}}"),), "none", 8, 7,
                      ((None, "text"),), GOOD_BAD),
            ),
        ),
    ),
)  # fmt: skip

SERVING = Dashboard(
    "trimtab-serving",
    "Trimtab / Serving",
    "What recommenders serve by (controller.serving_metrics in each of them)",
    (
        Row(
            "Now",
            (
                Panel("Clients", "That were scraped", "number", (Query(f"count by (study) (trimtab_serving_running{{{S}}})"),), "short", 6, 4),
                Panel("Connected", "To Redis", "number", (Query(f"sum by (study) (trimtab_serving_connected{{{S}}})"),), "short", 6, 4),
                Panel("On an expired table", "They serve the fallback arm", "number",
                      (Query(f"sum by (study) (trimtab_serving_table_expired{{{S}}})"),), "short", 6, 4, ALARM_ABOVE_0),
                Panel("Newest table held", "Version", "number", (Query(f"max by (study) (trimtab_serving_table_version{{{S}}})"),), "none", 6, 4),
            ),
        ),
        Row(
            "Tables",
            (
                Panel("Versions behind the daemon", "Of each client", "lines",
                      (Query(f"max by (study) (trimtab_assignment_version{{{S}}}) - on (study) group_right () trimtab_serving_table_version{{{S}}}",
                             "{{instance}}"),)),
                Panel("Age of the table held", "", "lines", (Query(f"trimtab_serving_table_age_seconds{{{S}}}", "{{instance}}"),), "s"),
                Panel("Tables that came", "Refused ones are broken, or of no use to the client", "lines",
                      (Query(f"sum by (result) (rate(trimtab_serving_tables_total{{{S}}}[{RATE}]))", "{{result}}"),), "ops"),
                Panel("Key absent", "Times that Redis had no table", "lines",
                      (Query(f"increase(trimtab_serving_missing_total{{{S}}}[{RATE}])", "{{instance}}"),)),
                Panel("Failed reads", "Of Redis", "lines",
                      (Query(f"rate(trimtab_serving_read_failures_total{{{S}}}[{RATE}])", "{{instance}}"),), "ops"),
                Panel("Follower thread", "Dead after a fork: construct the client after it", "states",
                      (Query(f"trimtab_serving_running{{{S}}}", "{{instance}}"),), "none", 8, 7, ((None, "text"),), UP_DOWN),
            ),
        ),
        Row(
            "Units",
            (
                Panel("Served without a valid table", "They echo version 0 and teach nothing", "lines",
                      (Query(f"rate(trimtab_serving_fallback_units_total{{{S}}}[{RATE}])", "{{instance}}"),), "ops", 12),
                Panel("Unusable", "Units or segments of a wrong type", "lines",
                      (Query(f"rate(trimtab_serving_unusable_units_total{{{S}}}[{RATE}])", "{{instance}}"),), "ops", 12),
            ),
        ),
    ),
)  # fmt: skip

DASHBOARDS = (STUDY, PIPELINE, SERVING)
