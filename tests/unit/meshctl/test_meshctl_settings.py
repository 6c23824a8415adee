import pytest

from meshctl import BadSettings, TlsSettings
from meshctl.api.settings import NetworkAddress, UnixAddress, choose_tls, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/tmp/foo.sock", UnixAddress("/tmp/foo.sock")),
        ("foo.sock", UnixAddress("foo.sock")),
        ("unix:/tmp/foo.sock", UnixAddress("/tmp/foo.sock")),
        ("unix:///tmp/foo.sock", UnixAddress("/tmp/foo.sock")),
        ("unix:odd:1.sock", UnixAddress("odd:1.sock")),
        ("./odd:1.sock", UnixAddress("./odd:1.sock")),
        ("tcp://localhost:2222", NetworkAddress("localhost", 2222, False)),
        ("tcp:localhost:2222", NetworkAddress("localhost", 2222, False)),
        ("tls://foo.example.com:2223", NetworkAddress("foo.example.com", 2223, True)),
        ("tcp://[::1]:2222", NetworkAddress("::1", 2222, False)),
        ("tcp://::1:2222", NetworkAddress("::1", 2222, False)),
    ],
)
def test_each_form_of_address_is_understood(text, address):
    assert parse_address(text) == address


def test_a_leading_tilde_is_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_address("unix://~/foo.sock") == UnixAddress("/home/me/foo.sock")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("tcp://localhost", "tcp://HOST:PORT"),
        ("tls:localhost", "tls://HOST:PORT"),
        ("ftp://localhost:80", "is no control address"),
        ("https://localhost:0", "from 1 to 65535"),
        ("https://", "is no control address"),
        ("localhost:2222", "for TCP write tcp://localhost:2222"),
        ("tcp://localhost:99999", "1 to 65535"),
        ("tcp://localhost:0", "1 to 65535"),
        ("unix:", "empty"),
        ("a\0b", "NUL"),
    ],
)
def test_a_wrong_address_is_refused_with_the_right_form(text, hint):
    with pytest.raises(BadSettings, match=hint):
        parse_address(text)


CONFIG = """\
- node:
    id: foo
- local-only
- TLS-Client:
    Name: other
    rootcas: /other.pem
- tls-client:
    name: mine
    rootcas: /ca.pem
    key: /key.pem
    cert: /cert.pem
    insecureSkipVerify: "false"
"""


def test_a_configured_tls_client_is_found_by_its_name(tmp_path):
    config = tmp_path / "foo.yml"
    config.write_text(CONFIG)
    given = TlsSettings(insecureskipverify=True)
    expected = TlsSettings("/ca.pem", "/key.pem", "/cert.pem", False)
    assert choose_tls(str(config), "mine", given, read=True) == expected


def test_an_unknown_tls_client_is_answered_with_the_known_ones(tmp_path):
    config = tmp_path / "foo.yml"
    config.write_text(CONFIG)
    with pytest.raises(BadSettings, match="no tls-client named theirs: it has other, mine"):
        choose_tls(str(config), "theirs", TlsSettings(), read=True)


def test_a_configuration_is_not_opened_where_tls_is_not_used():
    assert choose_tls("/no/such", "mine", TlsSettings(), read=False) == TlsSettings()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot read .*: No such file"),
        (b"\xff\xfe", "not a text file"),
        (b"{[", "is not YAML: "),
        (b"key: value", "it has none"),
        (b"- tls-client:\n    name: mine\n    insecureskipverify: maybe", "true or false"),
    ],
)
def test_an_unusable_configuration_is_one_line_that_says_why(tmp_path, content, reason):
    config = tmp_path / "foo.yml"
    if content is not None:
        config.write_bytes(content)
    with pytest.raises(BadSettings, match=reason) as caught:
        choose_tls(str(config), "mine", TlsSettings(), read=True)
    assert "\n" not in str(caught.value)


def test_options_that_exclude_each_other_are_refused():
    with pytest.raises(BadSettings, match="--config excludes --rootcas"):
        choose_tls("foo.yml", "mine", TlsSettings(rootcas="ca.pem"), read=False)
    with pytest.raises(BadSettings, match="--config needs --tls-client"):
        choose_tls("foo.yml", "", TlsSettings(), read=False)
