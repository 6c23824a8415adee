"""``meshnode check`` warns of what everybody who can reach the machine may use."""

from pathlib import Path

import pytest

from meshnode import ownership
from meshnode.cli import ExitCode, main
from meshnode.config import load_arguments
from meshnode.config.check import exposures

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
