"""PromQL for the panels: each function gives a tuple, so that `+` puts several into one panel."""

from deploy.monitoring.panels import Query

S = 'study=~"$study"'  # of every query: the studies that were chosen
RATE = "$__rate_interval"

Queries = tuple[Query, ...]


def told(expr: str, legend: str = "{{study}}") -> Queries:
    """An expression in which `{}` stands for the choice of studies."""
    return (Query(expr.replace("{}", f"{{{S}}}"), legend),)


def gauge(name: str, legend: str = "{{study}}") -> Queries:
    """A metric as it is."""
    return told(f"trimtab_{name}{{}}", legend)


def rate(name: str, by: str = "study") -> Queries:
    """A counter's rise in a second, of each study."""
    return told(f"sum by ({_own(by)}) (rate(trimtab_{name}_total{{}}[{RATE}]))", f"{{{{{by}}}}}")


def rise(name: str, by: str = "study", legend: str = "") -> Queries:
    """A counter's rise from point to point, of each study."""
    return told(f"sum by ({_own(by)}) (increase(trimtab_{name}_total{{}}[{RATE}]))", legend or f"{{{{{by}}}}}")


def _own(by: str) -> str:
    return by if by == "study" else f"study, {by}"


def quantiles(name: str) -> Queries:
    """Median and 99th percentile of a histogram."""
    by_bucket = f"sum by (study, le) (rate(trimtab_{name}_bucket{{}}[{RATE}]))"
    return told(f"histogram_quantile(0.5, {by_bucket})", "p50") + told(f"histogram_quantile(0.99, {by_bucket})", "p99")
