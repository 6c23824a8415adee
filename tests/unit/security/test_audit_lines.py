"""What one line of the audit log says, whatever the texts in it are."""

import json
import string
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.security.auditlines import MAX_LINE, AuditEvent, Kind, encode, units_ended
from meshnode.security.identity import (
    CertificateNames,
    Identity,
    MeshClient,
    TcpClient,
    UnixClient,
    UnknownClient,
)

MOMENT = datetime(2026, 11, 26, 5, 30, 1, 250, tzinfo=UTC)

anything = st.text(max_size=600) | st.sampled_from(
    ["\n", '"}\n{"event":"submit"}', "\x1b[2J", "\u2028", "\ud800", "🦊" * 600, "\x00" * 600]
)
certificates = st.none() | st.builds(
    CertificateNames, anything, st.lists(anything, max_size=64).map(tuple)
)
clients: st.SearchStrategy[Identity] = st.one_of(
    st.builds(UnixClient, *[st.integers(0, 2**31)] * 3, anything),
    st.builds(TcpClient, anything, certificates),
    st.builds(MeshClient, anything, anything, st.builds(TcpClient, anything), certificates),
    st.just(UnknownClient()),
)
TEXTS = ("way", "asked", "unit", "work_type", "target", "remote_unit", "service")
MORE_TEXTS = ("params", "key", "rule", "outcome", "signal")
events = st.builds(
    AuditEvent,
    kind=st.sampled_from(Kind),
    by=st.none() | clients,
    ended_by=st.none() | clients,
    exit_code=st.none() | st.integers(-255, 255),
    lines=st.none() | st.integers(0, 10**9),
    **dict.fromkeys((*TEXTS, *MORE_TEXTS), anything),
)


def line_of(event: AuditEvent, node: str = "foo") -> dict[str, Any]:
    line: dict[str, Any] = json.loads(encode(event, node, MOMENT))
    return line


@given(events, anything)
def test_any_event_is_one_bounded_line_of_ascii_that_holds_one_object(
    event: AuditEvent, node: str
) -> None:
    line = encode(event, node, MOMENT)
    assert len(line) <= MAX_LINE
    assert set(line[:-1]) <= set(range(0x20, 0x7F))
    assert line[-1:] == b"\n"
    said = json.loads(line)
    assert said["event"] == event.kind
    assert said["time"] == "2026-11-26T05:30:01.000250Z"


@given(events)
def test_every_text_that_is_short_and_printable_stands_in_the_line_as_it_is(
    event: AuditEvent,
) -> None:
    said = line_of(event)
    for name in (*TEXTS, *MORE_TEXTS):
        text, key = getattr(event, name), "type" if name == "work_type" else name
        if text.isprintable() and len(text) <= 32:
            assert said.get(key, "") == text


@pytest.mark.parametrize("code", [0, 1])
def test_an_exit_code_of_zero_is_said_and_what_is_unknown_is_not(code: int) -> None:
    said = line_of(AuditEvent(Kind.END, exit_code=code))
    assert said == {
        "time": "2026-11-26T05:30:01.000250Z",
        "event": "end",
        "node": "foo",
        "exit_code": code,
    }


def test_an_identity_stands_in_the_line_as_in_the_status_of_a_unit() -> None:
    by = MeshClient("bar", "x", UnixClient(1000, 1000, 17, "alice"))
    assert line_of(AuditEvent(Kind.SUBMIT, by=by))["by"] == by.to_json()
    far = TcpClient("[::1]:9", CertificateNames("CN=" + string.ascii_letters, ("foo", "bar")))
    assert line_of(AuditEvent(Kind.END, ended_by=far))["ended_by"] == far.to_json()


@given(st.lists(st.tuples(events, st.booleans()), max_size=8), st.binary(max_size=40))
def test_ends_are_found_in_any_part_of_a_log(
    told: list[tuple[AuditEvent, bool]], torn: bytes
) -> None:
    lines = [encode(event, "foo", MOMENT) for event, _ in told]
    data = torn + b"\n" + b"".join(lines)
    wanted = {json.loads(line).get("unit") for line in lines if b'"event":"end"' in line}
    assert units_ended(data) >= {unit for unit in wanted if isinstance(unit, str)}
    assert units_ended(data[len(data) // 2 :]) <= units_ended(data)
