"""Who submitted a unit, and what: in status, list and log, here and at the remote half."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import WorkError
from meshnode.protocol.control import MAX_CLAIM
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.identity import (
    MAX_ADDRESS,
    MAX_NODE,
    MAX_SERVICE,
    MAX_USER,
    MeshClient,
    TcpClient,
    UnixClient,
    UnknownClient,
    claim_of,
)
from meshnode.work.units.requests import SubmitRequest, parse_json
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.statusreply import status_reply
from meshnode.work.units.submission import MAX_SHOWN, Submission

ANN = UnixClient(1000, 100, 4321, "ann")
SECRET = "hush-hush"


def submitted(**fields: str) -> Submission:
    request = parse_json(
        {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat", **fields}
    )
    assert isinstance(request, SubmitRequest)
    return request.submission


async def shown(node, unit_id: str, command: str = "status") -> dict:
    (line,) = await node.talk(f"work {command} {unit_id}")
    reply = json.loads(line)
    return reply if command == "status" else reply[unit_id]


@pytest.mark.parametrize(
    ("kind", "client"), [("unix", ANN), ("tcp", TcpClient("10.0.0.7:4312"))], ids=["unix", "tcp"]
)
async def test_status_list_and_log_say_who_submitted_a_unit_and_what(foo, caplog, kind, client):
    caplog.set_level("INFO")
    foo.clients["client"] = client
    async with foo.running():
        request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "wait"}
        lines = await foo.talk(request | {"params": "-n 3"}, b"", kind)
        unit_id = json.loads(lines[1])["unitid"]
        for command in ("status", "list"):
            status = await shown(foo, unit_id, command)
            assert status["SubmittedBy"] == client.to_json()
            assert status["SubmittedParams"] == "-n 3"
    assert f"unit {unit_id}: created: wait, by {client}: -n 3" in caplog.text


async def test_who_submitted_is_still_known_when_the_unit_has_ended_and_the_node_was_restarted(foo):
    foo.clients["client"] = ANN
    async with foo.running():
        unit_id = await foo.submit("foo", "wait", params="-n 3")
        await foo.talk(f"work cancel {unit_id}")
        await foo.wait_final(unit_id)
    async with foo.running():
        status = await shown(foo, unit_id)
        assert status["SubmittedBy"] == ANN.to_json()
        assert status["SubmittedParams"] == "-n 3"


async def test_the_remote_half_says_the_node_of_origin_and_for_whom_that_says_it_asks(
    foo, bar, caplog
):
    caplog.set_level("INFO")
    foo.clients["client"] = ANN
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait", params="-n 3")
        await foo.wait_for(unit_id, lambda status: status.remote.started)
        here = foo.status(unit_id)
        assert here.submitted_by == ANN
        there = await shown(bar, here.remote.unit_id)
        assert there["SubmittedBy"] == {"Kind": "mesh", "Node": "foo", "Claim": ANN.to_json()}
        assert there["SubmittedParams"] == "-n 3"
    assert f"created: wait, by node foo, which says for {ANN}: -n 3" in caplog.text


async def test_a_receptor_node_is_told_of_no_client(foo, bar):
    foo.clients["client"] = ANN
    bar.is_receptor = True
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat")
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.SUCCEEDED
        assert bar.status(status.remote.unit_id).submitted_by == MeshClient("foo")


async def test_an_older_meshnode_is_not_told_what_it_would_take_for_a_parameter(foo, bar):
    foo.clients["client"] = ANN
    foo.mesh.taken_keys = frozenset()
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "wait")
        await foo.wait_for(unit_id, lambda status: status.remote.started)
        there = foo.status(unit_id).remote.unit_id
        assert bar.status(there).submitted_by == MeshClient("foo")
        await foo.talk(f"work cancel {unit_id}")
        assert bar.status(there).ended_by.by == MeshClient("foo")


async def test_a_client_of_this_node_claims_nothing(foo):
    foo.clients["client"] = ANN
    root = json.dumps(UnixClient(0, 0, 1, "root").to_json())
    async with foo.running():
        unit_id = await foo.submit("foo", "cat", onbehalfof=root)
        assert foo.status(unit_id).submitted_by == ANN


async def test_a_node_in_between_says_which_node_asked_it_and_not_what_that_claimed(foo):
    client = MeshClient("bar", "abc", ANN)
    assert claim_of(client) == MeshClient("bar", "abc")
    assert claim_of(UnknownClient()) is None


@pytest.mark.parametrize("key", ["secret_x", "SECRET_X", "Secret_"])
async def test_secrets_are_no_part_of_what_is_shown(foo, caplog, key):
    caplog.set_level("DEBUG")
    async with foo.running():
        unit_id = await foo.submit("foo", "wait", **{key: SECRET}, params="open")
        assert (await shown(foo, unit_id))["SubmittedParams"] == "open"
        assert SECRET not in (foo.store.directory(unit_id) / "status").read_text()
    assert SECRET not in caplog.text


keys = st.one_of(st.just("params"), st.text(), st.text().map("secret_".__add__))


@given(st.dictionaries(keys, st.text(max_size=300).map(lambda text: text * 10)))
def test_whatever_the_parameters_are_they_are_shown_as_a_short_line(params: dict[str, str]) -> None:
    line = Submission("foo", "cat", params).shown_params
    assert line.isprintable()
    assert len(line) <= MAX_SHOWN


@given(st.text(), st.text(min_size=1))
def test_no_part_of_a_secret_is_shown_whatever_its_name_ends_in(name: str, value: str) -> None:
    params = {"params": "x", f"Secret_{name}": value}
    assert Submission("foo", "cat", params).shown_params == "x"


clients = st.one_of(
    st.builds(
        UnixClient,
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**31 - 1),
        st.text(max_size=MAX_USER).filter(str.isprintable),
    ),
    st.builds(TcpClient, st.text(min_size=1, max_size=MAX_ADDRESS).filter(str.isprintable)),
    st.builds(
        MeshClient,
        st.text(min_size=1, max_size=MAX_NODE).filter(str.isprintable),
        st.text(max_size=MAX_SERVICE).filter(str.isprintable),
    ),
)


@given(clients)
def test_a_claim_arrives_as_it_was_sent(client) -> None:
    claim = json.dumps(client.to_json())
    assert len(claim) <= MAX_CLAIM or isinstance(client, MeshClient)
    if len(claim) <= MAX_CLAIM:
        assert submitted(onbehalfof=claim).claim == client


@given(st.text() | st.sampled_from(["[" * 2000, '{"Kind":' * 250, "NaN", "1e999", '"\\ud800"']))
def test_whatever_stands_for_a_claim_the_submission_is_read_and_it_is_no_parameter(text) -> None:
    submission = submitted(onbehalfof=text)
    assert submission.claim is None
    assert submission.params == {}


FIRST = UnitStatus(UnitState.PENDING, "Waiting for Input Data", "cat")


@given(clients | st.builds(MeshClient, st.just("foo"), st.just("x"), clients), st.text())
def test_a_record_is_read_as_it_was_written(client, params) -> None:
    line = Submission("foo", "cat", {"params": params}).shown_params
    status = replace(FIRST, submitted_by=client, signed_by=line[:20], submitted_params=line)
    assert UnitStatus.from_json(json.loads(json.dumps(status.to_disk()))) == status


def test_a_record_of_an_older_version_names_nobody() -> None:
    data = FIRST.to_disk()
    assert not {"SubmittedBy", "SubmittedParams"} & set(data)
    status = UnitStatus.from_json(data)
    assert (status.submitted_by, status.submitted_params) == (None, "")
    assert status_reply(status, 0)["SubmittedBy"] is None


def test_who_submitted_is_kept_also_if_only_a_later_version_can_tell_who_it_is() -> None:
    by = {"Kind": "certificate", "Subject": "CN=ann"}
    status = UnitStatus.from_json(FIRST.to_disk() | {"SubmittedBy": by})
    assert status.submitted_by is None
    assert status.to_disk()["SubmittedBy"] == by


@pytest.mark.parametrize("params", [7, ["x"], {"a": 1}])
def test_parameters_of_another_type_are_no_record(params) -> None:
    with pytest.raises(WorkError, match="SubmittedParams"):
        UnitStatus.from_json(FIRST.to_disk() | {"SubmittedParams": params})


def test_parameters_in_a_file_that_are_long_are_cut_and_made_printable() -> None:
    status = UnitStatus.from_json(FIRST.to_disk() | {"SubmittedParams": "\x1b" + "x" * 10_000})
    assert status.submitted_params.isprintable()
    assert len(status.submitted_params) == MAX_SHOWN
