"""Streams with TLS settings at one end or both: who is let through, and what is said if not."""

import hashlib
import logging
from contextlib import asynccontextmanager

import pytest
import trio
from aioquic.quic.events import ConnectionTerminated
from aioquic.tls import Group
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from mesh_helpers import line
from tls_makers import (
    CLIENT,
    DAY,
    SERVER,
    Authority,
    authority,
    ends,
    good_ends,
    other_authority,
)

from meshnode.errors import HandshakeRefused, MeshTimeout, TlsProblem, TlsRefused
from meshnode.mesh.links.memory import seeded_loss
from meshnode.mesh.streams.certified import MAX_TOLD, Judge
from meshnode.mesh.streams.ends import describe_end
from meshnode.mesh.streams.packets import CertifiedTls
from meshnode.mesh.streams.quic import MeshQuicConnection
from meshnode.mesh.streams.timers import HANDSHAKE_TIMEOUT
from meshnode.net.sockets import identify
from meshnode.protocol.routing import ConnType
from meshnode.security.identity import CertificateNames

OLD = {"begins": -400 * DAY, "ends": -DAY}
FUTURE = {"begins": DAY, "ends": 300 * DAY}


def server(ca=None, **changes):
    return (ca or authority()).issue("server", **({"nodes": ["foo"]} | changes))


def client(ca=None, **changes):
    return (ca or authority()).issue("client", **({"nodes": ["bar"]} | changes))


def source(settings):
    return lambda: settings


@asynccontextmanager
async def service(tls=None):
    """A listener of node foo, and node bar that may dial it."""
    async with line("bar", "foo") as (bar, foo):
        listener = await foo.listen("svc", tls=None if tls is None else source(tls))
        yield bar, foo, listener


async def dial(bar, tls=None):
    return await bar.dial("foo", "svc", None if tls is None else source(tls))


async def check_talk(near, listener):
    far = await listener.accept()
    await near.send_all(b"question")
    assert await far.receive_some() == b"question"
    await far.send_all(b"answer")
    assert await near.receive_some() == b"answer"
    return far


async def test_two_ends_that_trust_each_other_talk_and_know_each_others_certificates(
    autojump_clock,
):
    tls = good_ends()
    async with service(tls.server) as (bar, _, listener):
        near = await dial(bar, tls.client)
        far = await check_talk(near, listener)
        assert near.certificate.node_ids == ("foo",)
        assert far.certificate.node_ids == ("bar",)
        assert identify(far).certificate == CertificateNames("CN=client", ("bar",))


async def test_an_end_without_settings_shows_and_knows_no_certificate(autojump_clock):
    async with service() as (bar, _, listener):
        near = await dial(bar)
        far = await check_talk(near, listener)
        assert (near.certificate, far.certificate) == (None, None)


# --- the matrix ----------------------------------------------------------------------------------

BAD_SERVERS = {
    "expired": (lambda: server(**OLD), ["expired at", "here it is", "check the clocks"]),
    "not yet valid": (lambda: server(**FUTURE), ["not yet valid", "begins at", "clocks"]),
    "wrong name": (lambda: server(nodes=["eve"]), ["does not name node foo", "node eve"]),
    "no name": (lambda: server(nodes=[]), ["does not name node foo", "localhost"]),
    "wrong CA": (lambda: server(other_authority()), ["not signed by a CA", "CN=Other CA"]),
    "wrong usage": (lambda: server(usages=[CLIENT]), ["may not be used as a server's"]),
}

BAD_CLIENTS = {
    "expired": (lambda: client(**OLD), ["expired at", "here it is", "check the clocks"]),
    "not yet valid": (lambda: client(**FUTURE), ["not yet valid", "begins at", "clocks"]),
    "wrong name": (lambda: client(nodes=["eve"]), ["does not name node bar", "node eve"]),
    "no name": (lambda: client(nodes=[]), ["does not name node bar", "localhost"]),
    "wrong CA": (lambda: client(other_authority()), ["not signed by a CA", "CN=Other CA"]),
    "wrong usage": (lambda: client(usages=[SERVER]), ["may not be used as a client's"]),
    "missing": (None, ["the client showed no certificate"]),
}


def logged(caplog, subject):
    """Return what was logged as a warning about the peers of one node's connections."""
    return "\n".join(
        r.getMessage()
        for r in caplog.records
        if r.levelno >= logging.WARNING and r.getMessage().startswith(f"connection {subject}:")
    )


async def refused(caplog, listens_with, dials_with):
    """Dial, expect a refusal, and return what dialer, its log, and the listener's log say."""
    async with service(listens_with) as (bar, foo, _):
        began = trio.current_time()
        with pytest.raises(HandshakeRefused) as refusal:
            await dial(bar, dials_with)
        assert trio.current_time() - began < 1
        await trio.sleep(2)  # of the test's clock: all that was on its way has arrived
        assert not len(foo._streams.connections)
        assert not len(bar._streams.connections)
    return str(refusal.value), logged(caplog, "foo"), logged(caplog, "bar")


async def test_a_refusal_is_logged_once_while_it_lasts_and_again_after_it_was_mended(
    caplog, autojump_clock
):
    bad, good = ends(client=client(**OLD)), good_ends()

    async def dial_in_vain():
        with pytest.raises(HandshakeRefused):
            await dial(bar, bad.client)
        await trio.sleep(2)

    def lines():
        return [logged(caplog, name).count("expired at") for name in ("foo", "bar")]

    async with service(good.server) as (bar, foo, listener):
        for _ in range(3):
            await dial_in_vain()
        assert lines() == [1, 1]
        await foo.listen("plain")
        await (await bar.dial("foo", "plain")).aclose()
        await dial_in_vain()
        assert lines() == [1, 1]
        with pytest.raises(HandshakeRefused):
            await dial(bar, ends(shows_none=True).client)
        await check_talk(await dial(bar, good.client), listener)
        await dial_in_vain()
        assert lines() == [2, 2]


def lacking(text, words):
    return [word for word in words if word not in text]


@pytest.mark.parametrize("fault", BAD_SERVERS)
async def test_a_listener_with_a_bad_certificate_is_refused_and_both_ends_say_why(
    fault, caplog, autojump_clock
):
    make, words = BAD_SERVERS[fault]
    tls = ends(server=make())
    told, dialers_log, listeners_log = await refused(caplog, tls.server, tls.client)
    assert lacking(told, [*words, "service svc of node foo", "CN=server"]) == []
    assert lacking(dialers_log, words) == []
    assert lacking(listeners_log, ["the other end refused", *words]) == []


@pytest.mark.parametrize("fault", BAD_CLIENTS)
async def test_a_dialer_with_a_bad_certificate_is_refused_and_both_ends_say_why(
    fault, caplog, autojump_clock
):
    make, words = BAD_CLIENTS[fault]
    tls = ends(client=make and make(), shows_none=make is None)
    told, dialers_log, listeners_log = await refused(caplog, tls.server, tls.client)
    assert lacking(told, [*words, "service svc of node foo", "the other end refused"]) == []
    assert lacking(dialers_log, ["the other end refused", *words]) == []
    assert lacking(listeners_log, words) == []


def pin_of(made):
    return hashlib.sha256(made.der).hexdigest()


@pytest.mark.parametrize("side", ["server", "client"])
async def test_a_certificate_that_is_not_pinned_is_refused_and_both_ends_say_why(
    side, caplog, autojump_clock
):
    pins = (pin_of(server()),)
    options = {
        "server": {"of_client": {"pinnedservercert": pins}},
        "client": {"of_server": {"pinnedclientcert": pins}},
    }
    tls = ends(**options[side])
    told, dialers_log, listeners_log = await refused(caplog, tls.server, tls.client)
    for text in told, dialers_log, listeners_log:
        assert lacking(text, [f"the {side}'s certificate", "is not pinned"]) == []


async def test_no_path_of_a_node_is_told_to_the_other(caplog, autojump_clock):
    tls = ends(client=client(other_authority()))
    told, _, listeners_log = await refused(caplog, tls.server, tls.client)
    assert "ca.crt" in listeners_log
    assert "ca.crt" not in told


async def test_a_plain_dialer_is_refused_by_a_secured_service_in_receptors_words(
    caplog, autojump_clock
):
    tls = good_ends()
    told, _, listeners_log = await refused(caplog, tls.server, None)
    words = "insecure connection to secure service"
    assert told == f"service svc of node foo: {words}"
    assert lacking(listeners_log, ["the other end refused", words]) == []


async def test_a_dialer_with_tls_is_not_satisfied_by_a_service_without(caplog, autojump_clock):
    told, dialers_log, _ = await refused(caplog, None, good_ends().client)
    for text in told, dialers_log:
        assert "secure connection to insecure service: it has no tls-server" in text


# --- what is allowed -----------------------------------------------------------------------------


async def test_a_dialer_that_verifies_nothing_reaches_any_service(autojump_clock):
    options = {"insecureskipverify": True, "rootcas": None}
    tls = ends(server=server(other_authority(), nodes=[]), of_client=options)
    async with service(tls.server) as (bar, _, listener):
        await check_talk(await dial(bar, tls.client), listener)
    async with service() as (bar, _, listener):
        await check_talk(await dial(bar, tls.client), listener)


async def test_a_listener_that_asks_for_no_certificate_sees_none(autojump_clock):
    tls = ends(of_server={"requireclientcert": False, "clientcas": None})
    async with service(tls.server) as (bar, _, listener):
        far = await check_talk(await dial(bar, tls.client), listener)
        assert far.certificate is None


@pytest.mark.parametrize(
    ("made", "is_let_in"),
    [(None, True), (lambda: client(nodes=[]), True), (lambda: client(other_authority()), False)],
    ids=["none", "no name", "wrong CA"],
)
async def test_a_listener_that_requires_none_checks_who_signed_what_it_is_shown(
    made, is_let_in, autojump_clock
):
    tls = ends(
        client=made and made(), shows_none=made is None, of_server={"requireclientcert": False}
    )
    async with service(tls.server) as (bar, _, listener):
        if is_let_in:
            far = await check_talk(await dial(bar, tls.client), listener)
            assert (far.certificate is None) is (made is None)
        else:
            with pytest.raises(HandshakeRefused, match="not signed by a CA"):
                await dial(bar, tls.client)


async def test_a_listener_that_is_silent_makes_a_dialer_with_tls_wait_no_longer_than_another(
    autojump_clock,
):
    async with service(good_ends().server) as (bar, foo, _):
        foo.set_firewall([])
        foo._router.unbind(b"svc\0\0\0\0\0")
        foo._router.bind(b"svc\0\0\0\0\0", Deaf())
        began = trio.current_time()
        with pytest.raises(MeshTimeout):
            await dial(bar, good_ends().client)
        assert trio.current_time() - began == pytest.approx(HANDSHAKE_TIMEOUT)
        foo._router.unbind(b"svc\0\0\0\0\0")


async def test_a_listener_that_never_says_what_it_thinks_of_a_certificate_is_given_up(
    autojump_clock, monkeypatch
):
    send = MeshQuicConnection.datagrams_to_send

    def keep_silent(self, now):
        datagrams = send(self, now)
        return [] if not self._is_client and self._handshake_complete else datagrams

    monkeypatch.setattr(MeshQuicConnection, "datagrams_to_send", keep_silent)
    async with service(good_ends().server) as (bar, _, _):
        began = trio.current_time()
        with pytest.raises(MeshTimeout):
            await dial(bar, good_ends().client)
        assert trio.current_time() - began == pytest.approx(HANDSHAKE_TIMEOUT)


@pytest.mark.parametrize("seed", range(5))
async def test_long_chains_get_through_where_one_message_in_six_is_lost(seed, autojump_clock):
    below = authority_below(5)
    hosts = [f"host-{n}.some.rather.long.domain.example.org" for n in range(200)]
    tls = ends(server=server(below, hosts=hosts), client=client(below, hosts=hosts))
    async with line("bar", "foo", loss=seeded_loss(seed, 1 / 6)) as (bar, foo):
        listener = await foo.listen("svc", tls=source(tls.server))
        await check_talk(await dial(bar, tls.client), listener)


class Deaf:
    def on_datagram(self, source, source_service, payload):
        pass

    def on_unreachable(self, notice, reporter):
        pass


# --- reuse, renewal, advertisements --------------------------------------------------------------


async def test_a_connection_serves_only_dials_with_the_same_settings(autojump_clock):
    tls, same_files = good_ends(), ends()
    async with service(ends(of_server={"requireclientcert": False}).server) as (bar, _, listener):
        await trio.sleep(1)  # of the test's clock: the service is advertised
        streams = []
        for settings in (tls.client, tls.client, same_files.client, same_files.client):
            streams.append(await dial(bar, settings))
            await check_talk(streams[-1], listener)
        assert len(bar._streams.connections) == 2
        with pytest.raises(HandshakeRefused):
            await dial(bar, None)


async def test_a_listener_takes_its_settings_anew_for_each_connection(autojump_clock):
    present = [good_ends().server]
    async with line("bar", "foo") as (bar, foo):
        listener = await foo.listen("svc", tls=lambda: present[0])
        near = await dial(bar, good_ends().client)
        far = await check_talk(near, listener)
        present[0] = ends(server=server(nodes=["eve"])).server
        with pytest.raises(HandshakeRefused, match="node eve"):
            await dial(bar, ends().client)
        await near.send_all(b"still there")
        assert await far.receive_some() == b"still there"


async def test_a_service_with_tls_is_advertised_as_one(autojump_clock):
    async with service(good_ends().server) as (bar, foo, _):
        await foo.listen("plain")
        while bar.find_service("foo", "plain") is None:
            await bar.wait_changed()
        while bar.find_service("foo", "svc") is None:
            await bar.wait_changed()
        assert bar.find_service("foo", "svc").conn_type == ConnType.STREAM_TLS
        assert bar.find_service("foo", "plain").conn_type == ConnType.STREAM


# --- chains, keys --------------------------------------------------------------------------------


def authority_below(depth):
    found = authority()
    for number in range(depth):
        found = Authority(f"Intermediate {number}", above=found)
    return found


@pytest.mark.parametrize(
    ("names", "least"),
    [
        pytest.param(200, 10_000, id="within the bound of quic-go"),
        pytest.param(700, 20_000, id="as another implementation may send it"),
    ],
)
async def test_long_chains_of_five_intermediates_work_both_ways(names, least, autojump_clock):
    below = authority_below(5)
    hosts = [f"host-{n}.some.rather.long.domain.example.org" for n in range(names)]
    tls = ends(server=server(below, hosts=hosts), client=client(below, hosts=hosts))
    assert sum(len(c.der) for c in tls.server.own.chain) > least
    async with service(tls.server) as (bar, _, listener):
        far = await check_talk(await dial(bar, tls.client), listener)
        assert len(far.certificate.dns_names) == len(hosts)


KEYS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("kind", KEYS)
async def test_each_kind_of_key_works_at_both_ends(kind, autojump_clock):
    tls = ends(
        server=authority().issue("server", nodes=["foo"], key=KEYS[kind]()),
        client=authority().issue("client", nodes=["bar"], key=KEYS[kind]()),
    )
    async with service(tls.server) as (bar, _, listener):
        await check_talk(await dial(bar, tls.client), listener)


async def test_a_dialer_that_offers_p_521_alone_as_receptors_do_is_answered(
    autojump_clock, monkeypatch
):
    make = CertifiedTls.__init__

    def offer_p_521(self, plain, judge):
        make(self, plain, judge)
        if self._is_client:
            self._supported_groups = [Group.SECP521R1]

    monkeypatch.setattr(CertifiedTls, "__init__", offer_p_521)
    async with service(good_ends().server) as (bar, _, listener):
        await check_talk(await dial(bar, good_ends().client), listener)


@given(st.lists(st.binary(max_size=300), max_size=4), st.booleans())
def test_whatever_a_chain_is_it_is_judged_or_refused(chain, is_server):
    tls = good_ends()
    judge = Judge(tls.server if is_server else tls.client, "foo")
    with pytest.raises(TlsRefused) as refusal:
        judge.judge(chain)
    assert judge.certificate is None
    assert len(judge.told(refusal.value).encode()) <= MAX_TOLD


@given(st.text(max_size=400))
def test_what_is_told_of_a_refusal_fits_a_packet_whatever_it_says(text):
    judge = Judge(good_ends().server, "foo")
    assert len(judge.told(TlsRefused(TlsProblem.UNFIT, text)).encode()) <= MAX_TOLD


@given(st.integers(0x100, 0x1FF), st.text(max_size=400))
def test_the_end_of_a_handshake_is_one_line_whatever_the_other_end_says(code, said):
    end = ConnectionTerminated(error_code=code, frame_type=6, reason_phrase=said)
    text = describe_end(end)
    assert text.startswith("TLS: ")
    assert text.isprintable()
    assert len(text) < 400


async def test_an_alert_without_a_reason_is_explained_as_receptor_gives_none(
    caplog, autojump_clock, monkeypatch
):
    monkeypatch.setattr(Judge, "told", lambda self, refusal: "")
    told, _, _ = await refused(caplog, good_ends().server, ends(shows_none=True).client)
    assert "certificate required: it requires a certificate, and we show none" in told


async def test_nothing_of_a_chain_is_kept_after_the_handshake_but_what_it_says(autojump_clock):
    tls = good_ends()
    async with service(tls.server) as (bar, foo, listener):
        await check_talk(await dial(bar, tls.client), listener)
        for mesh in bar, foo:
            (connection,) = mesh._streams.connections
            context = connection._quic.tls
            assert (context._shown, context._peer_certificate_chain) == ([], [])
            assert context._peer_certificate is None
            assert connection.certificate is not None
