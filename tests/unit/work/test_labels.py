"""Labels of units: kept, shown, sent along to other meshnodes, and bounded."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config.names import MAX_LABEL_CHARACTERS, MAX_LABEL_NAME, MAX_LABELS
from meshnode.errors import CommandError
from meshnode.protocol.control import CLAIM_KEY, LABELS_KEY
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.units.labels import labels_text, parse_labels, recorded_labels
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.statusreply import status_reply

LABELS = {"team": "ops", "app.example.org/job": "nightly run", "urgent": ""}

NAMES = st.from_regex(
    rf"[A-Za-z0-9]([A-Za-z0-9._/-]{{0,{MAX_LABEL_NAME - 2}}}[A-Za-z0-9])?", fullmatch=True
)
VALUES = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=64)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def shown(lines):
    return json.loads(lines[-1])


async def test_labels_are_shown_in_status_and_list_and_outlive_a_restart(foo, autojump_clock):
    async with foo.running():
        unit_id = await foo.submit("foo", "cat", **{LABELS_KEY: json.dumps(LABELS)})
        plain = await foo.submit("foo", "cat")
        await foo.wait_final(unit_id)
    async with foo.running():
        assert shown(await foo.talk(f"work status {unit_id}"))["Labels"] == LABELS
        listed = shown(await foo.talk("work list"))
        assert listed[unit_id]["Labels"] == LABELS
        assert "Labels" not in listed[plain]


async def test_labels_of_a_remote_unit_are_those_of_the_unit_that_runs_it(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat", **{LABELS_KEY: json.dumps(LABELS)})
        status = await foo.wait_final(unit_id)
        assert status.state is UnitState.SUCCEEDED
        assert status.labels == bar.status(status.remote.unit_id).labels == LABELS
        assert status.remote.params == {}


async def test_an_adopted_unit_has_the_labels_of_the_unit_there(foo, bar, autojump_clock):
    async with foo.running(), bar.running():
        far = await bar.submit("bar", "cat", **{LABELS_KEY: json.dumps(LABELS)})
        (line,) = await foo.talk(f"work adopt bar {far}")
        assert foo.status(json.loads(line)["unitid"]).labels == LABELS


async def test_a_receptor_node_is_sent_no_labels(foo, bar, autojump_clock):
    bar.is_receptor = True
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat", **{LABELS_KEY: json.dumps(LABELS)})
        status = await foo.wait_final(unit_id)
        assert (status.state, status.labels) == (UnitState.SUCCEEDED, LABELS)
        assert bar.status(status.remote.unit_id).labels == {}


async def test_an_older_meshnode_is_sent_no_labels(foo, bar, autojump_clock):
    foo.mesh.taken_keys = frozenset({CLAIM_KEY})
    async with foo.running(), bar.running():
        unit_id = await foo.submit("bar", "cat", **{LABELS_KEY: json.dumps(LABELS)})
        status = await foo.wait_final(unit_id)
        assert (status.state, status.labels) == (UnitState.SUCCEEDED, LABELS)
        assert bar.status(status.remote.unit_id).labels == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", f"field {LABELS_KEY} must be an object in JSON"),
        ("[]", f"field {LABELS_KEY} must be an object in JSON"),
        ('{"": "x"}', "label '': a name has at most 63 of the characters A-Za-z0-9._/-"),
        ('{"a b": "x"}', "label 'a b': a name has at most"),
        ('{"a": 1}', "label 'a': a name has at most"),
        ('{"a": "x\\n"}', "label 'a': a name has at most"),
        (json.dumps({"x" * 64: ""}), "label 'xxx"),
        (json.dumps({f"n{i}": "" for i in range(MAX_LABELS + 1)}), "a unit has at most 16 labels"),
        (json.dumps({"n": "x" * MAX_LABEL_CHARACTERS}), "a unit has at most 16 labels of 1024"),
    ],
)
async def test_what_is_no_label_is_refused_and_nothing_is_made(foo, text, told, autojump_clock):
    request = {"command": "work", "subcommand": "submit", "node": "foo", "worktype": "cat"}
    async with foo.running():
        (line,) = await foo.talk(request | {LABELS_KEY: text})
        assert line.startswith(f"ERROR: {told}")
        assert foo.left() == []


@given(st.dictionaries(NAMES, VALUES, max_size=MAX_LABELS))
def test_labels_within_the_bounds_are_kept_as_they_are(labels):
    size = sum(len(name) + len(value) for name, value in labels.items())
    if size > MAX_LABEL_CHARACTERS:
        with pytest.raises(CommandError):
            parse_labels(labels_text(labels))
    else:
        assert parse_labels(labels_text(labels)) == labels
        assert recorded_labels(labels) == labels


@given(ANY)
def test_whatever_stands_in_a_record_a_unit_has_labels_that_can_be_shown(data):
    labels = recorded_labels(data)
    assert parse_labels(labels_text(labels)) == labels
    record = {"State": 2, "WorkType": "cat", "Labels": data}
    json.dumps(status_reply(UnitStatus.from_json(record), 0)).encode()


@given(st.text() | ANY.map(json.dumps))
def test_any_text_gives_labels_or_a_refusal_in_one_line(text):
    told = ""
    try:
        labels = parse_labels(text)
    except CommandError as error:
        told = str(error)
    else:
        assert parse_labels(labels_text(labels)) == labels
    assert "\n" not in told
    assert len(told) < 500
