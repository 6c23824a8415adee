"""Meshes and units for the stand-in: of any size, and always the same."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from standin import World

Json = dict[str, Any]

PLACES = ("berlin", "tokyo", "austin", "lagos", "lima", "oslo", "perth", "quito")

STATES = ("Pending", "Running", "Succeeded", "Failed", "Canceled")


def node(name: str, via: str | None, hops: int, **more: Any) -> Json:
    """Return a node as a mesh tells of it."""
    told: Json = {"id": name, "state": "reachable", "via": via, "cost": hops, "hops": hops}
    told |= {"rtt": 0.0004 * hops, "kind": "meshnode", "version": "0.1.0", "types": ["cat"]}
    told |= {"since": "2026-11-26T09:12:44.5Z", "labels": {"zone": name.split("-", maxsplit=1)[0]}}
    load: Json = {"running": {"cat": hops % 3}, "queued": {}, "free": None, "processors": 8}
    load |= {"average": hops * 1.3, "memory": 8 << 30}
    return told | {"load": load, "asked": None, "error": None} | more


def link(a: str, b: str, number: int, **more: Any) -> Json:
    """Return a link as a mesh tells of it."""
    told: Json = {"a": a, "b": b, "cost_ab": 1, "cost_ba": 1, "rtt": 0.0004 + number % 9 / 3000}
    told |= {"kind": "tcp", "bytes_sent": 31337 * number, "bytes_received": 7331 * number}
    return told | {"up_since": "2026-11-26T09:12:44.5Z"} | more


def five() -> Json:
    """Return a mesh of five nodes in which some things are not well."""
    nodes = [
        node("hub", "", 0, state="here", rtt=None, types=["cat", "fibonacci", "report"]),
        node("edge-berlin", "edge-berlin", 1, types=["cat", "report"]),
        node("edge-tokyo", "edge-tokyo", 1, rtt=0.312, types=["cat", "render"]),
        node("gpu-1", "edge-tokyo", 2, kind="receptor", version=None, types=["train"], load=None),
        node("lab", None, 0, state="unreachable", rtt=None, load=None, version=None)
        | {"error": "no route since 09:40", "hops": None},
    ]
    links = [
        link("edge-berlin", "hub", 4),
        link("edge-tokyo", "hub", 9, rtt=0.312, cost_ab=2, cost_ba=2, kind="ws"),
        link("edge-berlin", "edge-tokyo", 2, rtt=None, bytes_sent=None, bytes_received=None),
        link("edge-tokyo", "gpu-1", 3, cost_ba=None),
    ]
    down: Json = {"address": "lab.example.org:2222", "kind": "tcp", "tries": 41}
    down |= {"reason": "refused: nothing listens on that port, or a firewall refuses"}
    down |= {"since": "2026-11-26T09:40:02Z", "next": "2026-11-26T11:00:20Z"}
    return {"node": "hub", "nodes": nodes, "links": links, "peers_down": [down]}


def large(size: int) -> Json:
    """Return a mesh of hubs, and around each the nodes of a place."""
    hubs = [f"hub-{place}" for place in PLACES]
    nodes = [node("center", "", 0, state="here", rtt=None)]
    nodes += [node(hub, hub, 1) for hub in hubs]
    links = [link("center", hub, number) for number, hub in enumerate(hubs)]
    links += [link(hub, hubs[(at + 1) % len(hubs)], at) for at, hub in enumerate(hubs)]
    for number in range(size - len(nodes)):
        place = PLACES[number % len(PLACES)]
        name = f"{place}-{number // len(PLACES):03}"
        lost = {"state": "unreachable", "via": None, "hops": None} if number % 37 == 36 else {}
        nodes.append(node(name, f"hub-{place}", 2) | lost)
        links.append(link(f"hub-{place}", name, number))
    return {"node": "center", "nodes": nodes, "links": links, "peers_down": []}


def unit(number: int, now: datetime) -> Json:
    """Return one of many units."""
    state = 1 if number < 3 else 0 if number < 5 else 2 + (number * 7 % 11 > 7) + (number % 13 == 0)
    created = now - timedelta(seconds=40 + number * 73)
    started = created + timedelta(seconds=1 + number % 5 * 9)
    finished = started + timedelta(seconds=8 + number * 37 % 190)
    kind = ("cat", "fibonacci", "report", "render")[number % 4]
    detail = ("Queued: 2nd of 2 (maxconcurrent 3)", "Running", "exit status 0", "exit status 2")
    told: Json = {"ID": f"Un{number:04}xy", "State": state, "StateName": STATES[state]}
    told |= {"Detail": (*detail, "Canceled")[state], "StdoutSize": number * 997, "WorkType": kind}
    told |= {"ExtraData": None, "Created": text(created), "StdinSize": 12, "SubmittedParams": ""}
    told |= {"Started": None if state == 0 else text(started), "ExitCode": None, "Pid": 4242}
    told |= {"Finished": text(finished) if state > 1 else None, "Labels": {"job": f"n{number % 3}"}}
    told |= {"SubmittedBy": {"Kind": "unix", "User": ("root", "ada", "grace")[number % 3]}}
    if number % 4 == 1:
        told |= {"WorkType": "remote"}
        told |= {"ExtraData": {"RemoteNode": "edge-berlin", "RemoteWorkType": kind}}
    return told


def batch(
    told: World,
    members: int,
    ended: int,
    name: str = "b-Wd4eS9tQ",
    *,
    most: int = 20,
    now: datetime | None = None,
) -> str:
    """Add a batch to a world, of which the members up to an index have ended; return its ID."""
    now = now or datetime.now(UTC)
    start = now - timedelta(seconds=ended + 60)
    journal = []
    for index in range(1, ended + 1):
        state = "Failed" if index % 97 == 5 else "Succeeded"
        finished = start + timedelta(seconds=index)
        began = finished - timedelta(seconds=4 + index % 7)
        line: Json = {"Index": index, "StateName": state, "UnitID": f"M{index:07}"}
        line |= {"ExitCode": int(state == "Failed"), "Detail": f"exit status {index % 97 == 5:d}"}
        journal.append(line | {"Started": text(began), "Finished": text(finished)})
    failed = sum(line["StateName"] == "Failed" for line in journal)
    flying = min(most, members - ended)
    for index in range(ended + 1, ended + flying + 1):
        one = unit(0, now) | {"ID": f"M{index:07}", "Labels": {"batch": name}, "WorkType": "cat"}
        told.units[one["ID"]] = one
    status: Json = {"Batch": name, "StateName": "Running" if flying else "Succeeded"}
    status |= {"Members": members, "Waiting": members - ended - flying, "InFlight": flying}
    status |= {"Succeeded": ended - failed, "Failed": failed, "Canceled": 0, "Refused": 0}
    if not flying and failed:
        status["StateName"] = "Failed"
    status |= {"Work": "cat", "MaxInFlight": most, "Created": text(start), "SubmittedBy": "ada"}
    told.batches[name] = status | ({} if flying else {"Finished": text(now)})
    told.journals[name] = journal
    return name


def text(moment: datetime) -> str:
    """Return a moment as the API tells it."""
    return moment.isoformat().replace("+00:00", "Z")


ARGUMENT: Json = {"Choices": [], "Default": None, "Help": "", "Max": None, "Min": None}
ARGUMENT |= {"Pattern": None, "Required": False, "Type": "str"}

KINDS: dict[str, Json] = {
    "cat": {"Help": "Returns its input."},
    "fibonacci": {
        "Help": "The number at a position of the Fibonacci sequence.",
        "Arguments": [
            ARGUMENT
            | {"Name": "position", "Type": "int", "Required": True, "Min": 1, "Max": 1000}
            | {"Help": "Which number."},
            ARGUMENT | {"Name": "slow", "Type": "bool"},
            ARGUMENT | {"Name": "form", "Type": "choice", "Choices": ["plain", "roman"]},
        ],
        "RuntimeEnv": ["LANG"],
        "Files": True,
    },
}


def history(now: datetime, points: int = 360) -> Json:
    """Return an hour of a node that had something to do."""
    wave = [3 + 2 * math.sin(at / 23) + (at * 7919 // 11 % 3) / 4 for at in range(points)]
    series: dict[str, list[float | None]] = {
        "units.running": [round(one) for one in wave],
        "units.pending": [max(0, round(one) - 4) for one in wave],
        "units.succeeded": [at // 6 for at in range(points)],
        "units.failed": [at // 90 for at in range(points)],
        "units.canceled": [at // 200 for at in range(points)],
        "units.submitted": [int(at % 6 == 0) + int(at % 25 == 0) for at in range(points)],
        "units.ended": [int(at % 6 == 0) + int(at % 90 == 0) for at in range(points)],
        "link.edge-berlin.rtt": [0.0004 + one / 20000 for one in wave],
        "link.edge-berlin.sent": [int(one * 90000) for one in wave],
        "link.edge-berlin.received": [int(one * 61000) for one in wave],
    }
    tokyo = {"rtt": 1 / 3000, "sent": 25000, "received": 9000}
    for what, factor in tokyo.items():
        # For a while it was down.
        values = [None if 150 < at < 180 else one * factor for at, one in enumerate(wave)]
        series[f"link.edge-tokyo.{what}"] = values
    start = now - timedelta(seconds=10 * points)
    return {"step": 10, "from": text(start), "series": series}


def world(mesh: Json, units: int = 0, now: datetime | None = None) -> World:
    """Return what a stand-in serves, as it would be at a moment."""
    now = now or datetime.now(UTC)
    made = [unit(number, now) for number in range(units)]
    told = World(mesh, {one["ID"]: one for one in made}, dict(KINDS), history=history(now))
    stream = ("stdout", "stdout", "stderr")
    for one in made[:8]:
        told.logs[one["ID"]] = [
            {"time": text(now - timedelta(seconds=90 - at)), "stream": stream[at % 3]}
            | {"text": f"step {at}: \x1b[32mdone\x1b[0m with <b>{one['WorkType']}</b>"}
            for at in range(60)
        ]
    return told
