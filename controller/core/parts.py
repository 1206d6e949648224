"""A metric per bucket, taken apart: what people are shown per bucket, times what comes of it.

| symbol | meaning |
|---|---|
| N, V | a metric's numerator; the exposures, the component that ratios are most often divided by |

    N / buckets = V / buckets x N / V                                                             (11)

An identity, whatever the weights move. But the two are learnt better apart: how often people come in an hour is most
of the noise of a metric per bucket and next to nothing of its response, so the first factor's process may be found to
be nearly flat (`learn.EXPOSURES`), while the second is measured with a fraction of the noise.
"""

from controller.core.estimate import BUCKETS, Metric


def exposures(metrics: tuple[Metric, ...]) -> str | None:
    """V: the first of the denominators that most metrics have; None where all are per bucket."""
    denominators = [m.denominator for m in metrics if m.denominator != BUCKETS and m.response == "immediate"]
    return max(denominators, key=denominators.count) if denominators else None


def measured(metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
    """The metrics, and after them those of their parts that are no metric of the study themselves."""
    found = list(metrics)
    for metric in metrics:
        found += [part for part in _split(metric, exposures(metrics)) if _place(part, found) is None]
    return tuple(found)


def parts(metrics: tuple[Metric, ...], m: int) -> tuple[int, ...]:
    """Where in `measured(metrics)` the factors of metric `m` stand: itself alone, or (11)."""
    places = (_place(part, measured(metrics)) for part in _split(metrics[m], exposures(metrics)))
    return tuple(place for place in places if place is not None) or (m,)


def is_exposures(metrics: tuple[Metric, ...], place: int) -> bool:
    """Whether a place of `measured(metrics)` is V / buckets: how much people are shown."""
    part = measured(metrics)[place]
    return part.numerator == exposures(metrics) and part.denominator == BUCKETS


def _split(metric: Metric, shown: str | None) -> tuple[Metric, ...]:
    """The factors of a metric; none where it is no product."""
    if shown is None or metric.denominator != BUCKETS or metric.numerator == shown or metric.response != "immediate":
        return ()
    return (
        Metric(f"{shown} / {BUCKETS}", shown, BUCKETS),
        Metric(f"{metric.numerator} / {shown}", metric.numerator, shown),
    )


def _place(part: Metric, among: list[Metric] | tuple[Metric, ...]) -> int | None:
    same = (part.numerator, part.denominator, part.response)
    return next((i for i, m in enumerate(among) if (m.numerator, m.denominator, m.response) == same), None)
