"""The directives that make links, and what only some kinds of link have."""

from pathlib import Path

import pytest

from meshnode.cli import ExitCode, main
from meshnode.config import (
    LINK_DIRECTIVES,
    Address,
    ConfigFaults,
    ListenerDirective,
    NodeConfig,
    PeerDirective,
    UdpListener,
    UdpPeer,
    WsListener,
    WsPeer,
    WsUrl,
    load_arguments,
    load_file,
    parse_ws_url,
)
from meshnode.errors import ConfigError


def from_text(tmp_path: Path, text: str) -> NodeConfig:
    file = tmp_path / "node.yml"
    file.write_text("- node: foo\n" + text, encoding="utf-8")
    return load_file(str(file))


def test_websocket_and_udp_links_are_read_as_receptors_files_write_them(tmp_path: Path):
    config = from_text(
        tmp_path,
        """
- ws-listener:
    bindaddr: 127.0.0.1
    port: 8080
    path: /mesh
    cost: 1.5
    nodecost: {bar: 2}
    allowedpeers: [bar]
- ws-peer:
    address: ws://bar.example.org/mesh?site=1
    redial: false
    extraheader: "X-Forwarded-User:  mesh one "
    cost: 3
    allowedpeers: bar
- UDP-listener: 2222
- udp-peer:
    address: "[::1]:2222"
""",
    )
    assert config.listeners == (
        WsListener(8080, "127.0.0.1", 1.5, {"bar": 2.0}, ("bar",), "/mesh"),
        UdpListener(2222),
    )
    assert config.peers == (
        WsPeer(
            WsUrl("bar.example.org", 80, "bar.example.org", "/mesh?site=1"),
            False,
            3.0,
            ("bar",),
            ("X-Forwarded-User", "mesh one"),
        ),
        UdpPeer(Address("::1", 2222)),
    )


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("ws://foo", WsUrl("foo", 80, "foo", "/")),
        ("ws://foo:8080", WsUrl("foo", 8080, "foo:8080", "/")),
        ("WS://foo:8080/a/b?c=d", WsUrl("foo", 8080, "foo:8080", "/a/b?c=d")),
        ("ws://10.0.0.1/", WsUrl("10.0.0.1", 80, "10.0.0.1", "/")),
        ("ws://[::1]/x", WsUrl("::1", 80, "[::1]", "/x")),
        ("ws://[::1]:81?q", WsUrl("::1", 81, "[::1]:81", "/?q")),
    ],
)
def test_the_url_of_a_websocket_is_taken_apart(url: str, parts: WsUrl):
    assert parse_ws_url(url) == parts


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("ws-peer: foo:80", 'address: "foo:80" is not a URL of the form ws://host:port/path'),
        ("ws-peer: http://foo/", '"http://foo/" is not a URL of the form ws://host:port/path'),
        ("ws-peer: ws://", '"ws://" is not a URL of the form ws://host:port/path'),
        ("ws-peer: ws:///path", "is not a URL of the form ws://host:port/path"),
        ("ws-peer: 'ws://foo bar/'", "is not a URL of the form ws://host:port/path"),
        ("ws-peer: 'ws://[::1/'", "is not a URL of the form ws://host:port/path"),
        ("ws-peer: ws://[[::1]", "is not a URL of the form ws://host:port/path"),
        ("ws-peer: ws://foo:0/", "port 0 is out of range"),
        ("ws-peer: ws://foo:x/", "is not"),
        ("ws-peer: ws://me:pw@foo/", "has no user and no fragment"),
        ("ws-peer: 'ws://foo/#x'", "has no user and no fragment"),
        ("ws-listener: {port: 1, path: mesh}", '"mesh" is not a path that begins with /'),
        ("ws-listener: {port: 1, path: '/a b'}", "is not a path that begins with /"),
        ("ws-listener: {port: 1, path: '/a?b'}", "is not a path that begins with /"),
        ("ws-peer: {address: ws://a, extraheader: x}", 'extraheader: "x" is not a header'),
        ('ws-peer: {address: ws://a, extraheader: "x: a\\nb: c"}', "is not a header of the form"),
        ("ws-peer: {address: ws://a, extraheader: 'Host: x'}", "belongs to the websocket handsh"),
        ("ws-peer: {address: ws://a, extraheader: 'Sec-WebSocket-Key: x'}", "belongs to the webs"),
        ("ws-peer: {address: wss://a, tls: x}", 'tls: there is no tls-client "x"'),
        ("udp-peer: {address: a:1, tls: x}", "tls: unknown parameter"),
        ("udp-peer: ws://a", "is neither a port nor the name of one"),
        ("udp-listener: {port: 1, cost: 0}", "cost: "),
    ],
)
def test_a_mistake_in_a_link_is_told_in_one_line(tmp_path: Path, text: str, fault: str):
    with pytest.raises(ConfigFaults) as caught:
        from_text(tmp_path, f"- {text}\n")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path}/node.yml:2: {text.split(':', maxsplit=1)[0]}: ")
    assert fault in line


def test_every_link_directive_is_a_listeners_or_a_peers():
    for cls in LINK_DIRECTIVES:
        assert issubclass(cls, ListenerDirective) != issubclass(cls, PeerDirective)
        assert cls.INFO.name.endswith("-listener") == issubclass(cls, ListenerDirective)


LINKS = [
    ("tcp-listener", "port=0"),
    ("ws-listener", "port=0"),
    ("udp-listener", "port=0"),
    ("tcp-peer", "address=a:1"),
    ("ws-peer", "address=ws://a:1"),
    ("udp-peer", "address=a:1"),
]


@pytest.mark.parametrize(("directive", "parameter"), LINKS)
@pytest.mark.parametrize("cost", ["-1", "0", "-0.5", "-inf"])
def test_a_cost_that_is_not_positive_is_told_in_receptors_words_on_stdout_as_well(
    directive: str, parameter: str, cost: str, capsys: pytest.CaptureFixture[str]
):
    arguments = ["--node", "id=foo", f"--{directive}", parameter, f"cost={cost}"]
    if "listener" in directive:
        arguments.append(f'nodecost={{"bar": {cost}}}')
    assert main(arguments) == ExitCode.CONFIGURATION
    out, err = capsys.readouterr()
    assert out == "Error: connection cost must be positive\n"
    assert f'command line: {directive}: cost: "{cost}" is not a number above 0\n' in err


@pytest.mark.parametrize("mistake", ["cost=nan", "cost=much", "prot=1"])
def test_other_mistakes_are_told_on_stderr_alone(mistake: str, capsys: pytest.CaptureFixture[str]):
    assert main(["--node", "foo", "--tcp-peer", "a:1", mistake]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("directive", "parameter"), [link for link in LINKS if "udp" not in link[0]]
)
@pytest.mark.parametrize("empty", ["tls=", "TLS="])
def test_an_empty_tls_asks_for_none(directive: str, parameter: str, empty: str):
    without = ["--node", "id=foo", f"--{directive}", parameter]
    assert load_arguments([*without, empty]) == load_arguments(without)


def test_a_websocket_over_tls_has_its_own_scheme_and_port():
    url = parse_ws_url("wss://foo/mesh")
    assert (url.host, url.port, url.target, url.is_secure) == ("foo", 443, "/mesh", True)
    assert str(url) == "wss://foo/mesh"
    assert parse_ws_url("wss://foo:1/").port == 1
    assert not parse_ws_url("ws://foo").is_secure


def test_tls_at_a_plain_websocket_is_refused_with_the_remedy(tmp_path: Path):
    file = tmp_path / "foo.yml"
    file.write_text(
        "- node: foo\n- ws-peer: {address: 'ws://a:8080', tls: x}\n- tls-client: {name: x}\n"
    )
    with pytest.raises(ConfigError, match="asks for TLS, and the address has none") as caught:
        load_file(str(file))
    assert "write wss://a:8080" in str(caught.value)


def test_the_names_of_tls_reach_the_directives(tmp_path: Path):
    file = tmp_path / "foo.yml"
    file.write_text(
        "- node: foo\n"
        "- tls-server: {name: s, cert: a.crt, key: a.key, requireclientcert: true}\n"
        f"- tls-client: {{name: c, rootcas: '', pinnedservercert: ['{'AB:' * 31}AB']}}\n"
        "- tcp-listener: {port: 1, tls: s}\n- ws-listener: {port: 2, tls: s}\n"
        "- tcp-peer: {address: a:1, tls: c}\n- ws-peer: {address: 'wss://a', tls: c}\n"
    )
    config = load_file(str(file))
    assert [listener.tls for listener in config.listeners] == ["s", "s"]
    assert [(peer.tls, peer.has_tls) for peer in config.peers] == [("c", True), ("c", True)]
    assert config.tls_servers[0].mintls13
    assert config.tls_clients[0].rootcas is None
    assert config.tls_clients[0].pinnedservercert == ("ab" * 32,)
