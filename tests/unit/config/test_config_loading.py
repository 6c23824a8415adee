"""What is right is read as it was meant, from files and from arguments alike."""

import shlex
import socket
from pathlib import Path

import pytest

from meshnode.config import (
    Address,
    ConfigFaults,
    ControlService,
    LogLevel,
    Node,
    NodeConfig,
    TcpListener,
    TcpPeer,
    WorkCommand,
    load_arguments,
    load_file,
    parse_address,
    parse_listen_address,
)

ROOT = Path(__file__).parents[3]


def from_text(tmp_path: Path, text: str) -> NodeConfig:
    file = tmp_path / "node.yml"
    file.write_text(text, encoding="utf-8")
    return load_file(str(file))


def test_the_guides_foo_is_read():
    config = load_file(str(ROOT / "examples/foo.yml"))
    assert config == NodeConfig(
        node=Node("foo"),
        log_level=LogLevel("debug"),
        listeners=(TcpListener(2222, "127.0.0.1"),),
        control_services=(ControlService("control", "/tmp/foo.sock"),),
        work_types=(
            WorkCommand(
                worktype="echoint",
                command="bash",
                params=("-c", "for i in {1..5}; do echo $i; sleep 1; done"),
            ),
        ),
    )
    assert config.summary() == "node foo: 1 listener, 1 control service, 1 work type"


def test_the_guides_quoting_reaches_bash_intact():
    config = load_file(str(ROOT / "examples/bar.yml"))
    payload = next(w for w in config.work_types if w.worktype == "echopayload")
    assert payload.params[1].startswith("while read -r line; do echo ${line^^};")


def test_bare_values_serve_where_one_parameter_says_it_all(tmp_path: Path):
    config = from_text(
        tmp_path, "- node: foo\n- log-level: DEBUG\n- tcp-listener: 2222\n- tcp-peer: bar:2223\n"
    )
    assert config == NodeConfig(
        Node("foo"), LogLevel("debug"), (TcpListener(2222),), (TcpPeer(Address("bar", 2223)),)
    )


def test_names_are_read_in_any_case(tmp_path: Path):
    config = from_text(tmp_path, "- NODE:\n    Id: Foo\n    dataDir: /d\n- Local-Only:\n")
    assert config == NodeConfig(Node("Foo", Path("/d")), local_only=True)


def test_without_a_node_the_host_name_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "box7")
    assert from_text(tmp_path, "- local-only\n").node == Node("box7", Path("/tmp/receptor"))


@pytest.mark.parametrize("host", ["localhost", "localhost.localdomain"])
@pytest.mark.parametrize("text", ["- local-only\n", "- node\n- local-only\n"])
def test_a_host_named_localhost_needs_an_id(
    host: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    with pytest.raises(
        ConfigFaults, match="node: id: is not given, and the host name cannot stand in for it"
    ):
        from_text(tmp_path, text)


@pytest.mark.parametrize("written", ["0660", "0o660", '"0660"', "'0o660'"])
def test_permissions_are_octal_however_written(written: str, tmp_path: Path):
    text = f"- node: a\n- local-only\n- control-service: {{permissions: {written}}}\n"
    assert from_text(tmp_path, text).control_services[0].permissions == 0o660


def test_text_stays_as_it_was_written(tmp_path: Path):
    text = "- node: 007\n- local-only\n- work-command: {worktype: yes, command: 1.50}\n"
    config = from_text(tmp_path, text)
    assert config.node.id == "007"
    assert config.work_types == (WorkCommand(worktype="yes", command="1.50"),)


def test_numbers_and_truth_may_be_in_quotes(tmp_path: Path):
    text = "- node: a\n- tcp-listener: '2222'\n- tcp-peer: {address: b:1, redial: 'NO', cost: '2'}"
    config = from_text(tmp_path, text)
    assert config.listeners == (TcpListener(2222),)
    assert config.peers == (TcpPeer(Address("b", 1), redial=False, cost=2.0),)


@pytest.mark.parametrize(
    ("written", "meant"),
    [(word, True) for word in ("1", "t", "T", "Y", "on", "Yes", "TRUE")]
    + [(word, False) for word in ("0", "f", "F", "N", "off", "No", "FALSE")],
)
def test_receptors_words_for_truth_are_read(written: str, meant: bool, tmp_path: Path):
    config = from_text(tmp_path, f"- node: a\n- tcp-peer: {{address: b:1, redial: {written}}}\n")
    assert config.peers[0].redial is meant


def test_a_map_without_a_value_is_empty(tmp_path: Path):
    text = "- node: a\n- tcp-listener:\n    port: 1\n    nodecost:\n"
    assert from_text(tmp_path, text).listeners == (TcpListener(1),)


@pytest.mark.parametrize(("written", "seconds"), [("21s", 21.0), ("1m30.5s", 90.5), ("1h", 3600.0)])
def test_durations_are_seconds(written: str, seconds: float, tmp_path: Path):
    text = f"- node: {{id: a, maxidleconnectiontimeout: {written}}}\n- local-only\n"
    assert from_text(tmp_path, text).node.max_idle_connection_timeout == seconds


def test_listeners_know_costs_and_peers(tmp_path: Path):
    config = from_text(
        tmp_path,
        "- node: a\n- tcp-listener:\n    port: 0\n    bindaddr: '[::1]'\n    cost: 1.5\n"
        "    nodecost: {b: 2, c: 0.5}\n    allowedpeers: [b, c]\n",
    )
    (listener,) = config.listeners
    assert listener == TcpListener(0, "::1", 1.5, {"b": 2.0, "c": 0.5}, ("b", "c"))


def test_one_peer_needs_no_list(tmp_path: Path):
    config = from_text(tmp_path, "- node: a\n- tcp-listener: {port: 1, allowedpeers: b}\n")
    assert config.listeners[0].allowedpeers == ("b",)


def test_several_listeners_may_let_the_system_choose(tmp_path: Path):
    assert len(from_text(tmp_path, "- tcp-listener: 0\n" * 2).listeners) == 2


def test_a_byte_order_mark_is_no_text(tmp_path: Path):
    assert from_text(tmp_path, "\ufeff- node: foo\n- local-only\n").node.id == "foo"


def test_values_cannot_be_changed_afterwards(tmp_path: Path):
    config = from_text(tmp_path, "- node: a\n- tcp-listener: {port: 1, nodecost: {b: 1}}\n")
    with pytest.raises(AttributeError):
        config.node.id = "b"  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.listeners[0].nodecost["b"] = 2  # type: ignore[index]


def test_the_issues_command_line_is_read():
    config = load_arguments(
        shlex.split(
            "--node id=foo --log-level debug --tcp-listener port=2222 --control-service "
            "filename=/tmp/foo.sock --work-command worktype=echo command=echo params=hi"
        )
    )
    assert config == NodeConfig(
        node=Node("foo"),
        log_level=LogLevel("debug"),
        listeners=(TcpListener(2222),),
        control_services=(ControlService(filename="/tmp/foo.sock"),),
        work_types=(WorkCommand(worktype="echo", command="echo", params=("hi",)),),
    )


def test_arguments_may_be_bare_joined_repeated_and_json():
    config = load_arguments(
        [
            *("--node=foo", "--TCP-Listener", "2222", "cost=2", 'nodecost={"b": 2}'),
            *("--tcp-peer", "b:1", "allowedpeers=b", "allowedpeers=c", "allowedpeers=d"),
            *("--tcp-peer", "address=c:1", 'allowedPeers=["b", "c"]', "redial=no"),
        ]
    )
    assert config == NodeConfig(
        node=Node("foo"),
        listeners=(TcpListener(2222, cost=2.0, nodecost={"b": 2.0}),),
        peers=(
            TcpPeer(Address("b", 1), allowedpeers=("b", "c", "d")),
            TcpPeer(Address("c", 1), redial=False, allowedpeers=("b", "c")),
        ),
    )


def test_a_value_may_have_an_equals_sign_and_begin_with_a_dash():
    (work,) = load_arguments(
        ["--node", "a", "--local-only", "--work-command", "worktype=x", "command=y", "params=-a=b"]
    ).work_types
    assert work.params == ("-a=b",)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("debug", LogLevel("debug", "json")),
        ("format=text", LogLevel("error", "text")),
        ("level=info", LogLevel("info", "json")),
    ],
)
def test_the_command_line_changes_of_the_log_what_it_names(tmp_path: Path, argument, expected):
    file = tmp_path / "a.yml"
    file.write_text("- node: a\n- log-level: {level: error, format: json}\n- local-only\n")
    assert load_arguments(["--log-level", argument, "-c", str(file)]).log_level == expected


def test_a_format_alone_leaves_the_level(tmp_path: Path):
    config = from_text(tmp_path, "- node: a\n- local-only\n- log-level: {format: JSON}\n")
    assert config.log_level == LogLevel("info", "json")


def test_a_file_and_arguments_add_up(tmp_path: Path):
    file = tmp_path / "a.yml"
    file.write_text("- node: a\n- log-level: error\n- tcp-listener: 1\n")
    config = load_arguments(["-c", str(file), "--log-level", "debug", "--tcp-listener", "2"])
    assert config == NodeConfig(
        Node("a"), LogLevel("debug"), (TcpListener(1), TcpListener(2)), (), (), ()
    )


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["foo.yml"],
            'command line: "foo.yml" is not an option; directives begin with --, '
            "and a file is named by --config FILE",
        ),
        (["-node", "a"], 'command line: unknown option "-node"; did you mean "--node"?'),
        (["--"], 'command line: unknown option "--"; see meshnode --help'),
        (["--config"], "command line: --config: the name of a file is missing"),
        (["-c", "a", "b"], 'command line: -c: takes one file; what is "b"?'),
        (
            ["--confg", "foo.yml"],
            'command line: confg: unknown directive; did you mean "config"?',
        ),
        (
            ["--tcp-listener", "prot=1", "port=1"],
            'command line: tcp-listener: prot: unknown parameter; did you mean "port"?',
        ),
        (
            ["--tcp-listener", "port=1", "port=2"],
            "command line: tcp-listener: port: is given twice; the first is on the command line",
        ),
        (
            ["--log-level", "info", "debug", "--local-only"],
            'command line: log-level: takes one value; what is "debug"?',
        ),
        (
            ["--node", "a", "--node", "b", "--local-only"],
            "command line: node: is given twice; the first is on the command line",
        ),
        (
            ["--tcp-listener", "1", "allowedpeers=b", "allowedpeers=c d"],
            'command line: tcp-listener: allowedpeers: "c d" cannot be a node ID: '
            "it has spaces or control characters",
        ),
        (
            ["--tcp-listener", "1", 'nodecost={"b": 0}'],
            'command line: tcp-listener: nodecost: b: "0" is not a number above 0',
        ),
        (
            ["--node", "a"],
            "command line: no link is configured; add a tcp-listener or tcp-peer, "
            "or local-only to run without any",
        ),
    ],
)
def test_a_mistake_in_arguments_names_the_command_line(argv: list[str], expected: str):
    with pytest.raises(ConfigFaults) as caught:
        load_arguments(argv)
    assert str(caught.value) == expected


def test_a_second_node_on_the_command_line_names_the_file(tmp_path: Path):
    file = tmp_path / "a.yml"
    file.write_text("- local-only\n- node: a\n")
    with pytest.raises(ConfigFaults) as caught:
        load_arguments(["--config", str(file), "--node", "b"])
    assert str(caught.value) == f"command line: node: is given twice; the first is at {file}:2"


def test_faults_of_a_file_come_before_those_of_arguments(tmp_path: Path):
    file = tmp_path / "a.yml"
    file.write_text("- local-only\n- nod: a\n")
    with pytest.raises(ConfigFaults) as caught:
        load_arguments(["--nope", "-c", str(file)])
    assert [fault.place.line for fault in caught.value.faults] == [2, None]


def test_a_fault_found_at_start_is_located_like_any_other(tmp_path: Path):
    config = from_text(
        tmp_path, "- node: a\n- local-only\n- control-service:\n    filename: /tmp/a.sock\n"
    )
    (service,) = config.control_services
    file = tmp_path / "node.yml"
    assert str(service.error("filename", "is in use")) == (
        f"{file}:4: control-service: filename: is in use"
    )
    assert str(service.error("tcplisten", "is in use")) == (
        f"{file}:3: control-service: tcplisten: is in use"
    )
    assert str(service.error(None, "is wrong")) == f"{file}:3: control-service: is wrong"
    assert str(Node("a").error("id", "is used")) == "configuration: node: id: is used"


@pytest.mark.parametrize(
    ("address", "expected"),
    [("a.b-c:1", ("a.b-c", 1)), ("[::1]:65535", ("::1", 65535)), ("10.0.0.1:22", ("10.0.0.1", 22))],
)
def test_addresses_are_taken_apart(address: str, expected: tuple[str, int]):
    assert parse_address(address) == Address(*expected)


@pytest.mark.parametrize("with_services", [True, False])
def test_a_port_may_have_its_name(with_services: bool, monkeypatch: pytest.MonkeyPatch):
    if not with_services:  # as in small containers, which have no /etc/services

        def unknown(name: str, protocol: str) -> int:
            raise OSError("service/proto not found")

        monkeypatch.setattr(socket, "getservbyname", unknown)
    assert parse_address("localhost:http") == Address("localhost", 80)
    assert parse_address("[::1]:ssh") == Address("::1", 22)
    assert parse_listen_address("https") == Address("", 443)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("0", ("", 0)), ("8888", ("", 8888)), (":8888", ("", 8888)), ("[::]:1", ("::", 1))],
)
def test_listen_addresses_may_be_a_port_alone(address: str, expected: tuple[str, int]):
    assert parse_listen_address(address) == Address(*expected)


def test_the_summary_counts_and_inflects():
    config = NodeConfig(Node("a"), peers=(TcpPeer(Address("b", 1)), TcpPeer(Address("c", 1))))
    assert config.summary() == "node a: 2 peers"
    assert NodeConfig(Node("a"), local_only=True).summary() == "node a: local only"
