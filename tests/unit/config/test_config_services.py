"""Directives of services over the mesh: what they take, refuse, and cannot both have."""

from pathlib import Path

import pytest

from meshnode.config import Address, ConfigFaults, load_file
from meshnode.config.service_directives import (
    CommandService,
    TcpClient,
    TcpServer,
    UdpServer,
    UnixSocketServer,
)

HEAD = "- node: foo\n- local-only\n"


def load(tmp_path: Path, text: str):
    file = tmp_path / "foo.yml"
    file.write_text(HEAD + text)
    return load_file(str(file))


def test_receptors_names_make_services_in_the_order_of_the_file(tmp_path: Path):
    config = load(
        tmp_path,
        "- tcp-client: {service: web, address: 'localhost:80'}\n"
        "- tcp-server: {port: 8080, bindaddr: 127.0.0.1, remoteNode: bar, remoteService: web}\n"
        "- udp-server: {port: 53, remotenode: LocalHost, remoteservice: dns}\n"
        "- unix-socket-server: {filename: /run/s, remotenode: bar, remoteservice: db}\n"
        "- command-service: {service: sh, command: bash -l}\n",
    )
    assert config.services == (
        TcpClient(service="web", address=Address("localhost", 80)),
        TcpServer(port=8080, bindaddr="127.0.0.1", remotenode="bar", remoteservice="web"),
        UdpServer(port=53, remotenode="localhost", remoteservice="dns"),
        UnixSocketServer(filename="/run/s", remotenode="bar", remoteservice="db"),
        CommandService(service="sh", command=("bash", "-l")),
    )
    assert config.services[3].permissions == 0o600
    assert config.summary() == "node foo: local only, 5 services"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "- tcp-server: {port: 1, remotenode: a, remoteservice: b, tlsserver: x}\n",
            'tcp-server: tlsserver: there is no tls-server "x"; add a tls-server of that name',
        ),
        (
            "- tcp-client: {service: a, address: 'b:1', tlsclient: x}\n",
            'tcp-client: tlsclient: there is no tls-client "x"; add a tls-client of that name',
        ),
        (
            "- unix-socket-client: {service: a, filename: /b, tls: x}\n",
            'unix-socket-client: tls: there is no tls-server "x"; add a tls-server of that name',
        ),
        (
            "- command-service: {service: a, command: b, tls: x}\n",
            'command-service: tls: there is no tls-server "x"; add a tls-server of that name',
        ),
        (
            "- command-service: {service: a, command: '  '}\n",
            "command-service: command: is empty; expected: text, split into words as a shell does",
        ),
        (
            "- unix-socket-server: {filename: '', remotenode: a, remoteservice: b}\n",
            "unix-socket-server: filename: is empty; the path of a unix socket is needed",
        ),
        (
            "- udp-client: {service: muchtoolong, address: 'a:1'}\n",
            'udp-client: service: "muchtoolong" is 11 bytes long; a service name has at most 8',
        ),
        (
            "- control-service\n- tcp-client: {service: control, address: 'a:1'}\n",
            'tcp-client: service: "control" is already used by the control-service on line 3',
        ),
        (
            "- udp-client: {service: a, address: 'a:1'}\n"
            "- command-service: {service: a, command: b}\n",
            'command-service: service: "a" is already used by the udp-client on line 3',
        ),
        (
            "- tcp-client: {service: a, address: 'a:1'}\n"
            "- tcp-client: {service: a, address: 'b:1'}\n",
            'tcp-client: service: "a" is already used by the tcp-client on line 3',
        ),
        (
            "- control-service: {filename: /run/s}\n"
            "- unix-socket-server: {filename: /run/s, remotenode: a, remoteservice: b}\n",
            'unix-socket-server: filename: "/run/s" is already used by the control-service '
            "on line 3",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, fault: str):
    with pytest.raises(ConfigFaults) as caught:
        load(tmp_path, text)
    line = text.count("\n") + 2
    assert str(caught.value) == f"{tmp_path}/foo.yml:{line}: {fault}"


def test_a_tcp_port_is_one_link_listeners_or_one_services(tmp_path: Path):
    file = tmp_path / "foo.yml"
    file.write_text(
        "- node: foo\n- tcp-listener: 2222\n"
        "- tcp-server: {port: 2222, remotenode: a, remoteservice: b}\n"
        "- udp-server: {port: 2222, remotenode: a, remoteservice: b}\n"
    )
    with pytest.raises(ConfigFaults) as caught:
        load_file(str(file))
    assert str(caught.value) == (
        f'{file}:3: tcp-server: port: "2222" is already used by the tcp-listener on line 2'
    )


def test_ports_that_the_system_chooses_do_not_clash(tmp_path: Path):
    remote = "remotenode: a, remoteservice: b"
    config = load(tmp_path, f"- tcp-server: {{port: 0, {remote}}}\n" * 2)
    assert len(config.services) == 2
