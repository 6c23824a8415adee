"""The scenarios by name. A new one is a module with ``run(quick) -> Report`` and a line here."""

from collections.abc import Callable, Mapping

from bench.report import Report
from bench.scenarios import scale, units

SCENARIOS: Mapping[str, Callable[[bool], Report]] = {
    "scale": scale.run,
    "units": units.run,
}
