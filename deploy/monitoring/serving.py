"""The page of the clients: what recommenders serve by."""

from deploy.monitoring.panels import Dashboard, Panel, Row
from deploy.monitoring.queries import RATE, gauge, rate, told

_EACH = "{{instance}}"
_BEHIND = "max by (study) (trimtab_assignment_version{}) - on (study) group_right () trimtab_serving_table_version{}"

_NOW = (
    Panel("Clients", "That were scraped", "number", told("count by (study) (trimtab_serving_running{})"),
          "short", 6, 4),
    Panel("Connected", "To Redis", "number", told("sum by (study) (trimtab_serving_connected{})"), "short", 6, 4),
    Panel("On an expired table", "They serve the fallback arm", "number",
          told("sum by (study) (trimtab_serving_table_expired{})"), "short", 6, 4,
          ((None, "green"), (1e-9, "orange"))),
    Panel("Newest table held", "Version", "number", told("max by (study) (trimtab_serving_table_version{})"),
          "none", 6, 4),
)  # fmt: skip

_TABLES = (
    Panel("Versions behind the daemon", "Of each client", "lines", told(_BEHIND, _EACH)),
    Panel("Age of the table held", "", "lines", gauge("serving_table_age_seconds", _EACH), "s"),
    Panel("Tables that came", "Refused ones are broken, or of no use to the client", "lines",
          rate("serving_tables", "result"), "ops"),
    Panel("Key absent", "Times that Redis had no table", "lines",
          told(f"increase(trimtab_serving_missing_total{{}}[{RATE}])", _EACH)),
    Panel("Failed reads", "Of Redis", "lines",
          told(f"rate(trimtab_serving_read_failures_total{{}}[{RATE}])", _EACH), "ops"),
    Panel("Follower thread", "Dead after a fork: construct the client after it", "states",
          gauge("serving_running", _EACH), "none", values=((0, "dead", "red"), (1, "lives", "green"))),
)  # fmt: skip

_UNITS = (
    Panel("Served without a valid table", "They echo version 0 and teach nothing", "lines",
          told(f"rate(trimtab_serving_fallback_units_total{{}}[{RATE}])", _EACH), "ops", 12),
    Panel("Unusable", "Units or segments of a wrong type", "lines",
          told(f"rate(trimtab_serving_unusable_units_total{{}}[{RATE}])", _EACH), "ops", 12),
)  # fmt: skip

SERVING = Dashboard(
    "trimtab-serving",
    "Trimtab / Serving",
    "What recommenders serve by (controller.serving_metrics in each of them)",
    (Row("Now", _NOW), Row("Tables", _TABLES), Row("Units", _UNITS)),
)
