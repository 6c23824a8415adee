"""The schemas of the API: what is sent and what comes back, as the OpenAPI document names them.

Objects of the control protocol are described by the members that every one of them has; they may
have more, for a node may be newer than its client.
"""

from typing import Any, Final

from meshnode.protocol.lifecycle import UnitState
from meshnode.web.api.jobs import FIELDS
from meshnode.web.api.queries import MOST

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
NUMBER: Final[Schema] = {"type": "number"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": MOST}
FLAG: Final[Schema] = {"type": "boolean"}
ANY: Final[Schema] = {}


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def either(*schemas: Schema) -> Schema:
    """Return the schema of what fits one of several."""
    return {"anyOf": list(schemas)}


def maybe(schema: Schema) -> Schema:
    """Return the schema of what may be null."""
    return either(schema, {"type": "null"})


def array(items: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def record(described: str = "", /, *optional: str, **members: Schema) -> Schema:
    """Return the schema of an object that has these members, but for the optional ones."""
    needed = [name for name in members if name not in optional]
    schema: Schema = {"type": "object", "properties": members}
    if needed:
        schema["required"] = needed
    return schema | ({"description": described} if described else {})


def listed(items: Schema, **more: Schema) -> Schema:
    """Return the schema of a list with a cursor."""
    return record("", items=array(items), next=maybe(TEXT), **more)


TEXTS: Final[Schema] = {
    "type": "object",
    "additionalProperties": either(TEXT, NUMBER, FLAG),
    "description": "Texts by name; numbers and booleans become texts.",
}

SPAN: Final[Schema] = either(
    {"type": "number", "description": "seconds"},
    {"type": "string", "examples": ["30s", "1h30m"]},
)

_JOB: Final[dict[str, Schema]] = {
    "type": {**TEXT, "minLength": 1, "description": "The work type; see /api/v1/types."},
    "node": {**TEXT, "description": "The node that runs it; this one if it is left out."},
    "params": {**TEXT, "description": "Further words of the command, where its type lets clients."},
    "parameters": {**TEXTS, "description": "Parameters of a type of work that has other ones."},
    "arguments": {**TEXTS, "description": "Arguments of a typed job; see /api/v1/types/{name}."},
    "env": TEXTS,
    "cwd": TEXT,
    "labels": {**TEXTS, "description": "By which the unit is found again."},
    "timeout": SPAN,
    "priority": {"type": "integer", "minimum": -1000, "maximum": 1000},
    "limits": TEXTS,
    "placement": either(
        {"enum": ["any", "random", "least"]},
        record("", "labels", mode={"enum": ["any", "random", "least"]}, labels=array(TEXT)),
    ),
    "ttl": {**SPAN, "description": "Time in which remote work must have started."},
    "signwork": FLAG,
    "tlsclient": TEXT,
    "output": {**array(TEXT), "description": "Globs of files that come back: stream=files."},
    "after": {**array(TEXT), "description": "Units or batches to wait for: ID, or ID:end."},
}
assert _JOB.keys() == FIELDS.keys(), "the document describes what is read"

PAYLOADS: Final[dict[str, Schema]] = {
    "payload": {**TEXT, "description": "The unit's stdin, as text."},
    "payload_base64": {**TEXT, "contentEncoding": "base64"},
}


def _closed(described: str, needed: list[str], members: dict[str, Schema]) -> Schema:
    properties = {name: maybe(of) if name not in needed else of for name, of in members.items()}
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | {"required": needed, "description": described}


def _payload_free(members: dict[str, Schema]) -> dict[str, Schema]:
    return {**members, **PAYLOADS}


_UNIT: Final = record(
    "A unit, with the members that `work status` of the control protocol has.",
    ID=TEXT,
    State={"type": "integer", "minimum": 0, "maximum": 4},
    StateName={"enum": ["Pending", "Running", "Succeeded", "Failed", "Canceled"]},
    Detail=TEXT,
    StdoutSize=COUNT,
    WorkType=TEXT,
    ExtraData=ANY,
)

_BATCH: Final = record(
    "How a batch stands.",
    Batch=TEXT,
    StateName={"enum": ["Pending", "Running", "Succeeded", "Failed", "Canceled"]},
    Members=COUNT,
    Waiting=COUNT,
    InFlight=COUNT,
    Succeeded=COUNT,
    Failed=COUNT,
    Canceled=COUNT,
    Refused=COUNT,
    MaxInFlight=COUNT,
)

_MESH_NODE: Final = record(
    "A node: how it is reached, and what it says of itself.",
    id=TEXT,
    state={"enum": ["here", "reachable", "unreachable", "unknown"]},
    via=maybe(TEXT),
    cost=maybe(NUMBER),
    hops=maybe(COUNT),
    rtt=maybe(NUMBER),
    kind=TEXT,
    version=maybe(TEXT),
    since=maybe(TEXT),
    types=array(TEXT),
    labels={"type": "object"},
    load=ANY,
    asked=maybe(TEXT),
    error=maybe(TEXT),
)

_MESH_LINK: Final = record("A link between two nodes.", a=TEXT, b=TEXT)

_PROBLEM: Final = record(
    "What went wrong (RFC 9457). `detail` is for people, with the remedy where there is one; "
    "`type` tells programs which kind of problem it is.",
    type=TEXT,
    title=TEXT,
    status={"type": "integer"},
    detail=TEXT,
)

SCHEMAS: Final[dict[str, Schema]] = {
    "Problem": _PROBLEM,
    "Job": _closed("What is to be run.", ["type"], _payload_free(_JOB)),
    "JobOfBatch": _closed("What members of a batch have in common.", [], _payload_free(_JOB)),
    "Line": either(
        TEXT,
        _closed("One member of a list.", [], {**_payload_free(_JOB), "line": TEXT}),
    ),
    "NewBatch": {
        **_closed(
            "An array or a list.",
            [],
            {
                "array": {**TEXT, "examples": ["1-1000%20"]},
                "lines": array(ref("Line")),
                "max_in_flight": {"type": "integer", "minimum": 1, "maximum": 10_000},
                "job": ref("JobOfBatch"),
            },
        )
    },
    "Submitted": record("A unit as it is now, or its ID for who may not look at it.", ID=TEXT),
    "Unit": _UNIT,
    "Units": listed(
        ref("Unit"),
        total=COUNT,
        states=record(
            "How many of all that fit are in each state.",
            **{state.label: COUNT for state in UnitState},
        ),
    ),
    "May": record("", **dict.fromkeys(("status", "results", "cancel", "release"), FLAG)),
    "Done": record("What was done with a unit.", result=TEXT, unit=TEXT),
    "Stopped": record("", result=TEXT, unit=ref("Unit")),
    "Batch": _BATCH,
    "Batches": listed(ref("Batch")),
    "MayBatch": record("", **dict.fromkeys(("status", "cancel", "release", "retry"), FLAG)),
    "BatchDone": record("", result=TEXT, batch=TEXT),
    "Retried": record("", batch=TEXT, retried=COUNT),
    "Types": listed(record("", WorkType=TEXT), node=TEXT),
    "Type": record("What a type takes and is held to.", Node=TEXT, WorkType=TEXT),
    "Root": record(
        "",
        node=TEXT,
        version=TEXT,
        api={"const": "v1"},
        openapi=TEXT,
        client=record("Who you are to this node.", kind=TEXT, name=TEXT),
    ),
    "Status": record("The status of a node, as the control command has it.", NodeID=TEXT),
    "Pong": record(
        "Whether the node answered: how fast, or why not.",
        *("From", "Time", "TimeStr", "Error"),
        Success=FLAG,
        From=TEXT,
        Time=COUNT,
        TimeStr=TEXT,
        Error=TEXT,
    ),
    "Hops": listed({"type": "object"}),
    "Object": {"type": "object"},
    "MeshNode": _MESH_NODE,
    "MeshLink": _MESH_LINK,
    "MeshRoute": record("The next node on the way to one.", node=TEXT, via=TEXT),
    "MeshService": record("A service that a node advertises.", node=TEXT, service=TEXT, type=TEXT),
    "Mesh": record(
        "The whole mesh as this node knows it.",
        node=TEXT,
        nodes=array(ref("MeshNode")),
        links=array(ref("MeshLink")),
        routes=array(ref("MeshRoute")),
        services=array(ref("MeshService")),
        peers_down=array({"type": "object"}),
    ),
    "MeshNodes": listed(ref("MeshNode")),
    "MeshLinks": listed(ref("MeshLink")),
    "MeshRoutes": listed(ref("MeshRoute")),
    "MeshServices": listed(ref("MeshService")),
    "History": record(
        "A value for each step, the oldest first; null where there is none.",
        step=COUNT,
        series={
            "type": "object",
            "additionalProperties": array(maybe({"type": "number"})),
        },
        left_out=COUNT,
        **{"from": TEXT},
    ),
}
