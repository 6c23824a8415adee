"""Requests whose body breaks off within the payload, although their connection stays."""

import json
from collections.abc import Iterator

import pytest
from harness import Cluster, bash, free_port
from webclient import WebClient, parted

END = b"--next-part--\r\n"
KIND = "multipart/form-data; boundary=next-part"


@pytest.fixture
def client() -> Iterator[WebClient]:
    cluster = Cluster()
    try:
        port = free_port()
        cluster.node("foo", work={"cat": bash("cat")}, more=[{"http-service": {"port": port}}])
        yield WebClient(port)
    finally:
        cluster.close()


def test_a_unit_whose_payload_has_no_end_fails_and_its_key_has_it_run_once_it_has_one(
    client: WebClient,
) -> None:
    job, payload = ("job", "", json.dumps({"type": "cat"}).encode()), ("payload", "", b"hello")
    whole = parted(job, payload)
    for body in (whole.removesuffix(END), parted(job, payload, payload)):
        named = {"content_type": KIND, "idempotency_key": "k"}
        assert client.ask("/units", "POST", body, **named).status == 400
        [unit] = client.ask("/units").json["items"]
        assert unit["StateName"] == "Failed"
    reply = client.ask("/units", "POST", whole, content_type=KIND, idempotency_key="k")
    assert reply.status == 201
    assert client.ask(f"/units/{reply.json['ID']}/results").body == b"hello"


@pytest.mark.parametrize(
    ("terms", "other"),
    [({"array": "1-3"}, {"array": "1-4"}), ({"lines": ["a", "b"]}, {"lines": ["a", "c"]})],
)
def test_a_batch_under_a_key_is_made_once_and_another_one_under_it_is_a_conflict(
    client: WebClient, terms: dict[str, object], other: dict[str, object]
) -> None:
    job = {"job": {"type": "cat"}}
    first, again = (
        client.post("/batches", {**terms, **job}, idempotency_key="night") for _ in range(2)
    )
    assert (first.status, again.status) == (201, 200)
    assert first.json["Batch"] == again.json["Batch"]
    assert first.headers["location"] == again.headers["location"]
    refused = client.post("/batches", {**other, **job}, idempotency_key="night")
    assert refused.status == 409
    assert refused.detail == f"the Idempotency-Key is that of batch {first.json['Batch']}"
    assert len(client.ask("/batches").json["items"]) == 1


def test_a_key_has_at_most_256_printable_characters_and_an_empty_one_is_none(
    client: WebClient,
) -> None:
    batch = {"array": "1-2", "job": {"type": "cat"}}

    def twice(key: str) -> list[int]:
        return [client.post("/batches", batch, idempotency_key=key).status for _ in range(2)]

    assert twice("x" * 256) == twice("clé") == [201, 200]
    assert twice("x" * 257) == twice("x" * 500) == twice("a\xa0b") == [400, 400]
    assert twice("") == [201, 201]
    assert len(client.ask("/batches").json["items"]) == 4
