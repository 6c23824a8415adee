"""What another node says of a unit is read and bounded where it comes in."""

import json
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshnode.protocol.control import encode_reply
from meshnode.protocol.lifecycle import UnitState
from meshnode.work.local.launcher.records import SIZE_KEYS
from meshnode.work.remote.failures import MAX_TEXT, printable
from meshnode.work.remote.replies import AHEAD, INLINE_KEYS, NoStatus, RemoteStatus
from meshnode.work.units.jsonreader import format_datetime
from meshnode.work.units.placement import MAX_HOST, ChosenHost
from meshnode.work.units.remoteextra import RemoteExtra
from meshnode.work.units.status import UnitStatus
from meshnode.work.units.statusfields import MAX_NUMBER_NAME, MOST_NUMBERS
from meshnode.work.units.statusreply import status_reply
from meshnode.work.units.submission import MAX_SHOWN

NOW = datetime(2026, 11, 2, 3, 0, 0, tzinfo=UTC)
OURS = UnitStatus(UnitState.RUNNING, "", "remote", remote=RemoteExtra("bar", "cat"))

# With halves of surrogate pairs, which JSON's escapes can write and no UTF-8 can.
texts = st.text(st.characters(exclude_categories=()), max_size=40) | st.sampled_from(
    ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "x" * 10_000, "\ud800", "a\nb\x1b[31m"]
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**63), 10**400, -1])
    | st.floats()
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
KEYS = [
    *("State", "StateName", "Detail", "StdoutSize", "WorkType", "ExtraData", "Created", "Started"),
    *("Finished", "ExitCode", "Signal", "StdinSize", "StderrSize", "IndexSize"),
    *("Pid", "Limits", "Usage", "Isolation", "Host"),
    *INLINE_KEYS.values(),
]
GOOD = {"State": 1, "Detail": "Running: PID 7", "StdoutSize": 5, "WorkType": "cat"}


def assert_fit_for_a_record(status):
    """What was read of the other node can be stored, read again and shown."""
    record = replace(
        OURS,
        state=status.state,
        detail=status.detail,
        started=status.started,
        finished=status.finished,
        exit_code=status.exit_code,
        signal=status.signal,
        pid=status.pid,
        limits=status.limits,
        usage=status.usage,
        isolation=status.isolation,
        host=status.host,
    ).with_sizes({SIZE_KEYS[name]: size for name, size in status.sizes.items()})
    assert UnitStatus.from_json(json.loads(json.dumps(record.to_disk()))) == record
    encode_reply(status_reply(record, 0))
    assert status.detail.isprintable()
    assert len(status.detail) <= MAX_TEXT
    for told in (status.limits, status.usage):
        assert len(told) <= MOST_NUMBERS
        assert all(name.isprintable() and len(name) <= MAX_NUMBER_NAME for name in told)
    assert status.isolation.isprintable()
    assert len(status.isolation) <= MAX_SHOWN
    if status.host is not None:
        assert f"{status.host.name}{status.host.reason}".isprintable()
        assert len(status.host.name) <= MAX_HOST
        assert len(status.host.reason) <= MAX_SHOWN


hosts = st.fixed_dictionaries({"Name": texts}, optional={"Chosen": json_values, "More": texts})
numbers = st.dictionaries(
    texts | st.sampled_from(["cpu", "memory", "CpuSeconds"]),
    st.integers() | st.floats() | st.sampled_from([0, 1.5, 2**63, 10**400, float("nan")]),
    max_size=2 * MOST_NUMBERS,
)


@given(
    st.dictionaries(st.sampled_from(KEYS), json_values | numbers | hosts).map(
        lambda odd: GOOD | odd
    )
)
@example(GOOD | {"State": 1.0})
@example(GOOD | {"State": True})
@example(GOOD | {"StdoutSize": float("inf")})
@example(GOOD | {"StdoutSize": "5"})
def test_any_reply_is_a_status_that_can_be_kept_or_a_named_error(reply):
    refusal = ""
    try:
        assert_fit_for_a_record(RemoteStatus.from_reply(reply, NOW))
    except NoStatus as error:
        refusal = str(error)
    assert refusal.isprintable()
    assert len(refusal) < 100


def test_what_a_unit_may_have_and_uses_is_taken_over_as_it_is_told():
    told = {
        "Pid": 7,
        "Limits": {"cpu": 1.5, "memory": 2**28},
        "Usage": {"CpuSeconds": 0.25, "PeakMemory": 4096},
        "Isolation": "pid, network: none",
        "Host": {"Name": "anna", "Chosen": "random of 2"},
    }
    status = RemoteStatus.from_reply(GOOD | told, NOW)
    assert (status.pid, status.isolation) == (7, told["Isolation"])
    assert (status.limits, status.usage) == (told["Limits"], told["Usage"])
    assert status.host == ChosenHost("anna", "random of 2")


@pytest.mark.parametrize("key", ["State", *SIZE_KEYS.values()])
@pytest.mark.parametrize("value", [None, -1, 9, 1.0, True, "1", [1], {}, 2**63, 10**400])
def test_state_and_size_that_make_no_sense_are_no_status(key, value):
    if key != "State" and value == 9:
        return
    with pytest.raises(NoStatus, match=key):
        RemoteStatus.from_reply(GOOD | {key: value}, NOW)


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("2026-11-02T03:00:09.000000Z", "2026-11-02T03:00:09.000000Z"),
        ("2026-11-02T04:00:09+01:00", "2026-11-02T03:00:09.000000Z"),
        ("2026-11-02T03:00:09.123456789Z", "2026-11-02T03:00:09.123456Z"),
        ("9999-12-31T23:59:59Z", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        (format_datetime(NOW + AHEAD + timedelta(seconds=1)), None),
        ("yesterday", None),
        (1793588409, None),
        (None, None),
    ],
)
def test_a_time_is_taken_over_in_our_form_if_it_can_be_one(told, kept):
    status = RemoteStatus.from_reply(GOOD | {"Started": told, "Finished": told}, NOW)
    assert (status.started, status.finished) == (kept, kept)


@pytest.mark.parametrize("name", INLINE_KEYS)
@pytest.mark.parametrize("output", ["%%%", 7, "é", b64encode(b"x" * 100_000).decode(), "YQ"])
def test_output_that_came_along_damaged_counts_as_not_come_along(name, output):
    status = RemoteStatus.from_reply(GOOD | {INLINE_KEYS[name]: output}, NOW)
    assert status.inline == {name: b""}


def test_a_detail_of_a_person_stays_as_it_is():
    for detail in ("exit status 3", "signal: killed", "Ошибка: 作業 é", "Running: PID 7"):
        assert RemoteStatus.from_reply(GOOD | {"Detail": detail}, NOW).detail == detail


@given(texts, st.integers(1, 50))
def test_a_printable_text_is_one_line_no_longer_than_asked(text, most):
    shown = printable(text, most)
    assert shown.isprintable()
    assert len(shown) <= most
    if text.isprintable() and len(text) <= most:
        assert shown == text
