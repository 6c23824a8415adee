"""The scenarios by name. A new one is a module with ``run(options) -> Report`` and a line here."""

from collections.abc import Callable, Mapping

from bench.report import Report
from bench.rows import Options
from bench.scenarios import (
    batches,
    finished,
    followers,
    forward,
    growth,
    http,
    idle,
    isolated,
    latency,
    limited,
    listeners,
    queued,
    released,
    results,
    scale,
    spawn,
    start,
    transfer,
)

SCENARIOS: Mapping[str, Callable[[Options], Report]] = {
    "batches": batches.run,
    "finished": finished.run,
    "followers": followers.run,
    "forward": forward.run,
    "growth": growth.run,
    "http": http.run,
    "idle": idle.run,
    "isolated": isolated.run,
    "limited": limited.run,
    "latency": latency.run,
    "listeners": listeners.run,
    "queued": queued.run,
    "released": released.run,
    "results": results.run,
    "scale": scale.run,
    "spawn": spawn.run,
    "start": start.run,
    "transfer": transfer.run,
}
