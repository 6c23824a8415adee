"""What was read of a node at one moment, and the text that Prometheus reads.

To read takes place in the event loop, where nothing changes meanwhile, and is quick; to write the
text takes longer, and can be done in a thread.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from meshnode.histogram import Distribution
from meshnode.web.metricfamilies import Family, Kind

MAX_LABEL: Final = 128
"""Characters of a label: names that others choose may be longer."""

OPENMETRICS: Final = "openmetrics"
PLAIN: Final = "text"
"""The two forms that the text may have."""

CONTENT_TYPES: Final = {
    PLAIN: CONTENT_TYPE_PLAIN_0_0_4,
    OPENMETRICS: openmetrics.CONTENT_TYPE_LATEST,
}
"""What HTTP calls them."""

Labels = tuple[str, ...]


class Readings(Collector):
    """The numbers of one moment. Two that have the same labels are one series, and add up."""

    def __init__(self) -> None:
        self._numbers: dict[Family, dict[Labels, float]] = {}
        self._distributions: dict[Family, dict[Labels, Distribution]] = {}

    def add(self, family: Family, value: float, *labels: str) -> None:
        """Add a number to a series."""
        series = self._numbers.setdefault(family, {})
        key = tuple(map(_fit, labels))
        series[key] = series.get(key, 0.0) + value

    def distribute(self, family: Family, value: Distribution, *labels: str) -> None:
        """Add a distribution to a series."""
        series = self._distributions.setdefault(family, {})
        key = tuple(map(_fit, labels))
        known = series.get(key)
        series[key] = value if known is None else known.plus(value)

    def collect(self) -> Iterator[Metric]:
        """Yield a metric for each family that has a series."""
        for family, numbers in self._numbers.items():
            metric = _metric(family)
            is_counter = family.kind is Kind.COUNTER
            name = f"{metric.name}_total" if is_counter else metric.name
            for labels, number in numbers.items():
                metric.add_sample(name, dict(zip(family.labels, labels, strict=True)), number)
            yield metric
        for family, distributions in self._distributions.items():
            metric = _metric(family)
            for labels, distribution in distributions.items():
                _add_distribution(
                    metric, dict(zip(family.labels, labels, strict=True)), distribution
                )
            yield metric

    def to_text(self, form: str) -> str:
        """Return the text in one of the two forms, with the figures of the process. It blocks.

        Each text has a registry of its own: what another one would keep could not be forgotten.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        ProcessCollector(registry=registry)
        write = openmetrics.generate_latest if form == OPENMETRICS else generate_latest
        return write(registry).decode()


def _metric(family: Family) -> Metric:
    return Metric(family.name.removesuffix("_total"), family.help, family.kind.value)


def _add_distribution(metric: Metric, labels: dict[str, str], value: Distribution) -> None:
    ends = [*map(floatToGoString, value.bounds), "+Inf"]
    for end, count in zip(ends, value.cumulative, strict=True):
        metric.add_sample(f"{metric.name}_bucket", labels | {"le": end}, count)
    metric.add_sample(f"{metric.name}_count", labels, value.count)
    metric.add_sample(f"{metric.name}_sum", labels, value.total)


def _fit(label: str) -> str:
    """Return a label that any text can hold; others have chosen what some are made of."""
    if len(label) > MAX_LABEL:
        label = f"{label[: MAX_LABEL - 1]}…"
    return label if label.isascii() else label.encode("utf-8", "replace").decode()
