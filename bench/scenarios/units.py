"""What a node pays for the finished units in its datadir: to start, to list them, to hold them."""

import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.report import Report, Table, growth
from bench.rows import Options
from meshctl import ControlClient

SIZES = (0, 1000, 10_000)
QUICK_SIZES = (0, 200, 1000)
REPEATS = 5
PATIENCE = 60.0

STATUS = {
    "State": 2,
    "Detail": "exit status 0",
    "StdoutSize": 3,
    "WorkType": "echo",
    "ExtraData": None,
    "Created": "2026-11-22T03:00:00.000000Z",
    "Started": "2026-11-22T03:00:00.010000Z",
    "Finished": "2026-11-22T03:00:00.020000Z",
    "ExitCode": 0,
    "Signal": None,
    "StdinSize": 0,
    "Params": ["echo", "hi"],
}


def run(options: Options) -> Report:
    """Start a node over each number of units, several times; take the medians."""
    sizes = QUICK_SIZES if options.quick else SIZES
    measured = []
    for units in sizes:
        print(f"   {units} finished units …", flush=True)
        measured.append(measure(units))
    base = measured[0]
    for units, figures in zip(sizes, measured, strict=True):
        figures["start_ratio"] = figures["start_ms"] / base["start_ms"]
        figures["list_ratio"] = figures["list_ms"] / max(figures["dumps_ms"], 1e-9)
        extra = (figures["memory_kib"] - base["memory_kib"]) * 1024
        figures["bytes_per_unit"] = extra / units if units else 0.0
    labels = (
        ("from the start of the process to its socket, ms", "start_ms"),
        ("  times a start without units", "start_ratio"),
        ("`work list` of all, ms", "list_ms"),
        ("  of it json.dumps of the same reply alone, ms", "dumps_ms"),
        ("  times that", "list_ratio"),
        ("resident memory, KiB", "memory_kib"),
        ("  bytes for each unit", "bytes_per_unit"),
    )
    counts = [float(max(units, 1)) for units in sizes[1:]]
    rows = [
        (label, *(m[key] for m in measured), growth(counts, [m[key] for m in measured[1:]]))
        for label, key in labels
    ]
    header = ("finished units", *(f"{n:,}" for n in sizes), "grows as")
    figures = [{"units": n, **m} for n, m in zip(sizes, measured, strict=True)]
    return Report(tables=[Table("Finished units", header, rows)], figures={"sizes": figures})


def measure(units: int) -> dict[str, float]:
    """Return the medians of several starts over one directory of that many units."""
    place = Path(tempfile.mkdtemp(prefix="mn-bench-", dir="/tmp"))
    try:
        fill(place / "data" / "bench", units)
        runs = [one_start(place) for _ in range(REPEATS)]
    finally:
        shutil.rmtree(place)
    return {key: statistics.median(r[key] for r in runs) for key in runs[0]}


def fill(root: Path, units: int) -> None:
    """Write finished units as a node leaves them."""
    root.mkdir(parents=True)
    text = json.dumps(STATUS)
    for _ in range(units):
        unit = root / secrets.token_hex(4)
        unit.mkdir(mode=0o700)
        for name, content in (("status", text), ("stdout", "hi\n"), ("stdin", "")):
            (unit / name).write_text(content)
        (unit / "status.lock").touch()


def one_start(place: Path) -> dict[str, float]:
    """Start a node, ask it for its units, and stop it."""
    control = place / "s"
    arguments = ["--node", "id=bench", f"datadir={place / 'data'}", "--local-only"]
    arguments += ["--log-level", "error", "--control-service", f"filename={control}"]
    started = time.perf_counter()
    node = subprocess.Popen([sys.executable, "-m", "meshnode", *arguments])
    try:
        wait_socket(control)
        start = time.perf_counter() - started
        with ControlClient(str(control)) as client:
            client.command("status")
            asked = time.perf_counter()
            reply: dict[str, Any] = client.command("work list")
            listed = time.perf_counter() - asked
        dumped = time.perf_counter()
        json.dumps(reply)
        dumps = time.perf_counter() - dumped
        return {
            "start_ms": start * 1000,
            "list_ms": listed * 1000,
            "dumps_ms": dumps * 1000,
            "memory_kib": float(resident(node.pid)),
        }
    finally:
        node.terminate()
        node.wait(PATIENCE)


def wait_socket(control: Path) -> None:
    """Return when the node accepts clients; nothing tells of a socket's birth but trying."""
    deadline = time.perf_counter() + PATIENCE
    while time.perf_counter() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(os.fspath(control))
            except OSError:
                time.sleep(0.001)
                continue
            return
    raise TimeoutError(f"no node at {control}")


def resident(pid: int) -> int:
    """Return a process's resident memory in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)
