"""Units over HTTP on a real node: submissions in each form, output by bytes and lines, ends."""

import hashlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Cluster, Node, bash, free_port, wait_until
from webclient import WebClient, parted

WORK = {
    "cat": bash("cat"),
    "typed": {
        "command": "echo",
        "params": "{n}",
        "arguments": [{"name": "n", "type": "int", "min": 1}],
    },
    "held": bash("echo begun; read -r line < $GO; echo done"),
    "both": bash("for i in 1 2 3; do echo out $i; echo err $i >&2; done") | {"stderr": "separate"},
    "shell": {"command": "/bin/bash", "allowscripts": True},
    "env": bash('echo "$COLOUR"') | {"allowruntimeenv": ["COLOUR"]},
}


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[Node, WebClient]]:
    cluster = Cluster()
    try:
        os.mkfifo(cluster.directory / "go")
        cluster.environment["GO"] = str(cluster.directory / "go")
        port = free_port()
        foo = cluster.node("foo", work=WORK, more=[{"http-service": {"port": port}}])
        yield foo, WebClient(port)
    finally:
        cluster.close()


@pytest.fixture
def client(web: tuple[Node, WebClient]) -> WebClient:
    return web[1]


def let_go(web: tuple[Node, WebClient]) -> None:
    with open(web[0].directory / "go", "w") as file:
        file.write("go\n")


# --- submitting ----------------------------------------------------------------------------------


def test_a_payload_in_json_is_the_stdin_of_the_unit(client: WebClient) -> None:
    for job in ({"payload": "héllo"}, {"payload_base64": "aMOpbGxv"}):
        reply = client.post("/units", {"type": "cat", **job})
        assert reply.status == 201
        assert reply.headers["location"] == f"/api/v1/units/{reply.json['ID']}"
        unit = reply.json["ID"]
        assert client.ask(f"/units/{unit}/wait").json["StateName"] == "Succeeded"
        assert client.ask(f"/units/{unit}/results").body == "héllo".encode()


def test_arguments_environment_and_labels_are_the_jobs(client: WebClient) -> None:
    unit = client.submit({"type": "typed", "arguments": {"n": 5}, "labels": {"a": "b"}})
    assert client.ask(f"/units/{unit}/results").body == b"5\n"
    unit = client.submit({"type": "env", "env": {"COLOUR": "red"}})
    assert client.ask(f"/units/{unit}/results").body == b"red\n"
    [found] = client.ask("/units?label=a=b").json["items"]
    assert found["Labels"] == {"a": "b"}


@pytest.mark.parametrize(
    ("job", "status", "words"),
    [
        ({"tpe": "cat"}, 400, "did you mean type?"),
        ({"type": 5}, 400, "type must be a text"),
        ({}, 400, "a job needs a type"),
        ({"type": "cat", "payload": "a", "payload_base64": "YQ=="}, 400, "not both"),
        ({"type": "cat", "payload_base64": "?"}, 400, "payload_base64 must be base64"),
        ({"type": "cat", "priority": "high"}, 400, "priority must be a whole number"),
        ({"type": "cat", "parameters": {"node": "x"}}, 422, "by a member of its own"),
        ({"type": "typed", "arguments": {"m": 1}}, 422, 'there is no argument "m"'),
        ({"type": "typed", "arguments": {"n": 0}}, 422, "n"),
        ({"type": "nosuch"}, 422, "unknown work type nosuch"),
        ({"type": "cat", "timeout": 1e9}, 422, "timeout"),
    ],
)
def test_what_is_wrong_with_a_job_is_told_and_nothing_is_left(
    client: WebClient, job: dict[str, object], status: int, words: str
) -> None:
    before = client.ask("/units?limit=1").json["total"]
    reply = client.post("/units", job)
    assert (reply.status, words in reply.detail) == (status, True), reply
    assert client.ask("/units?limit=1").json["total"] == before


def test_an_idempotency_key_has_a_job_run_once(client: WebClient) -> None:
    job = {"type": "cat", "payload": "once"}
    first = client.post("/units", job, idempotency_key="k1")
    again = client.post("/units", job, idempotency_key="k1")
    assert (first.status, again.status) == (201, 200)
    assert first.json["ID"] == again.json["ID"]
    other = client.post("/units", {"type": "cat", "payload": "other"}, idempotency_key="k1")
    assert other.status == 409
    assert "Idempotency-Key" in other.detail
    client.ask(f"/units/{first.json['ID']}/wait")
    client.ask(f"/units/{first.json['ID']}", "DELETE")
    assert client.post("/units", job, idempotency_key="k1").status == 409


def test_files_a_script_and_a_payload_come_in_parts(client: WebClient) -> None:
    script = b'cat DEPS/a.txt "DEPS/sub/\xc3\xbc.txt"; cat'
    reply = client.in_parts(
        ("job", "", json.dumps({"type": "shell"}).encode()),
        ("dep", "a.txt", b"one\n"),
        ("script", "run me.sh", script),
        ("dep", "sub/ü.txt", b"two\n"),
        ("payload", "", b"three\n"),
    )
    assert reply.status == 201, reply
    assert client.ask(f"/units/{reply.json['ID']}/results").body == b"one\ntwo\nthree\n"


def test_a_large_payload_comes_as_it_is(client: WebClient) -> None:
    payload = os.urandom(1024) * 8 * 1024
    reply = client.in_parts(("job", "", b'{"type": "cat"}'), ("payload", "p", payload))
    output = client.ask(f"/units/{reply.json['ID']}/results")
    assert hashlib.sha256(output.body).digest() == hashlib.sha256(payload).digest()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([("payload", "", b"x")], "the first part must be called job"),
        ([("job", "", b'{"type": "cat"}'), ("dep", "../x", b"")], "cannot be called"),
        ([("job", "", b'{"type": "cat"}'), ("dep", "a", b""), ("dep", "a", b"")], "two files"),
        ([("job", "", b'{"type": "cat"}'), ("other", "", b"")], "one too many"),
        ([("job", "", b"[]")], "the job must be an object"),
    ],
)
def test_parts_that_are_none_of_a_job_are_refused(
    client: WebClient, parts: list[tuple[str, str, bytes]], words: str
) -> None:
    reply = client.in_parts(*parts)
    assert reply.status == 400
    assert words in reply.detail


@pytest.mark.parametrize("cut", ["in the payload", "behind the payload"])
def test_half_a_body_starts_nothing(client: WebClient, cut: str) -> None:
    label = cut.replace(" ", "-")
    job = json.dumps({"type": "cat", "labels": {label: ""}}).encode()
    body = parted(("job", "", job), ("payload", "", b"x" * 100_000))
    head = (
        "POST /api/v1/units HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
        f"{len(body)}\r\nContent-Type: multipart/form-data; boundary=next-part\r\n\r\n"
    )

    def states() -> list[str]:
        return [one["StateName"] for one in client.ask(f"/units?label={label}").json["items"]]

    with socket.create_connection(("127.0.0.1", client.port)) as sock:
        sock.sendall(head.encode() + (body[:50_000] if label == "in-the-payload" else body[:-5]))
        wait_until(lambda: states() == ["Pending"], what="a unit that waits")
    wait_until(lambda: "Pending" not in states(), what="its end")
    assert states() in ([], ["Failed"])


def test_a_body_that_broke_off_is_sent_again_under_its_key(client: WebClient) -> None:
    parts = (
        ("job", "", b'{"type": "cat", "labels": {"cut": ""}}'),
        ("dep", "some", b"file"),
        ("payload", "", b"x" * 100_000),
    )
    head = (
        "POST /api/v1/units HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: cut\r\n"
        "Content-Length: 100500\r\nContent-Type: multipart/form-data; boundary=next-part\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", client.port)) as sock:
        sock.sendall(head.encode() + parted(*parts)[:50_000])
        wait_until(lambda: client.ask("/units?label=cut").json["items"], what="a unit that waits")
    unit = client.ask("/units?label=cut").json["items"][0]["ID"]
    assert client.ask(f"/units/{unit}/wait").json["StateName"] == "Failed"
    again = client.in_parts(*parts, idempotency_key="cut")
    assert (again.status, again.json["ID"] == unit) == (201, False)
    assert client.ask(f"/units/{again.json['ID']}/wait").json["StdinSize"] == 100_000
    assert client.in_parts(*parts, idempotency_key="cut").status == 200
    assert client.ask(f"/units/{unit}").status == 404


def test_other_bodies_are_refused(client: WebClient) -> None:
    assert client.ask("/units", "POST", b"a=b", content_type="text/plain").status == 415
    assert client.ask("/units", "POST", b"{", content_type="application/json").status == 400


# --- looking -------------------------------------------------------------------------------------


def test_a_list_comes_in_pages_newest_first(client: WebClient) -> None:
    made = [client.submit({"type": "cat", "labels": {"page": "1"}}) for _ in range(5)]
    found: list[str] = []
    cursor = ""
    while True:
        page = client.ask(f"/units?label=page&limit=2{cursor}").json
        found += [unit["ID"] for unit in page["items"]]
        assert page["total"] == len(made)
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert found == made[::-1]


@pytest.mark.parametrize(
    "query",
    ["state=bogus", "limit=-1", "limit=1001", "since=noon", "cursor=x", "typ=cat", "state="],
)
def test_a_query_that_is_wrong_is_not_taken_for_another(client: WebClient, query: str) -> None:
    assert client.ask(f"/units?{query}").status == 400


def test_a_unit_that_is_none_is_not_found(client: WebClient) -> None:
    for path in ("", "/wait", "/results", "/log", "/may"):
        assert client.ask(f"/units/nosuch00{path}").status == 404, path
    for path in ("/cancel", "/stop", "/release"):
        assert client.post(f"/units/nosuch00{path}").status == 404, path


def test_types_and_their_arguments_are_told(client: WebClient) -> None:
    assert {one["WorkType"] for one in client.ask("/api/v1/types").json["items"]} == set(WORK)
    assert client.ask("/api/v1/types/typed").json["Arguments"][0]["Name"] == "n"
    assert client.ask("/api/v1/types/nosuch").status == 404


# --- output --------------------------------------------------------------------------------------


def test_output_is_had_from_any_byte_and_in_any_span(client: WebClient) -> None:
    unit = client.submit({"type": "cat", "payload": "0123456789"})
    client.ask(f"/units/{unit}/wait")
    path = f"/units/{unit}/results"
    assert client.ask(f"{path}?from=4").body == b"456789"
    part = client.ask(path, range="bytes=2-5")
    assert (part.status, part.body) == (206, b"2345")
    assert part.headers["content-range"] == "bytes 2-5/10"
    assert client.ask(path, range="bytes=-3").body == b"789"
    assert client.ask(path, range="Bytes=8-" + "9" * 25).body == b"89"
    beyond = client.ask(path, range="bytes=10-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, "bytes */10")
    assert client.ask(path, range="bytes=1-2,4-5").status == 400
    assert client.ask(path, range="lines=1-2").body == b"0123456789", "a unit that we do not know"
    assert client.ask(f"{path}?stream=stderr").status == 404
    named = client.ask(f"{path}?download=true").headers["content-disposition"]
    assert named == f'attachment; filename="{unit}.stdout"'


def test_output_comes_while_the_unit_runs(web: tuple[Node, WebClient]) -> None:
    client = web[1]
    unit = client.submit({"type": "held"})
    with client.send(f"/units/{unit}/results") as response:
        assert response.read(6) == b"begun\n"
        assert client.ask(f"/units/{unit}/results?follow=false").body == b"begun\n"
        let_go(web)
        assert response.read() == b"done\n"


def test_a_log_has_both_streams_in_order_with_times(client: WebClient) -> None:
    unit = client.submit({"type": "both"})
    events = list(client.events(f"/units/{unit}/log"))
    for stream, word in (("stdout", "out"), ("stderr", "err")):
        told = [event.data["text"] for event in events[:-1] if event.data["stream"] == stream]
        assert told == [f"{word} {i}" for i in (1, 2, 3)]
    times = [event.data["time"] for event in events[:-1]]
    assert times == sorted(times)
    assert all(time.endswith("Z") for time in times)
    assert (events[-1].name, events[-1].data["StateName"]) == ("end", "Succeeded")
    lines = client.ask(f"/units/{unit}/log?stderr=true&tail=2").body.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["err 2", "err 3"]


def test_a_log_goes_on_behind_the_last_line_that_was_told(client: WebClient) -> None:
    for worktype, payload in (("both", ""), ("cat", "a\nb\nc")):
        unit = client.submit({"type": worktype, "payload": payload})
        events = list(client.events(f"/units/{unit}/log"))
        for position, event in enumerate(events[:-1]):
            if event.event_id:
                later = list(client.events(f"/units/{unit}/log", last_event_id=event.event_id))
                assert [e.data for e in later[:-1]] == [e.data for e in events[position + 1 : -1]]


def test_a_log_tells_lines_as_they_come(web: tuple[Node, WebClient]) -> None:
    client = web[1]
    unit = client.submit({"type": "held"})
    events = client.events(f"/units/{unit}/log")
    assert next(events).data["text"] == "begun"
    let_go(web)
    assert [event.name for event in events] == ["line", "end"]


def test_a_log_of_a_unit_that_is_released_does_not_look_whole(web: tuple[Node, WebClient]) -> None:
    client = web[1]
    unit = client.submit({"type": "held"})
    events = client.events(f"/units/{unit}/log")
    with client.send(f"/units/{unit}/log") as lines:
        assert json.loads(lines.readline())["text"] == "begun"
        assert next(events).data["text"] == "begun"
        assert client.ask(f"/units/{unit}", "DELETE").status == 200
        with pytest.raises(http.client.IncompleteRead):
            lines.read()
    assert [event.name for event in events] == ["error"]


# --- ends ----------------------------------------------------------------------------------------


def test_a_wait_ends_with_the_unit_or_with_its_time(web: tuple[Node, WebClient]) -> None:
    client = web[1]
    unit = client.submit({"type": "held"})
    early = client.ask(f"/units/{unit}/wait?timeout=0.2")
    assert (early.status, early.json["StateName"]) == (202, "Running")
    let_go(web)
    assert client.ask(f"/units/{unit}/wait?timeout=1m").status == 200


@pytest.mark.parametrize("action", ["cancel", "stop"])
def test_a_unit_is_ended_and_released(client: WebClient, action: str) -> None:
    unit = client.submit({"type": "held"})
    may = client.ask(f"/units/{unit}/may").json
    assert may == dict.fromkeys(("status", "results", "cancel", "release"), True)
    assert client.post(f"/units/{unit}/{action}").json["result"] == "cancelled"
    assert client.ask(f"/units/{unit}/wait").json["StateName"] == "Canceled"
    assert client.ask(f"/units/{unit}", "DELETE").json == {"result": "released", "unit": unit}
    assert client.ask(f"/units/{unit}").status == 404


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_of_an_array_and_one_of_a_list_run_each_member_once(client: WebClient) -> None:
    array = client.post(
        "/batches",
        {"array": "1-9:2%2", "job": {"type": "typed", "arguments": {"n": "{index}"}}},
    )
    lines: list[object] = ["one", {"type": "cat", "payload": "two"}]
    listed = client.post(
        "/batches",
        {"lines": lines, "max_in_flight": 1, "job": {"type": "cat", "payload": "{line}"}},
    )
    for reply, members in ((array, 5), (listed, 2)):
        assert reply.status == 201, reply
        batch = reply.json["Batch"]
        assert reply.headers["location"] == f"/api/v1/batches/{batch}"
        done = client.ask(f"/batches/{batch}/wait")
        assert (done.json["StateName"], done.json["Succeeded"]) == ("Succeeded", members)
        assert client.ask(f"/units?batch={batch}").json["total"] == members
        told = client.ask(f"/batches/{batch}/members").body.splitlines()
        assert sum("Index" in json.loads(line) for line in told) == members
        assert all(client.ask(f"/batches/{batch}/may").json.values())
        gone = client.ask(f"/batches/{batch}", "DELETE")
        assert gone.json == {"result": "released", "batch": batch}, gone
        assert client.ask(f"/batches/{batch}").status == 404


@pytest.mark.parametrize(
    ("batch", "status", "words"),
    [
        ({"job": {"type": "cat"}}, 400, "array or lines"),
        ({"array": "1-2", "lines": []}, 400, "array or lines"),
        ({"array": "9-1", "job": {"type": "cat"}}, 422, "does not ascend"),
        ({"lines": [{"tpe": "x"}], "job": {"type": "cat"}}, 400, "lines: 1: a job has no 'tpe'"),
        ({"lines": [5], "job": {"type": "cat"}}, 400, "lines: 1: must be a text or a job"),
        ({"array": "1-2", "job": {"type": "nosuch"}}, 422, "nosuch"),
        ({"lines": ["a"], "job": {"type": "nosuch"}}, 422, "nosuch"),
    ],
)
def test_a_batch_that_is_wrong_is_refused(
    client: WebClient, batch: dict[str, object], status: int, words: str
) -> None:
    reply = client.post("/batches", batch)
    assert (reply.status, words in reply.detail) == (status, True), reply


def test_a_unit_waits_for_another_and_brings_files_back(web: tuple[Node, WebClient]) -> None:
    client = web[1]
    first = client.submit({"type": "held"})
    job = {"type": "shell", "after": [first], "output": ["*.txt"], "payload": "echo hi > a.txt"}
    second = client.submit(job)
    assert client.ask(f"/units/{second}").json["StateName"] == "Pending"
    let_go(web)
    done = client.ask(f"/units/{second}/wait").json
    assert done["StateName"] == "Succeeded"
    assert client.ask(f"/units/{second}/results?stream=files").body[:5] == b"a.txt"


def test_nothing_is_left_of_files_that_were_sent(web: tuple[Node, WebClient]) -> None:
    root = Path(web[0].directory / "data" / "foo")
    assert not [path for path in root.iterdir() if path.name.startswith("tmp")]
