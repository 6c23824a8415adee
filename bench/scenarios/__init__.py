"""The scenarios by name. A new one is a module with ``run(options) -> Report`` and a line here."""

from collections.abc import Callable, Mapping

from bench.report import Report
from bench.rows import Options
from bench.scenarios import latency, scale, spawn, units

SCENARIOS: Mapping[str, Callable[[Options], Report]] = {
    "latency": latency.run,
    "scale": scale.run,
    "spawn": spawn.run,
    "units": units.run,
}
