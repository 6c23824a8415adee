"""What each route of the API takes and answers, for the OpenAPI document."""

from collections.abc import Iterator
from typing import Any, Final

from meshnode.web.api.schemas import COUNT, FLAG, TEXT, Schema, array, ref

PROBLEM: Final = {"$ref": "#/components/responses/Problem"}

JSON: Final = "application/json"


def operation(
    name: str,
    summary: str,
    answers: dict[int, Schema | dict[str, Any]],
    *parameters: dict[str, Any],
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return one operation; whatever else it answers is a problem."""
    found: dict[str, Any] = {"operationId": name, "summary": summary}
    if parameters:
        found["parameters"] = list(parameters)
    if body is not None:
        found["requestBody"] = {"required": True, "content": body}
    responses: dict[str, Any] = {str(status): _answer(of) for status, of in answers.items()}
    found["responses"] = responses | {"default": PROBLEM}
    return found


def _answer(of: dict[str, Any]) -> dict[str, Any]:
    if "description" in of and "content" in of:
        return of
    return {"description": "done", "content": {JSON: {"schema": of}}}


def streamed(
    *media_types: str, described: str = "as it comes", **headers: Schema
) -> dict[str, Any]:
    """Return the answer that is a stream, in one of some media types."""
    answer: dict[str, Any] = {
        "description": described,
        "content": {media_type: {} for media_type in media_types},
    }
    if headers:
        answer["headers"] = {
            name.replace("_", "-"): {"schema": schema} for name, schema in headers.items()
        }
    return answer


def query(name: str, schema: Schema, described: str, **more: Any) -> dict[str, Any]:
    """Return a parameter of a query."""
    return {"name": name, "in": "query", "schema": schema, "description": described, **more}


def header(name: str, described: str) -> dict[str, Any]:
    """Return a parameter that is a header."""
    return {"name": name, "in": "header", "schema": TEXT, "description": described}


def path(name: str, described: str) -> dict[str, Any]:
    """Return a parameter of a path."""
    schema = {"type": "string", "minLength": 1}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": schema,
        "description": described,
    }


UNIT: Final = path("id", "ID of a unit")
BATCH: Final = path("id", "ID of a batch")
NODE: Final = path("node", "ID of a node")

TIMEOUT: Final = query("timeout", TEXT, "seconds, or as 30s, to wait at most; 60 s by default")

STREAMS: Final[Schema] = {"enum": ["stdout", "stderr", "index", "files"], "default": "stdout"}

LAST_ID: Final = header("Last-Event-ID", "ID of the last event that was read: go on behind it")

ONCE: Final = header("Idempotency-Key", "names the submission, which is then done once")

MANY: Final[Schema] = array(TEXT)
"""A parameter that may be there several times."""

PART: Final[Schema] = {"type": "string", "contentMediaType": "application/octet-stream"}

SUBMISSION: Final[dict[str, Any]] = {
    JSON: {"schema": ref("Job")},
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["job"],
            "properties": {
                "job": ref("Job"),
                "dep": {"type": "array", "items": PART},
                "script": PART,
                "payload": PART,
            },
            "description": "In this order: files lie below DEPS/ where the job starts.",
        },
        "encoding": {"job": {"contentType": JSON}},
    },
}


def _units() -> Iterator[tuple[str, dict[str, Any]]]:
    unit = "/api/v1/units/{id}"
    filters = (
        query("state", MANY, "pending, running, succeeded, failed, canceled; several with commas"),
        query("type", MANY, "work type"),
        query("node", MANY, "node that runs it; this one for what runs here"),
        query("label", MANY, "NAME, or NAME=VALUE"),
        query("batch", TEXT, "members of this batch"),
        query("submitter", TEXT, "part of who submitted it"),
        query("since", {"type": "string", "format": "date-time"}, "created since then"),
        query("limit", {"type": "integer", "minimum": 0, "maximum": 1000}, "units of a page"),
        query("cursor", TEXT, "next of the page before"),
    )
    yield (
        "/api/v1/units",
        {
            "get": operation("listUnits", "Units, the newest first", {200: ref("Units")}, *filters),
            "post": operation(
                "submitUnit",
                "Submit a unit of work",
                {201: ref("Submitted"), 200: ref("Submitted")},
                ONCE,
                body=SUBMISSION,
            ),
        },
    )
    yield (
        unit,
        {
            "get": operation("getUnit", "One unit", {200: ref("Unit")}, UNIT),
            "delete": operation(
                "deleteUnit",
                "Release a unit: its files are deleted",
                {200: ref("Done")},
                UNIT,
                *ENDS,
            ),
        },
    )
    waited = {200: ref("Unit"), 202: ref("Unit")}
    yield f"{unit}/wait", {"get": operation("waitUnit", "Its end", waited, UNIT, TIMEOUT)}
    yield f"{unit}/may", {"get": operation("mayUnit", "What you may", {200: ref("May")}, UNIT)}
    cancel = operation("cancelUnit", "Cancel a unit", {200: ref("Done")}, UNIT)
    yield f"{unit}/cancel", {"post": cancel}
    stopped = {200: ref("Stopped"), 202: ref("Stopped")}
    stop = operation("stopUnit", "Cancel a unit and wait for its end", stopped, UNIT, TIMEOUT)
    yield f"{unit}/stop", {"post": stop}
    release = operation("releaseUnit", "Release a unit", {200: ref("Done")}, UNIT, *ENDS)
    yield f"{unit}/release", {"post": release}


ENDS: Final = (
    query("force", FLAG, "also if the node that runs it is out of reach"),
    query("remote", FLAG, "an adopted unit on its node, too"),
)


def _output() -> Iterator[tuple[str, dict[str, Any]]]:
    unit = "/api/v1/units/{id}"
    octets = "application/octet-stream"
    results = operation(
        "unitResults",
        "What a unit has printed, in bytes",
        {
            200: streamed(octets, described="from a byte on, to the end of the unit"),
            206: streamed(octets, described="the bytes of a Range", Content_Range=TEXT),
        },
        UNIT,
        query("stream", STREAMS, "which output"),
        query("from", COUNT, "first byte"),
        query("follow", FLAG, "until the unit ends; without it what there is now"),
        query("download", FLAG, "as a file to be saved"),
        header("Range", "bytes=100-, bytes=0-99 or bytes=-10 of what there is now"),
    )
    yield f"{unit}/results", {"get": results}
    log = operation(
        "unitLog",
        "What a unit has printed, by lines",
        {200: streamed("text/event-stream", "application/x-ndjson", described="lines")},
        UNIT,
        query("follow", FLAG, "until the unit ends; without it what there is now"),
        query("since", {"type": "string", "format": "date-time"}, "only lines since then"),
        query("tail", {"type": "integer", "minimum": 0, "maximum": 10_000}, "the last lines"),
        query("stderr", FLAG, "only stderr"),
        LAST_ID,
    )
    yield f"{unit}/log", {"get": log}


def _batches() -> Iterator[tuple[str, dict[str, Any]]]:
    batch = "/api/v1/batches/{id}"
    yield (
        "/api/v1/batches",
        {
            "get": operation("listBatches", "Batches, the newest first", {200: ref("Batches")}),
            "post": operation(
                "submitBatch",
                "Submit a batch",
                {200: ref("Batch"), 201: ref("Batch")},
                ONCE,
                body={JSON: {"schema": ref("NewBatch")}},
            ),
        },
    )
    yield (
        batch,
        {
            "get": operation("getBatch", "One batch", {200: ref("Batch")}, BATCH),
            "delete": operation(
                "deleteBatch", "Release a batch and its units", {200: ref("BatchDone")}, BATCH
            ),
        },
    )
    waited = {200: ref("Batch"), 202: ref("Batch")}
    yield f"{batch}/wait", {"get": operation("waitBatch", "Its end", waited, BATCH, TIMEOUT)}
    members = {200: streamed("application/x-ndjson", described="a line a member that has ended")}
    start = query("from", COUNT, "byte of the journal, as an earlier answer ended")
    named = operation("batchMembers", "Members that have ended", members, BATCH, start)
    yield f"{batch}/members", {"get": named}
    may = operation("mayBatch", "What one may do with a batch", {200: ref("MayBatch")}, BATCH)
    yield f"{batch}/may", {"get": may}
    for action, answer in (("cancel", "BatchDone"), ("release", "BatchDone"), ("retry", "Retried")):
        done = operation(
            f"{action}Batch", f"{action} a batch".capitalize(), {200: ref(answer)}, BATCH
        )
        yield f"{batch}/{action}", {"post": done}


def _mesh() -> Iterator[tuple[str, dict[str, Any]]]:
    detail = query("detail", FLAG, "ask other nodes for what only they know")
    named = query("node", MANY, "with detail: only these")
    filters: dict[str, tuple[dict[str, Any], ...]] = {
        "nodes": tuple(query(name, TEXT, "only these") for name in ("id", "state", "kind")),
        "links": (query("node", TEXT, "only those of this node"),),
        "routes": tuple(query(name, TEXT, "only these") for name in ("node", "via")),
        "services": tuple(query(name, TEXT, "only these") for name in ("node", "service")),
    }
    whole = operation("mesh", "The whole mesh", {200: ref("Mesh")}, detail, named)
    yield "/api/v1/mesh", {"get": whole}
    for part, parameters in filters.items():
        answer = {200: ref(f"Mesh{part.capitalize()}")}
        found = operation(part, f"The {part} of the mesh", answer, detail, *parameters)
        yield f"/api/v1/{part}", {"get": found}
    span = query("seconds", COUNT, "how much of it; all of it by default")
    fared = operation(
        "history", "How the node fared in the last hours", {200: ref("History")}, span
    )
    yield "/api/v1/history", {"get": fared}


def _node() -> Iterator[tuple[str, dict[str, Any]]]:
    there = (
        query("node", TEXT, "the types of this node; of the asked one by default"),
        query("tlsclient", TEXT, "name of a tls-client, for the way there"),
    )
    kind = path("name", "name of a work type")
    for address, name, summary, answer, parameters in (
        ("", "root", "This node, and who you are to it", "Root", ()),
        ("/openapi.json", "openapi", "This document", "Object", ()),
        ("/types", "listTypes", "What may be submitted", "Types", there),
        ("/types/{name}", "getType", "What a type takes", "Type", (kind, *there)),
        ("/status", "status", "The status of the node", "Status", ()),
        ("/ping/{node}", "ping", "Whether a node is reached, and how fast", "Pong", (NODE,)),
        ("/traceroute/{node}", "traceroute", "The way to a node", "Hops", (NODE,)),
    ):
        found = operation(name, summary, {200: ref(answer)}, *parameters)
        yield f"/api/v1{address}", {"get": found}
    events = operation(
        "events",
        "What changes, as it does",
        {200: streamed("text/event-stream", described="an event a change")},
        query("topics", TEXT, "units, links, routes, services; several with commas"),
        query("since", COUNT, "number of the last event that was read"),
        LAST_ID,
    )
    yield "/api/v1/events", {"get": events}


PATHS: Final[dict[str, Any]] = {
    address: operations
    for part in (_node(), _mesh(), _units(), _output(), _batches())
    for address, operations in part
}
"""The operations by their paths."""
