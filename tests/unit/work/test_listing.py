"""Pages of units: joined they are the list, whatever comes and goes between them."""

import contextlib
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_auth_can import rules
from work_fakes import START

from meshnode.errors import BadQuery
from meshnode.permissions import Verb
from meshnode.protocol.control import encode_reply
from meshnode.protocol.lifecycle import UnitState
from meshnode.security.access import AccessRules, Target
from meshnode.security.identity import MeshClient, TcpClient, UnixClient
from meshnode.work.units import access, listing
from meshnode.work.units.access import Caller, UnitAccess
from meshnode.work.units.follow import shown
from meshnode.work.units.jsonreader import format_datetime
from meshnode.work.units.listing import send_all, send_page
from meshnode.work.units.remoteextra import RemoteExtra
from meshnode.work.units.requests import ListRequest, parse_json
from meshnode.work.units.signatures import Signatures
from meshnode.work.units.status import REMOTE, UnitStatus
from meshnode.work.units.unit import Unit
from meshnode.work.units.wanted import KEYS, Wanted, cursor_of

ANN, BOB = UnixClient(1000, 1000, 7, "ann"), TcpClient("10.0.0.1:5")
ANN_LATER = replace(ANN, pid=8)
ANNS_NODE = MeshClient("bar", "", ANN)
NAMES = ("cat", "sleep", "ä")
LABELS = st.dictionaries(st.sampled_from(["batch", "team"]), st.sampled_from(["", "a", "b=c"]))
MOMENTS = st.integers(0, 6).map(lambda n: format_datetime(START + timedelta(microseconds=n)))


class NoOutput:
    """A store whose units have printed nothing."""

    def output_sizes(self, unit_id, recorded):
        return recorded


@dataclass
class Reader:
    """A session that keeps what is sent, and counts what each turn looks at."""

    node_id: str = "foo"
    sent: bytearray = field(default_factory=bytearray)
    in_turn: bool = False
    looked_at: list[int] = field(default_factory=list)

    @asynccontextmanager
    async def turn(self):
        self.looked_at.append(0)
        self.in_turn = True
        yield
        self.in_turn = False

    async def send(self, data: bytes) -> None:
        assert not self.in_turn, "a slow client would hold up everybody else"
        self.sent += data


STATUSES = st.builds(
    lambda state, node, work_type, **more: UnitStatus(
        state=state,
        detail="",
        work_type=REMOTE if node else work_type,
        remote=RemoteExtra(node, work_type) if node else None,
        **more,
    ),
    st.sampled_from(UnitState),
    st.sampled_from(["", "", "bar", "cod"]),
    st.sampled_from(NAMES),
    created=st.none() | MOMENTS,
    labels=LABELS,
    submitted_by=st.sampled_from([None, ANN, ANN_LATER, BOB, ANNS_NODE]),
)


def made(statuses, first=0) -> list[Unit]:
    return [
        Unit(f"{first + n:08d}", status, NoOutput())  # type: ignore[arg-type]
        for n, status in enumerate(statuses)
    ]


UNITS = st.lists(STATUSES, max_size=25).map(made)
QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "state": st.lists(st.sampled_from([state.label for state in UnitState]), max_size=3),
        "type": st.lists(st.sampled_from([*NAMES, "nosuch"]), max_size=2) | st.sampled_from(NAMES),
        "node": st.lists(st.sampled_from(["foo", "bar", "cod", ""]), max_size=2),
        "label": st.lists(st.sampled_from(["batch", "team=a", "team=b=c", "x="]), max_size=2),
        "submitter": st.sampled_from(["ann", "1000", "10.0.0", "bar", "Uid", "", "tcp"]),
        "batch": st.sampled_from(["a", "", "nosuch"]),
        "since": MOMENTS | st.just("2026-11-02T04:00:00.000003+01:00") | st.just("2026-11-03"),
    },
)
LIMITS = st.none() | st.integers(1, 9)


def wants(query, status) -> bool:
    """Say of what clients see of a unit whether it fits: written without a look at the code."""
    extra = status["ExtraData"] or {}
    submitter = json.dumps(status["SubmittedBy"] or {}, ensure_ascii=False)
    labels = status.get("Labels", {})
    types = query.get("type", [])
    asked = [label.partition("=") for label in query.get("label", [])]
    if query.get("batch"):
        asked.append(("batch", "=", query["batch"]))
    since = query.get("since")
    part = query.get("submitter", "")

    def moment(text):
        told = datetime.fromisoformat(text)
        return told if told.tzinfo else told.replace(tzinfo=UTC)

    return (
        (not query.get("state") or status["StateName"] in query["state"])
        and (
            not types
            or extra.get("RemoteWorkType", status["WorkType"])
            in ([types] if isinstance(types, str) else types)
        )
        and (not query.get("node") or extra.get("RemoteNode", "foo") in query["node"])
        and all(name in labels and (not eq or labels[name] == v) for name, eq, v in asked)
        # The names of fields are no part of a submitter.
        and (not part or (part != "Uid" and part in submitter))
        and (
            since is None
            or (status["Created"] is not None and moment(status["Created"]) >= moment(since))
        )
    )


def page(units, query, reader=None, shows=lambda unit: True):
    """Return the reply to a request for a page, as a client reads it."""
    reader = reader or Reader()
    wanted = Wanted.from_json(query)
    assert wanted is not None
    with pytest.raises(StopIteration):  # nothing here waits, so one step is all of it
        send_page(tuple(units), reader, wanted, shows).send(None)  # type: ignore[arg-type]
    assert reader.sent.count(b"\n") == 1
    return json.loads(reader.sent)


def newest_first(units) -> list[str]:
    ordered = sorted(units, key=lambda unit: (unit.status.created or "", unit.unit_id))
    return [unit.unit_id for unit in reversed(ordered)]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(listing, "LOOKED_AT_ONCE", 4)
    monkeypatch.setattr(listing, "LISTED_AT_ONCE", 3)
    monkeypatch.setattr(listing, "ORDERED_AT_ONCE", 5)


@given(UNITS, QUERIES, LIMITS, st.randoms(use_true_random=False))
def test_the_pages_joined_are_all_units_that_fit_the_newest_first(units, query, limit, random):
    random.shuffle(units)
    fitting = [unit for unit in units if wants(query, shown(unit))]
    expected, found, cursor = newest_first(fitting), [], None
    statuses = {unit.unit_id: {"ID": unit.unit_id, **shown(unit)} for unit in units}
    while True:
        told = page(units, {"state": [], **query, "limit": limit, "cursor": cursor})
        assert all(statuses[item["ID"]] == json.loads(json.dumps(item)) for item in told["items"])
        found += [item["ID"] for item in told["items"]]
        assert len(found) <= len(expected)
        assert told["total"] == len(expected) == sum(told["states"].values())
        cursor = told["next"]
        if cursor is None:
            break
        assert len(told["items"]) == limit
        assert len(found) < len(expected), "the last page has no next"
    assert found == expected


@given(UNITS, st.lists(st.lists(STATUSES, max_size=4), max_size=6), st.data(), st.integers(1, 5))
def test_what_comes_and_goes_between_pages_makes_no_unit_come_twice_and_none_missing(
    units, coming, data, limit
):
    there_all_the_time = {unit.unit_id for unit in units}
    found, cursor, number = [], None, 1000
    while True:
        told = page(units, {"limit": limit, "cursor": cursor})
        found += [item["ID"] for item in told["items"]]
        assert len(found) == len(set(found))
        cursor = told["next"]
        if cursor is None:
            break
        for unit in data.draw(st.lists(st.sampled_from(units), max_size=4)):
            # It is gone, or it has become another.
            if data.draw(st.booleans()) and unit in units:
                units = [one for one in units if one is not unit]
                there_all_the_time.discard(unit.unit_id)
            else:
                unit.status = replace(data.draw(STATUSES), created=unit.status.created)
        # Whatever time they tell: the clock may have been set back.
        more = coming.pop() if coming else []
        units = units + made(more, number)
        number += len(more)
    assert there_all_the_time <= set(found)


RULES = [
    (),
    ("action=allow | who=any | do=list | units=own",),
    (
        "action=deny | who=any | do=list | worktype=cat | units=all",
        "action=allow | who=any | do=list | units=all",
    ),
    ("action=allow | who=any | do=list | tonode=bar | units=all",),
    (
        "action=deny | who=any | do=list | worktype=sleep | units=own",
        "action=allow | who=any | do=list | units=all",
    ),
]


@cache
def written(texts):
    return rules(*texts)


@given(UNITS, QUERIES, st.sampled_from([ANN, BOB, ANNS_NODE]), st.sampled_from(RULES), LIMITS)
def test_only_what_the_client_may_list_is_shown_and_counted(units, query, client, texts, limit):
    caller = Caller(node=client.node if isinstance(client, MeshClient) else "", client=client)
    units_access = UnitAccess("foo", {}, Signatures(), rules=AccessRules(written(texts)))
    may_see = units_access.lister(caller)
    told = page(
        units,
        {**query, "limit": limit, "state": query.get("state", [])},
        shows=lambda unit: may_see(unit.unit_id, unit.status),
    )
    seen = [u for u in units if may_see(u.unit_id, u.status) and wants(query, shown(u))]
    assert [item["ID"] for item in told["items"]] == newest_first(seen)[:limit]
    assert told["total"] == len(seen)


@pytest.mark.parametrize("most", [1, 5, 4096])
@pytest.mark.parametrize("texts", RULES[1:])
@pytest.mark.parametrize("client", [ANN, BOB, ANNS_NODE], ids=str)
def test_a_list_shows_each_unit_that_rules_let_the_client_list(client, texts, most, monkeypatch):
    monkeypatch.setattr(access, "MOST_KNOWN", most)
    caller, judge = Caller(client=client), AccessRules(written(texts))
    statuses = [
        UnitStatus(
            state=UnitState.RUNNING,
            detail="",
            work_type=REMOTE if node else work_type,
            remote=RemoteExtra(node, work_type) if node else None,
            submitted_by=owner,
        )
        for owner in (None, ANN, BOB, ANN_LATER, ANNS_NODE, ANN)
        for node in ("", "bar", "cod")
        for work_type in NAMES
    ]
    may_see = UnitAccess("foo", {}, Signatures(), rules=judge).lister(caller)
    seen = [may_see(str(n), status) for n, status in enumerate(statuses)]
    targets = [
        Target(
            node=status.remote.node if status.remote else "foo",
            work_type=status.remote.work_type if status.remote else status.work_type,
            owner=status.submitted_by,
        )
        for status in statuses
    ]
    assert seen == [judge.may(caller.asker(), Verb.LIST, target) for target in targets]


@given(UNITS, QUERIES, LIMITS)
def test_no_turn_takes_longer_the_more_units_there_are(units, query, limit):
    reader = Reader()

    def shows(unit):
        assert reader.in_turn, "everybody else waits"
        reader.looked_at[-1] += 1
        return True

    page(units, {**query, "limit": limit, "type": query.get("type", [])}, reader, shows)
    assert max(reader.looked_at, default=0) <= max(listing.LOOKED_AT_ONCE, listing.LISTED_AT_ONCE)


@given(UNITS.filter(bool), st.data())
def test_a_unit_that_is_released_while_others_are_looked_at_is_not_shown(units, data):
    gone = data.draw(st.sampled_from(units))

    class Forgetful(Reader):
        async def send(self, data: bytes) -> None:
            gone.released = True
            await super().send(data)

    told = page(units, {"state": []}, Forgetful())
    shown_ids = [item["ID"] for item in told["items"]]
    # It was sent before, or it is left out; the others are all there.
    assert [one for one in newest_first(units) if one != gone.unit_id] == [
        one for one in shown_ids if one != gone.unit_id
    ]
    first_piece = newest_first(units)[: listing.LISTED_AT_ONCE]
    assert (gone.unit_id in shown_ids) == (gone.unit_id in first_piece)


def test_a_page_of_no_units_counts_all():
    units = made([UnitStatus(UnitState.RUNNING, "", "cat"), UnitStatus(UnitState.FAILED, "", "x")])
    assert page(units, {"limit": 0}) == {
        "items": [],
        "next": None,
        "states": {"Pending": 0, "Running": 1, "Succeeded": 0, "Failed": 1, "Canceled": 0},
        "total": 2,
    }


@given(UNITS, st.sets(st.integers(0, 24)), st.randoms(use_true_random=False))
def test_all_units_come_in_the_order_of_their_ids_but_those_that_are_hidden(units, hidden, random):
    random.shuffle(units)
    reader = Reader()

    def shows(unit):
        assert reader.in_turn, "everybody else waits"
        return int(unit.unit_id) not in hidden

    with pytest.raises(StopIteration):
        send_all(tuple(units), reader, shows).send(None)  # type: ignore[arg-type]
    seen = {unit.unit_id: shown(unit) for unit in units if int(unit.unit_id) not in hidden}
    assert bytes(reader.sent) == encode_reply(seen)


# --- What a request may say -----------------------------------------------------------------------


WRONG = [
    {"state": "bogus"},
    {"state": ""},
    {"state": ["running", 1]},
    {"type": {"a": 1}},
    {"node": 7},
    {"label": True},
    {"submitter": ["ann"]},
    {"batch": 1},
    {"since": "noon"},
    {"since": "0001-01-01T00:00:00+14:00"},
    {"since": 3},
    {"limit": -1},
    {"limit": True},
    {"limit": 1.0},
    {"limit": "10"},
    {"limit": 2**53 + 1},
    {"cursor": "x"},
    {"cursor": "ä"},
    {"cursor": 3},
    {"cursor": ""},
    {"cursor": "WzEsMl0"},
    {"cursor": "W1tbW1tbW1tbW1tbW1tbW1tb" * 1000},
]


@pytest.mark.parametrize("query", WRONG, ids=str)
def test_what_cannot_be_read_is_refused_by_its_name(query):
    [name] = query
    with pytest.raises(BadQuery, match=f"^{name} must be "):
        Wanted.from_json(query)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(KEYS), JSON), UNITS)
def test_any_query_is_refused_or_answered(query, units):
    with contextlib.suppress(BadQuery):
        is_plain = all(value is None for value in query.values())
        assert (Wanted.from_json(query) is None) == is_plain
        if not is_plain:
            assert page(units, query)["total"] <= len(units)


@given(st.tuples(st.text(), st.text()))
def test_a_cursor_is_read_as_it_was_written(place):
    wanted = Wanted.from_json({"cursor": cursor_of(place)})
    assert wanted is not None
    assert wanted.after == place


@pytest.mark.parametrize("query", [{}, dict.fromkeys(KEYS), {"other": 1, "Limit": 3}])
def test_without_any_of_its_keys_a_list_is_of_all_units(query):
    assert parse_json({"subcommand": "list", **query}).wanted is None


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_whatever_else_a_request_for_one_unit_has_says_nothing(query):
    request = parse_json({**query, "subcommand": "list", "unitid": "XXXXXXXX"})
    assert request == ListRequest("XXXXXXXX")


# --- A node --------------------------------------------------------------------------------------


async def test_a_node_answers_with_pages(foo, autojump_clock):
    async with foo.running():
        made = [await foo.submit("foo", "cat") for _ in range(5)]
        await foo.submit("foo", "wait")
        query = {"command": "work", "subcommand": "list", "type": "cat", "limit": 2}
        found, more = [], {}
        while more is not None:
            (line,) = await foo.talk({**query, **more})
            told = json.loads(line)
            assert told["total"] == 5
            found += [item["ID"] for item in told["items"]]
            more = told["next"] and {"cursor": told["next"]}
        assert sorted(found) == sorted(made)
        assert await foo.talk({**query, "limit": -1}) == [
            f"ERROR: limit must be a whole number from 0 to {2**53}"
        ]
