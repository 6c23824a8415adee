"""What status says of configured peers and listeners, as clients get it."""

import json
from pathlib import Path

import trio
from hypothesis import given
from hypothesis import strategies as st
from tls_makers import DAY, authority

from meshnode.control.link_fields import LINK_FIELDS, certificate_fields
from meshnode.mesh.peers.conditions import (
    ConfiguredListener,
    ConfiguredPeer,
    LinksReport,
    ListenerCondition,
    ListenerState,
    Moment,
    PeerCondition,
    PeerState,
    Rejected,
    Trouble,
)
from meshnode.security.certificates import decode_certificate
from meshnode.security.tlsstore import ShownCertificate

MOMENTS = st.builds(
    Moment, st.floats(0, 4e9, allow_nan=False), st.floats(-1e6, 1e6, allow_nan=False)
)
TROUBLES = st.none() | st.builds(Trouble, st.text(max_size=20), MOMENTS)
TEXTS = st.text(max_size=20)
REPORTS = st.builds(
    LinksReport,
    st.tuples(
        st.builds(
            ConfiguredPeer,
            TEXTS,
            TEXTS,
            st.builds(
                PeerCondition,
                st.sampled_from(PeerState),
                TEXTS,
                MOMENTS,
                st.integers(0, 1000),
                TROUBLES,
                st.none() | MOMENTS,
            ),
        )
    ),
    st.tuples(
        st.builds(
            ConfiguredListener,
            TEXTS,
            TEXTS,
            st.builds(
                ListenerCondition,
                st.sampled_from(ListenerState),
                MOMENTS,
                st.integers(0, 9),
                st.integers(0, 9),
                TROUBLES,
            ),
        )
    ),
    st.tuples(st.builds(Rejected, TEXTS, TEXTS, TEXTS, TEXTS, MOMENTS, MOMENTS)),
)


def fields_of(report: LinksReport) -> dict[str, list[dict[str, object]]]:
    async def main() -> dict[str, list[dict[str, object]]]:
        return {name: field(report) for name, field in LINK_FIELDS.items()}

    fields: dict[str, list[dict[str, object]]] = json.loads(json.dumps(trio.run(main)))
    return fields


@given(REPORTS)
def test_any_report_is_told_and_no_span_is_below_zero(report: LinksReport) -> None:
    fields = fields_of(report)
    for name in ("Peers", "Listeners", "Rejected"):
        (entry,) = fields[name]
        for key in ("Age", "LastErrorAge", "NextTryIn", "LastAge"):
            value = entry.get(key)
            assert value is None or (isinstance(value, int) and value >= 0)


@given(REPORTS)
def test_what_is_not_so_is_null_and_its_time_and_span_with_it(report: LinksReport) -> None:
    fields = fields_of(report)
    (peer,), (listener,) = fields["Peers"], fields["Listeners"]
    assert (peer["NextTry"] is None) == (report.peers[0].condition.next_try is None)
    assert (peer["NextTry"] is None) == (peer["NextTryIn"] is None)
    assert peer["NodeID"] == (report.peers[0].condition.node or None)
    for entry in (peer, listener):
        nulls = {entry[key] is None for key in ("LastError", "LastErrorTime", "LastErrorAge")}
        assert len(nulls) == 1


def test_nothing_configured_is_nothing_told() -> None:
    assert not any(fields_of(LinksReport()).values())


def test_a_certificate_is_told_with_its_names_and_its_end() -> None:
    made = authority().issue(
        "foo", nodes=["foo"], hosts=["a.example"], addresses=["::1"], ends=3 * DAY
    )
    certificate = decode_certificate(made.der)
    shown = ShownCertificate("tls-server", "srv", Path("/etc/foo.crt"), certificate)
    (told,) = json.loads(json.dumps(certificate_fields([shown])))
    assert told["NodeIDs"] == ["foo"]
    assert told["Hosts"] == ["a.example", "::1"]
    assert (told["Directive"], told["Name"], told["File"]) == ("tls-server", "srv", "/etc/foo.crt")
    assert told["NotAfter"].startswith(f"{certificate.not_after:%Y-%m-%dT%H:%M:%S}")
    assert 2.9 * 86400e9 < told["EndsIn"] < 3 * 86400e9
