"""``meshnode check`` warns of what everybody who can reach the machine may use."""

from pathlib import Path

import pytest

from meshnode import ownership
from meshnode.cli import ExitCode, main
from meshnode.config import load_arguments
from meshnode.config.check import exposures, plain_controls

EVERYWHERE = ["", "0.0.0.0", "::"]
SOMEWHERE = ["127.0.0.1", "::1", "10.0.0.7", "localhost", "foo.example.org"]
PORTS = {
    "tcp-listener": ("bindaddr", ["port=2222"]),
    "ws-listener": ("bindaddr", ["port=2222"]),
    "udp-listener": ("bindaddr", ["port=2222"]),
    "tcp-server": ("bindaddr", ["port=80", "remotenode=bar", "remoteservice=web"]),
    "udp-server": ("bindaddr", ["port=53", "remotenode=bar", "remoteservice=dns"]),
    "control-service": ("tcplisten", ["service=control"]),
}


def warnings_of(directive: str, address: str) -> list[str]:
    parameter, others = PORTS[directive]
    value = address
    if parameter == "tcplisten":
        value = f"[{address}]:2222" if ":" in address else f"{address}:2222"
    argument = [f"{parameter}={value}"] if address or parameter == "tcplisten" else []
    arguments = [
        "--node",
        "id=foo",
        "--tcp-peer",
        "localhost:1",
        f"--{directive}",
        *others,
        *argument,
    ]
    return [fault.as_warning() for fault in exposures(load_arguments(arguments))]


@pytest.mark.parametrize("directive", PORTS)
@pytest.mark.parametrize("address", EVERYWHERE)
def test_a_port_on_all_interfaces_is_warned_of(directive: str, address: str) -> None:
    (warning,) = warnings_of(directive, address)
    assert warning.startswith(f"command line: warning: {directive}: port ")
    assert "is open on all interfaces" in warning
    assert "whoever can reach it" in warning


@pytest.mark.parametrize("directive", PORTS)
@pytest.mark.parametrize("address", SOMEWHERE)
def test_a_port_on_one_address_is_not(directive: str, address: str) -> None:
    assert warnings_of(directive, address) == []


def test_a_check_with_warnings_passes_and_names_their_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "CLEANED", ())  # where this test runs
    file = tmp_path / "foo.yml"
    file.write_text(
        "- node:\n    id: foo\n- tcp-listener:\n    port: 2222\n"
        "- control-service:\n    service: control\n    tcplisten: 7777\n"
        f"    filename: {tmp_path}/foo.sock\n"
    )
    assert main(["check", str(file)]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == f"{file}: ok (node foo: 1 listener, 1 control service)\n"
    assert err.splitlines() == [
        f"{file}:3: warning: tcp-listener: port 2222 is open on all interfaces without TLS: "
        "whoever can reach it may join the mesh; set bindaddr, or let a firewall choose who can",
        f"{file}:7: warning: control-service: port 7777 is open on all interfaces: whoever can "
        "reach it controls the node; write 127.0.0.1 and the port, or let a firewall choose who "
        "can",
    ]


def with_server(asks: bool, *arguments: str) -> list[str]:
    """Return arguments of a node with a ``tls-server`` that asks who its clients are, or not."""
    server = ["name=srv", "cert=a.crt", "key=a.key", f"requireclientcert={str(asks).lower()}"]
    return ["--node", "id=foo", "--tcp-peer", "localhost:1", "--tls-server", *server, *arguments]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tcp-listener", "port=2222", "tls=srv"],
        ["--ws-listener", "port=2222", "tls=srv"],
        ["--control-service", "tcplisten=2222", "tcptls=srv"],
        ["--tcp-server", "port=1", "remotenode=a", "remoteservice=b", "tlsserver=srv"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_open_port_is_warned_of_unless_its_clients_must_show_certificates(
    arguments: list[str],
) -> None:
    assert exposures(load_arguments(with_server(True, *arguments))) == []
    (warning,) = exposures(load_arguments(with_server(False, *arguments)))
    if not arguments[0].startswith("--tcp-server"):
        assert "without requireclientcert" in warning.text


@pytest.mark.parametrize(
    ("where", "is_plain"),
    [
        ("7777", True),
        ("10.0.0.7:7777", True),
        ("foo.example.org:7777", True),
        ("127.0.0.1:7777", False),
        ("[::1]:7777", False),
        ("localhost:7777", False),
    ],
)
def test_a_control_service_that_others_reach_without_tls_is_warned_of(
    where: str, is_plain: bool
) -> None:
    service = ["--control-service", f"tcplisten={where}"]
    found = plain_controls(load_arguments(with_server(True, *service)))
    assert len(found) == is_plain
    assert plain_controls(load_arguments(with_server(True, *service, "tcptls=srv"))) == []


def test_a_check_tells_of_a_plain_control_service_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "CLEANED", ())
    file = tmp_path / "foo.yml"
    for where in ("7777", "10.0.0.7:7777"):
        file.write_text(
            f"- node:\n    id: foo\n- local-only\n- control-service:\n    tcplisten: {where}\n"
        )
        assert main(["check", str(file)]) == ExitCode.OK
        (warning,) = capsys.readouterr().err.splitlines()
        assert warning.startswith(f"{file}:5: warning: control-service: ")
