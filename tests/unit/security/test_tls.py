"""What tls-server and tls-client mean: handshakes in memory, good ones and each kind of refusal."""

import contextlib
import datetime
import tempfile
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hostile import der
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL
from tls_makers import CLIENT, DAY, SERVER, Authority, Made, authority, other_authority

from meshnode.config.faults import ConfigFaults
from meshnode.config.tls_directives import TlsClient, TlsServer
from meshnode.errors import TlsProblem, TlsRefused
from meshnode.security.certificates import Usage, decode_certificate
from meshnode.security.tls import TlsSettings, doubts, load_client, load_server, trust_in
from meshnode.security.tlsengine import NOT_TLS_ALERT, TlsEngine
from meshnode.security.verification import Expected, verify_chain


class Ends:
    """A server and a client with certificates of the shared CA, and what changes of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = authority().write(directory)
        self.server_made = authority().issue("server", nodes=["foo"])
        self.client_made: Made | None = authority().issue("client", nodes=["bar"])
        self.server_options: dict[str, object] = {
            "requireclientcert": True,
            "clientcas": self.ca,
        }
        self.client_options: dict[str, object] = {"rootcas": self.ca}
        self.host = "localhost"
        self.client_speaks_1_2 = False
        """Whether the client speaks nothing newer."""

    def server(self) -> TlsSettings:
        cert, key = self.server_made.write(self.directory, "server")
        options = {"skipreceptornamescheck": True, **self.server_options}
        return load_server(TlsServer(name="s", cert=cert, key=key, **options), "foo")  # type: ignore[arg-type]

    def client(self) -> TlsSettings:
        cert, key = None, None
        if self.client_made is not None:
            cert, key = self.client_made.write(self.directory, "client")
        options = {"skipreceptornamescheck": True, **self.client_options}
        return load_client(TlsClient(name="c", cert=cert, key=key, **options), "bar")  # type: ignore[arg-type]

    def engines(self) -> tuple[TlsEngine, TlsEngine]:
        client = self.client()
        if self.client_speaks_1_2:
            client.context.set_max_proto_version(SSL.TLS1_2_VERSION)
        expected = replace(client.expected, host=self.host)
        return TlsEngine(self.server()), TlsEngine(client, expected)

    def meet(self) -> tuple[str, str, TlsProblem | None, TlsProblem | None]:
        """Shake hands and say a word each way; return texts and problems at server and client."""
        server, client = self.engines()
        texts = {"server": "", "client": ""}
        problems: dict[str, TlsProblem | None] = {"server": None, "client": None}

        def step(name: str, engine: TlsEngine, other: TlsEngine) -> bool:
            if problems[name] is not None:
                return False
            try:
                if not engine.is_done and engine.handshake():
                    engine.write(name.encode())
                if engine.is_done:
                    texts[name] += (engine.read(100) or b"").decode()
            except TlsRefused as refusal:
                texts[name], problems[name] = str(refusal), refusal.problem
            moved = False
            while data := engine.outgoing():
                other.feed(data)
                moved = True
            return moved

        for _ in range(20):
            step("client", client, server)
            step("server", server, client)
        self.server_saw, self.client_saw = server.certificate, client.certificate
        self.version, self.cipher = client.version, client.cipher
        return texts["server"], texts["client"], problems["server"], problems["client"]


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    return Ends(tmp_path)


def test_two_ends_that_trust_each_other_talk_and_know_each_others_names(ends: Ends) -> None:
    assert ends.meet() == ("client", "server", None, None)
    assert ends.version == "TLSv1.3"
    assert ends.client_saw is not None
    assert ends.server_saw is not None
    assert ends.client_saw.node_ids == ("foo",)
    assert ends.server_saw.node_ids == ("bar",)


def test_a_server_that_asks_for_no_certificate_sees_none(ends: Ends) -> None:
    ends.server_options = {}
    assert ends.meet() == ("client", "server", None, None)
    assert ends.server_saw is None


def test_a_chain_over_intermediates_is_followed(ends: Ends) -> None:
    middle = Authority("Middle CA", above=Authority("Lower CA", above=authority()))
    ends.server_made = middle.issue("server")
    ends.client_made = middle.issue("client")
    assert ends.meet() == ("client", "server", None, None)


def test_a_ca_below_the_root_may_be_trusted_by_itself(ends: Ends) -> None:
    middle = Authority("Middle CA", above=authority())
    ends.server_made = middle.issue("server")
    ends.client_options["rootcas"] = middle.write(ends.directory, "middle")
    assert ends.meet() == ("client", "server", None, None)


OLD = {"begins": -400 * DAY, "ends": -DAY}
FUTURE = {"begins": DAY, "ends": 300 * DAY}


@pytest.mark.parametrize(
    ("change", "problem", "words"),
    [
        (OLD, TlsProblem.EXPIRED, ["expired at", "here it is", "check the clocks", "CN=bad"]),
        (FUTURE, TlsProblem.NOT_YET_VALID, ["begins at", "here it is", "check the clocks"]),
        ({"usages": [CLIENT]}, TlsProblem.WRONG_USAGE, ["a server's", "CN=bad"]),
        (
            {"hosts": ["a.example"], "addresses": [], "nodes": ["n"]},
            TlsProblem.WRONG_NAME,
            ["localhost", "node n, a.example"],
        ),
    ],
    ids=["expired", "not yet valid", "usage", "name"],
)
def test_a_bad_server_certificate_is_refused_with_what_is_wrong(
    ends: Ends, change: dict[str, object], problem: TlsProblem, words: list[str]
) -> None:
    ends.server_made = authority().issue("bad", **change)
    at_server, at_client, there, here = ends.meet()
    assert (here, there) == (problem, TlsProblem.REFUSED_THERE)
    assert [word for word in words if word not in at_client] == []
    assert "the client refuses us" in at_server


@pytest.mark.parametrize(
    ("change", "problem", "words"),
    [
        (OLD, TlsProblem.EXPIRED, ["expired at", "here it is", "check the clocks", "CN=bad"]),
        (FUTURE, TlsProblem.NOT_YET_VALID, ["begins at", "here it is", "check the clocks"]),
        ({"usages": [SERVER]}, TlsProblem.WRONG_USAGE, ["a client's", "CN=bad"]),
    ],
    ids=["expired", "not yet valid", "usage"],
)
def test_a_bad_client_certificate_is_refused_with_what_is_wrong(
    ends: Ends, change: dict[str, object], problem: TlsProblem, words: list[str]
) -> None:
    ends.client_made = authority().issue("bad", **change)
    at_server, at_client, here, there = ends.meet()
    assert (here, there) == (problem, TlsProblem.REFUSED_THERE)
    assert [word for word in words if word not in at_server] == []
    assert "the server refuses us" in at_client


def test_a_server_of_another_ca_is_refused_with_both_names(ends: Ends) -> None:
    ends.server_made = other_authority().issue("server")
    at_server, at_client, there, here = ends.meet()
    assert (here, there) == (TlsProblem.WRONG_CA, TlsProblem.REFUSED_THERE)
    assert "CN=Other CA" in at_client
    assert str(ends.ca) in at_client
    assert "does not trust the CA" in at_server


def test_a_client_of_another_ca_is_refused_with_both_names(ends: Ends) -> None:
    ends.client_made = other_authority().issue("client")
    at_server, at_client, here, there = ends.meet()
    assert (here, there) == (TlsProblem.WRONG_CA, TlsProblem.REFUSED_THERE)
    assert "CN=Other CA" in at_server
    assert "does not trust the CA" in at_client


def test_a_client_without_a_certificate_is_refused_where_one_is_required(ends: Ends) -> None:
    ends.client_made = None
    at_server, at_client, here, there = ends.meet()
    assert (here, there) == (TlsProblem.MISSING, TlsProblem.REFUSED_THERE)
    assert "showed no certificate" in at_server
    assert "requires a certificate" in at_client


def test_a_client_may_show_none_where_only_those_shown_are_checked(ends: Ends) -> None:
    ends.server_options = {"clientcas": ends.ca}
    ends.client_made = None
    assert ends.meet() == ("client", "server", None, None)
    ends.client_made = other_authority().issue("client")
    assert ends.meet()[2] is TlsProblem.WRONG_CA


@pytest.mark.parametrize("skip", [False, True], ids=["verified", "insecure"])
@pytest.mark.parametrize("digest", ["sha256", "sha512"])
def test_a_pinned_server_is_taken_and_another_refused(ends: Ends, skip: bool, digest: str) -> None:
    own = getattr(decode_certificate(ends.server_made.der), digest).hex()
    other = getattr(decode_certificate(authority().issue("other").der), digest).hex()
    ends.client_options |= {"insecureskipverify": skip, "pinnedservercert": (other, own)}
    assert ends.meet() == ("client", "server", None, None)
    ends.client_options["pinnedservercert"] = (other,)
    _, at_client, _, here = ends.meet()
    assert here is TlsProblem.NOT_PINNED
    assert "is not pinned here" in at_client


def test_a_pinned_client_is_taken_and_another_refused(ends: Ends) -> None:
    assert ends.client_made is not None
    own = decode_certificate(ends.client_made.der).sha256.hex()
    ends.server_options["pinnedclientcert"] = (own,)
    assert ends.meet() == ("client", "server", None, None)
    ends.client_made = authority().issue("client")
    _, at_client, here, there = ends.meet()
    assert (here, there) == (TlsProblem.NOT_PINNED, TlsProblem.REFUSED_THERE)
    assert "lacks the name, or the fingerprint" in at_client


def test_a_pin_does_not_replace_the_ca(ends: Ends) -> None:
    ends.server_made = other_authority().issue("server")
    pin = decode_certificate(ends.server_made.der).sha256.hex()
    ends.client_options["pinnedservercert"] = (pin,)
    assert ends.meet()[3] is TlsProblem.WRONG_CA


@pytest.mark.parametrize("change", [OLD, FUTURE, {"usages": [CLIENT]}, {"hosts": ["other"]}])
def test_a_client_that_verifies_nothing_takes_any_server(
    ends: Ends, change: dict[str, object]
) -> None:
    ends.server_made = other_authority().issue("server", **change)
    ends.client_options = {"insecureskipverify": True}
    assert ends.meet() == ("client", "server", None, None)
    assert ends.client_saw is not None


@pytest.mark.parametrize(
    ("names", "host", "is_named"),
    [
        ({"hosts": ["*.a.example"]}, "B.a.example", True),
        ({"hosts": ["*.a.example"]}, "c.b.a.example", False),
        ({"hosts": ["*.a.example"]}, "a.example", False),
        ({"hosts": ["*.example"]}, "a.example", False),
        ({"hosts": ["a.example"]}, "a.example.", True),
        ({"hosts": [], "addresses": ["::1"]}, "0:0:0:0:0:0:0:1", True),
        ({"hosts": [], "addresses": ["10.0.0.7"]}, "10.0.0.8", False),
        ({"hosts": ["10.0.0.7"], "addresses": []}, "10.0.0.7", False),
    ],
)
def test_a_certificate_names_a_host_or_does_not(
    ends: Ends, names: dict[str, object], host: str, is_named: bool
) -> None:
    ends.server_made = authority().issue("server", **names)
    ends.host = host
    assert ends.meet()[3] is (None if is_named else TlsProblem.WRONG_NAME)


def test_tls_1_2_is_spoken_only_where_the_settings_allow_it(ends: Ends) -> None:
    ends.client_options["mintls13"] = False
    ends.client_speaks_1_2 = True
    _, at_client, here, there = ends.meet()
    assert (here, there) == (TlsProblem.NO_COMMON_WAY, TlsProblem.REFUSED_THERE)
    assert "mintls13" in at_client
    ends.server_options["mintls13"] = False
    assert ends.meet() == ("client", "server", None, None)
    assert ends.version == "TLSv1.2"
    assert ends.cipher.startswith("ECDHE-")
    assert "GCM" in ends.cipher or "CHACHA20" in ends.cipher


def test_the_newest_version_is_spoken_where_older_ones_are_allowed(ends: Ends) -> None:
    ends.server_options["mintls13"] = ends.client_options["mintls13"] = False
    assert ends.meet() == ("client", "server", None, None)
    assert ends.version == "TLSv1.3"


@pytest.mark.parametrize("only_1_3", [True, False])
def test_no_session_is_taken_up_again_without_its_certificate(ends: Ends, only_1_3: bool) -> None:
    ends.server_options["mintls13"] = ends.client_options["mintls13"] = only_1_3
    ends.client_speaks_1_2 = not only_1_3
    server_settings, client_settings = ends.server(), ends.client()
    if ends.client_speaks_1_2:
        client_settings.context.set_max_proto_version(SSL.TLS1_2_VERSION)
    session = None
    for _ in range(2):
        server = TlsEngine(server_settings)
        client = TlsEngine(client_settings, replace(client_settings.expected, host="localhost"))
        if session is not None:
            client._connection.set_session(session)
        for _ in range(5):
            for engine, other in ((client, server), (server, client)):
                if engine.is_done or engine.handshake():
                    engine.write(b"x")
                    engine.read(100)
                while data := engine.outgoing():
                    other.feed(data)
        session = client._connection.get_session()
        assert server.certificate is not None
        assert client.certificate is not None
        assert server.certificate.node_ids == ("bar",)


# --- chains that another engine hands over -------------------------------------------------------


def problem_of_chain(ends: Ends, made: Made | None, **changes: object) -> TlsProblem | None:
    """Return what is wrong with a client's chain for the server, if anything is."""
    expected: Expected = replace(ends.server().expected, **changes)  # type: ignore[arg-type]
    ders = [] if made is None else [made.der, *(c.public_bytes(Encoding.DER) for c in made.chain)]
    try:
        found = verify_chain(ders, expected, datetime.datetime.now(datetime.UTC))
    except TlsRefused as refusal:
        return refusal.problem
    assert made is not None
    assert found.der == made.der
    return None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        (OLD, TlsProblem.EXPIRED),
        (FUTURE, TlsProblem.NOT_YET_VALID),
        ({"usages": [SERVER]}, TlsProblem.WRONG_USAGE),
        ({"nodes": ["eve"]}, TlsProblem.WRONG_NODE),
        ({"nodes": []}, TlsProblem.WRONG_NODE),
    ],
)
def test_a_chain_is_judged_as_in_a_handshake(
    ends: Ends, change: dict[str, object], problem: TlsProblem | None
) -> None:
    made = authority().issue("client", **({"nodes": ["bar"]} | change))
    assert problem_of_chain(ends, made, node="bar") is problem


def test_a_chain_over_intermediates_or_of_another_ca_is_judged_so(ends: Ends) -> None:
    middle = Authority("Middle CA", above=Authority("Lower CA", above=authority()))
    assert problem_of_chain(ends, middle.issue("client")) is None
    assert problem_of_chain(ends, other_authority().issue("client")) is TlsProblem.WRONG_CA
    assert problem_of_chain(ends, None) is TlsProblem.MISSING
    pin = "00" * 32
    made = authority().issue("client")
    assert problem_of_chain(ends, made, pins=(pin,)) is TlsProblem.NOT_PINNED


def problem_in_handshake(server: TlsSettings, made: Made) -> TlsProblem | None:
    """Return what a link of the server holds against a client that shows whatever it likes."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.use_certificate(made.certificate)
    context.use_privatekey(made.key)  # type: ignore[arg-type]
    for one in made.chain:
        context.add_extra_chain_cert(one)
    client, engine = SSL.Connection(context, None), TlsEngine(server)
    client.set_connect_state()
    try:
        for _ in range(8):
            with contextlib.suppress(SSL.WantReadError):
                client.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                engine.feed(client.bio_read(1 << 18))
            if engine.handshake():
                return None
            if data := engine.outgoing():
                client.bio_write(data)
    except TlsRefused as refusal:
        return refusal.problem
    raise AssertionError("the handshake does not end")


def key_usage(*names: str) -> x509.KeyUsage:
    all_names = ("digital_signature", "content_commitment", "key_encipherment")
    all_names += ("data_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
    all_names += ("encipher_only", "decipher_only")
    return x509.KeyUsage(**{one: one in names for one in all_names})


def weak_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 1024)


ONLY_SERVERS = x509.ExtendedKeyUsage([SERVER])
SIGNS = key_usage("digital_signature")
ENCRYPTS = key_usage("key_encipherment")

ODD_CHAINS: dict[str, tuple[dict[str, object], dict[str, object], TlsProblem | None]] = {
    "an ordinary one": ({}, {}, None),
    "a leaf whose key is short": ({"key": weak_key}, {}, TlsProblem.UNFIT),
    "a CA whose key is short": ({}, {"key": weak_key}, TlsProblem.UNFIT),
    "a leaf that is signed with SHA-1": ({"digest": "sha1"}, {}, TlsProblem.UNFIT),
    "a CA that is signed with SHA-1": ({}, {"digest": "sha1"}, TlsProblem.UNFIT),
    "a CA for servers only": ({}, {"extension": ONLY_SERVERS}, TlsProblem.WRONG_USAGE),
    "a key that may sign": ({"extension": SIGNS}, {}, None),
    "a key that may not sign": ({"extension": ENCRYPTS}, {}, TlsProblem.WRONG_USAGE),
    "a CA that may not sign": ({}, {"extension": SIGNS}, TlsProblem.WRONG_USAGE),
}


def odd_chain(leaf: dict[str, Any], middle: dict[str, Any], directory: Path) -> tuple[Made, Path]:
    """Return a client's chain over a CA, each with its oddity, and the file of their root."""

    def made(title: str, issuer: Made | None, key: Any = None, extension: Any = None, **odd: Any):
        of_key = (key or partial(rsa.generate_private_key, 65537, 2048))()
        now = datetime.datetime.now(datetime.UTC)
        named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
        above = named if issuer is None else issuer.certificate.subject
        builder = x509.CertificateBuilder(
            above, named, of_key.public_key(), 7, now - DAY, now + DAY
        )
        is_ca = title != "leaf"
        builder = builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        if extension is not None:
            builder = builder.add_extension(extension, critical=False)
        signer = of_key if issuer is None else issuer.key
        signed = builder.sign(signer, hashes.SHA256())
        # The library makes no such signatures any more; CAs of others may.
        if odd.get("digest") == "sha1":
            signed = signed_with_sha1(signed, signer)
        chain = () if issuer is None else (issuer.certificate,)
        return Made(signed, of_key, chain)

    root = made("root", None)
    file = directory / "root.crt"
    file.write_bytes(root.certificate.public_bytes(Encoding.PEM))
    return made("leaf", made("middle", root, **middle), **leaf), file


def signed_with_sha1(one: x509.Certificate, signer: Any) -> x509.Certificate:
    """Return a certificate with the signature that SHA-1 would give it."""
    of_sha256, of_sha1 = (bytes.fromhex(f"06092a864886f70d0101{end}0500") for end in ("0b", "05"))
    content = one.tbs_certificate_bytes.replace(of_sha256, of_sha1, 1)
    signature = signer.sign(content, padding.PKCS1v15(), hashes.SHA1())
    der = one.public_bytes(Encoding.DER)
    der = der.replace(of_sha256, of_sha1).replace(one.signature, signature)
    return x509.load_der_x509_certificate(der)


@pytest.mark.parametrize(("leaf", "middle", "problem"), ODD_CHAINS.values(), ids=ODD_CHAINS)
def test_what_is_refused_on_a_link_is_refused_above_it(
    ends: Ends, leaf: dict[str, Any], middle: dict[str, Any], problem: TlsProblem | None
) -> None:
    made, root = odd_chain(leaf, middle, ends.directory)
    ends.server_options["clientcas"] = root
    assert problem_in_handshake(ends.server(), made) is problem
    assert problem_of_chain(ends, made) is problem


@given(st.lists(st.binary(max_size=200), max_size=3))
@settings(max_examples=100, deadline=None)
def test_any_chain_is_refused_or_good(ders: list[bytes]) -> None:
    with pytest.raises(TlsRefused):
        verify_chain(ders, _shared_server().expected, datetime.datetime.now(datetime.UTC))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("version", [0, 1, 3, 66, 255])
def test_a_certificate_of_no_known_version_is_refused_wherever_in_a_chain(
    ends: Ends, place: int, version: int
) -> None:
    middle = Authority("Middle CA", above=Authority("Lower CA", above=authority()))
    made = middle.issue("client", nodes=["bar"])
    ders = [made.der, *(c.public_bytes(Encoding.DER) for c in made.chain)]
    before, mark, after = ders[place].partition(b"\xa0\x03\x02\x01")
    ders[place] = before + mark + bytes([version]) + after[1:]
    with pytest.raises(TlsRefused) as caught:
        verify_chain(ders, ends.server().expected, datetime.datetime.now(datetime.UTC))
    assert str(caught.value).isprintable()


CERTIFICATES_THAT_ARE_NONE = (
    bytes.fromhex(
        "3081e1308194a003020102020203e6300506032b6570300f310d300b06035504030c04526f6f7430"
        "20170d3230303130313030303030305a180f32313230303130313030303030305a3011310f300d06"
        "035504030c064d6964646c65302a300506032b65780321007422b9887598068e32c4448a949adb29"
        "0d0f4e35b9e01b0ee5f1a1e600fe2674a310300e300c0603551d13040530030101ff300506032b65"
        "70034100c75cc2e7fb5c6fcefc7f88ebcec28f0982185b179f159e75a25250b2a3ccb376982ce2e4"
        "e3b12fc0b68f1a40b458063a9f701483821001f1015062c21158b40c"
    ),
    bytes.fromhex(
        "3081e1308194a003020102020203ee300506032b6570300f310d300b06035504030c04526f6f7430"
        "20170d3230303130313030303030305a180f32313230303130313030303030305a3011310f300d06"
        "035504030c064d6964646c65302a300506032b65700321007422b9887598068e32c4448a949adb29"
        "0d0f4e35b9e01b0ee5f1a1e600fe2674a310300e300c0603551d13040530030101ff300506032b65"
        "70034100b7561f6d118fdc0f7073a796674389474c078e9610444c631b1ea1ac332f3dc632eb5d0e"
        "219b378a81e7e96094bf9152c0b9416e4e965e6853d0aded8d84020b"
    ),
)
"""Found by fuzzing: OpenSSL reads them, and finds that they are none when it verifies them."""


def test_what_openssl_finds_to_be_no_certificate_is_refused(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_bytes(der.pem([der.CA.der]))
    expected = Expected(Usage.CLIENT, trust_in(ca, SSL.Context(SSL.TLS_METHOD)))
    with pytest.raises(TlsRefused) as caught:
        verify_chain(CERTIFICATES_THAT_ARE_NONE, expected, datetime.datetime.now(datetime.UTC))
    assert str(caught.value).isprintable()


# --- at start ------------------------------------------------------------------------------------


def fault_of(ends: Ends, role: str) -> str:
    with pytest.raises(ConfigFaults) as caught:
        getattr(ends, role)()
    return str(caught.value)


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_certificate_that_does_not_name_its_node_is_refused_unless_skipped(
    ends: Ends, role: str
) -> None:
    made = authority().issue("other", nodes=["eve", "mallory"])
    setattr(ends, f"{role}_made", made)
    getattr(ends, f"{role}_options")["skipreceptornamescheck"] = False
    text = fault_of(ends, role)
    own = "foo" if role == "server" else "bar"
    for word in (f"this node, {own}", "node eve, node mallory", f"{role}.crt", "cert"):
        assert word in text
    getattr(ends, f"{role}_options")["skipreceptornamescheck"] = True
    assert getattr(ends, role)().own.certificate.node_ids == ("eve", "mallory")


def test_a_key_of_another_certificate_is_refused_with_both_files(ends: Ends) -> None:
    cert, _ = ends.server_made.write(ends.directory, "a")
    _, key = authority().issue("b").write(ends.directory, "b")
    directive = TlsServer(name="s", cert=cert, key=key, skipreceptornamescheck=True)
    with pytest.raises(ConfigFaults, match="is not the key of") as caught:
        load_server(directive, "foo")
    assert str(cert) in str(caught.value)
    assert str(key) in str(caught.value)


@pytest.mark.parametrize("parameter", ["cert", "key", "clientcas"])
@pytest.mark.parametrize("content", [None, b"", b"nothing", b"-----BEGIN CERTIFICATE-----\nAA"])
def test_a_file_that_is_missing_or_no_pem_is_named_with_its_parameter(
    ends: Ends, parameter: str, content: bytes | None
) -> None:
    cert, key = ends.server_made.write(ends.directory, "a")
    files: dict[str, Path] = {"cert": cert, "key": key, "clientcas": ends.ca}
    bad = files[parameter] = ends.directory / "bad.pem"
    if content is not None:
        bad.write_bytes(content)
    directive = TlsServer(name="s", skipreceptornamescheck=True, **files)
    with pytest.raises(ConfigFaults) as caught:
        load_server(directive, "foo")
    assert str(bad) in str(caught.value)
    assert f"tls-server: {parameter}" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (OLD, "expired at"),
        (FUTURE, "is not yet valid"),
        ({"ends": 10 * DAY}, "in 9 days"),
        ({"usages": [CLIENT]}, "may not be used as a server's"),
        ({}, None),
    ],
)
def test_an_own_certificate_that_others_will_refuse_is_doubted(
    ends: Ends, change: dict[str, object], words: str | None
) -> None:
    ends.server_made = authority().issue("server", **change)
    found = doubts(ends.server(), datetime.datetime.now(datetime.UTC))
    assert (found == []) if words is None else (words in found[0])


# --- what is no TLS ------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=100).filter(lambda data: data[0] != 0x16))
@settings(max_examples=100, deadline=None)
def test_a_plain_client_is_told_apart_by_its_first_byte(data: bytes) -> None:
    engine = TlsEngine(_shared_server())
    with pytest.raises(TlsRefused) as caught:
        engine.feed(data)
    assert caught.value.problem is TlsProblem.NOT_TLS
    assert engine.outgoing() == NOT_TLS_ALERT


@given(st.binary(max_size=300), st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_of_a_client_are_waited_for_or_refused(head: bytes, tail: bytes) -> None:
    engine = TlsEngine(_shared_server())
    try:
        for data in (b"\x16\x03\x01" + head, tail):
            engine.feed(data)
            assert not engine.handshake()
    except TlsRefused as refusal:
        text = str(refusal)
        assert text.isprintable()
        assert len(text) < 400


@cache
def _shared_server() -> TlsSettings:
    with tempfile.TemporaryDirectory() as directory:
        return Ends(Path(directory)).server()
