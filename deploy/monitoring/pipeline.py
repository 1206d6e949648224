"""The page of the data's way: from Kafka into windows, from decisions into Redis."""

from deploy.monitoring.panels import Dashboard, Panel, Row
from deploy.monitoring.queries import RATE, S, gauge, quantiles, rate, rise, told

_FAULTY = ((0, "no", "green"), (1, "yes", "red"))

_NOW = (
    Panel("Ready", "/readyz says why not", "number", gauge("ready"), "none", 4, 4,
          values=((0, "no", "red"), (1, "yes", "green"))),
    Panel("What is wrong", "The parts that keep it from being ready", "states", gauge("fault", "{{part}}"),
          "none", 8, 4, values=_FAULTY),
    Panel("Watermark age", "The daemon's clock less the event time that has passed", "number",
          gauge("watermark_age_seconds"), "s", 4, 4),
    Panel("Lag", "Records behind the end of the topic", "number", told("sum by (study) (trimtab_lag_records{})"),
          "short", 4, 4),
    Panel("Table valid for", "Then clients fall back by themselves", "number", gauge("assignment_remaining_seconds"),
          "s", 4, 4),
)  # fmt: skip

_IN = (
    Panel("Events", "By what became of them", "lines", rate("events", "result"), "ops"),
    Panel("Refused rows", "By reason; future: ahead of the daemon's clock", "lines", rate("events_rejected", "reason")
          + told(f'sum by (study) (rate(trimtab_events_total{{{S}, result="future"}}[{RATE}]))', "future"), "ops"),
    Panel("Bytes", "Of record values", "lines", rate("received_bytes"), "Bps"),
    Panel("Lag by partition", "One that stands out has a producer or broker of its own to ask", "lines",
          gauge("lag_records", "{{partition}}")),
    Panel("Watermark age over time", "", "lines", gauge("watermark_age_seconds"), "s"),
    Panel("Components that the study does not use", "Rows: a new name may be a mistake in a producer", "lines",
          rate("unknown_components", "component"), "ops"),
    Panel("Values beyond their cap", "Rows", "lines", rate("capped_events", "component"), "ops"),
    Panel("Windows", "Settled ones were decided on, sealed ones cannot change any more", "lines",
          rise("windows_settled", legend="settled") + rise("windows_sealed", legend="sealed")
          + rise("windows_amended", legend="amended")),
    Panel("Open windows", "They may still change", "lines", gauge("windows_open")),
)  # fmt: skip

_THROUGH = (
    Panel("Duration of a step", "", "lines", quantiles("step_seconds"), "s"),
    Panel("Duration of a decision", "", "lines", quantiles("decision_seconds"), "s"),
    Panel("Duration of a transaction", "A slow disk shows here", "lines", quantiles("journal_commit_seconds"), "s"),
    Panel("Journal", "With its write-ahead log", "lines", gauge("journal_bytes"), "bytes"),
    Panel("Room on the journal's disk", "The daemon ends when it is full", "lines", gauge("journal_free_bytes"),
          "bytes"),
    Panel("Processor", "Cores busy", "lines", told(f"rate(process_cpu_seconds_total{{}}[{RATE}])")),
    Panel("Memory", "Resident", "lines", told("process_resident_memory_bytes{}"), "bytes"),
    Panel("What runs", "", "table", gauge("build_info", "running"), "none", 16),
)  # fmt: skip

_OUT = (
    Panel("Publications", "Tables that Redis took, and times that it did not", "lines",
          rise("publications", legend="taken") + rise("publish_failures", legend="failures")),
    Panel("Age of the newest table", "", "lines", gauge("assignment_age_seconds"), "s"),
    Panel("The newest table waits for Redis", "", "states", gauge("assignment_pending"), "none", values=_FAULTY),
)  # fmt: skip

PIPELINE = Dashboard(
    "trimtab-pipeline",
    "Trimtab / Pipeline",
    "Whether data flows: from Kafka into windows, from decisions into Redis",
    (Row("Now", _NOW), Row("In", _IN), Row("Through", _THROUGH), Row("Out", _OUT)),
)
