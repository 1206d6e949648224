"""Every metric of a daemon: name, kind, labels, meaning. Dashboards, alerts and docs/metrics.md are made of it.

Units stand in names, as Prometheus writes them: `_seconds`, `_bytes`, `_ratio` (0.01 is 1 %), `_total` counts since the
daemon started. Every series has the label `study` besides. Ages are told on the daemon's clock: the wall, or the
events' own.
"""

from controller.metric_family import Family

_STEP_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10)
_DECISION_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_COMMIT_S = (0.001, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)

FAMILIES = (
    # what comes in
    Family("events", "counter", "Rows by what became of them", ("result",)),
    Family("events_rejected", "counter", "Rows that the decoder refused, by reason", ("reason",)),
    Family("unknown_components", "counter", "Rows with a component that the study does not use", ("component",)),
    Family("capped_events", "counter", "Rows with a value beyond its component's cap", ("component",)),
    Family("received_bytes", "counter", "Bytes of record values polled"),
    Family("lag_records", "gauge", "Records between the daemon's position and the end", ("partition",)),
    Family("watermark_timestamp_seconds", "gauge", "Event time that the stream has passed, s since the epoch"),
    Family("watermark_age_seconds", "gauge", "The daemon's clock less the watermark"),
    # windows
    Family("windows_open", "gauge", "Windows that are not sealed yet"),
    Family("windows_settled", "counter", "Windows settled: decided on"),
    Family("windows_amended", "counter", "Times that a poll changed a window already settled"),
    Family("windows_sealed", "counter", "Windows sealed: later rows of theirs are `trimtab_events_total`, expired"),
    # what it does to the traffic
    Family("stage", "gauge", "1 for the stage that the study is in", ("stage",)),
    Family("stage_age_seconds", "gauge", "How long it has been in it"),
    Family("awaiting_approval", "gauge", "1 while a confirmed vector waits for `trimtab approve`"),
    Family("arm_share_ratio", "gauge", "Share of the buckets that an arm has in the newest table", ("arm",)),
    Family("arm_events", "gauge", "Accepted events of an arm in the newest window decided on", ("arm",)),
    # what it knows
    Family(
        "relative_change_ratio",
        "gauge",
        "Relative change against control over all the deal, late rows foretold; of rare events, to the level before it",
        ("arm", "metric"),
    ),
    Family("relative_change_low_ratio", "gauge", "Lower end of its 95 % interval", ("arm", "metric")),
    Family("relative_change_high_ratio", "gauge", "Upper end of its 95 % interval", ("arm", "metric")),
    Family("guardrail_margin_ratio", "gauge", "Room under a guardrail; negative: broken", ("arm", "metric", "limit")),
    Family("guardrail_margin_low_ratio", "gauge", "Lower end of its 95 % interval", ("arm", "metric", "limit")),
    Family("guardrail_trips", "counter", "Guardrails that an arm broke surely enough to be stopped", ("metric",)),
    Family("guardrail_trip_age_seconds", "gauge", "Since the last trip, in earlier runs too; +Inf: never", ("metric",)),
    Family("expected_gain_ratio", "gauge", "Expected gain in the objective of the best vector known"),
    Family("expected_gain_sd_ratio", "gauge", "Its standard deviation"),
    Family("feasible_probability_ratio", "gauge", "P(the best vector known keeps every guardrail)"),
    Family("better_probability_ratio", "gauge", "P(the best vector known gains anything)"),
    Family("expected_regret_ratio", "gauge", "Expected gain of the best feasible vector over the best one known"),
    Family("carryover_ratio", "gauge", "How much of an arm's change its buckets keep in the next deal", ("metric",)),
    # decisions and their publication
    Family("decisions", "counter", "Decisions by outcome", ("outcome",)),
    Family("decision_seconds", "histogram", "Duration of a step that decided", (), _DECISION_S),
    Family("step_seconds", "histogram", "Duration of a step, decisions included", (), _STEP_S),
    Family("assignment_version", "gauge", "Version of the newest table"),
    Family("assignment_published_timestamp_seconds", "gauge", "When it was made, daemon's clock, s since the epoch"),
    Family("assignment_age_seconds", "gauge", "How long ago that was"),
    Family("assignment_remaining_seconds", "gauge", "How long clients may still serve it; +Inf: without end"),
    Family("assignment_pending", "gauge", "1 while the newest table has not reached Redis"),
    Family("publications", "counter", "Tables that Redis took"),
    Family("publish_failures", "counter", "Times that Redis did not answer or refused"),
    # the process
    Family("ready", "gauge", "1 while the daemon is ready"),
    Family("fault", "gauge", "1 while a part keeps the daemon from being ready", ("part",)),
    Family("journal_bytes", "gauge", "Size of the journal with its write-ahead log"),
    Family("journal_free_bytes", "gauge", "Room left on its file system"),
    Family("journal_commit_seconds", "histogram", "Duration of a transaction, with its flush", (), _COMMIT_S),
    Family("build", "info", "What is running", ("clock", "version", "code")),
)  # fmt: skip
BY_NAME = {family.name: family for family in FAMILIES}
