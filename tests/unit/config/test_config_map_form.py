"""A map of directives means what the same directives mean as a list; --convert writes the list."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshnode.cli import ExitCode, main
from meshnode.config import ConfigFaults, NodeConfig, TcpPeer, load_file, parse_address
from meshnode.config.convert import list_form
from meshnode.config.directives import DIRECTIVES
from meshnode.config.files import MAX_MERGED
from meshnode.config.schema import DirectiveInfo

SEVERAL = [cls.INFO for cls in DIRECTIVES if not cls.INFO.once]
ONCE = [cls.INFO for cls in DIRECTIVES if cls.INFO.once]

each_of_several = pytest.mark.parametrize("info", SEVERAL, ids=lambda info: info.name)
each_directive = pytest.mark.parametrize("info", [*SEVERAL, *ONCE], ids=lambda info: info.name)


def load(tmp_path: Path, text: str) -> NodeConfig:
    file = tmp_path / "node.yml"
    file.write_text(text, encoding="utf-8")
    return load_file(str(file))


def documents(info: DirectiveInfo, name: str, *, listed: bool) -> tuple[str, str]:
    """Return the directive's example as a map and as a list, each a whole file."""
    example = dict(info.example)
    rest: dict[str, Any] = {"node": "foo", "tcp-peer": "elsewhere:1"}
    rest.pop(info.name, None)
    as_map = {"version": 2, **rest, name: [example] if listed else example}
    as_list = [*({key: value} for key, value in rest.items()), {info.name: example}]
    return yaml.safe_dump(as_map, sort_keys=False), yaml.safe_dump(as_list, sort_keys=False)


@each_of_several
@pytest.mark.parametrize("plural", [True, False], ids=["plural", "singular"])
@pytest.mark.parametrize("listed", [True, False], ids=["list", "map"])
@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
def test_each_directive_is_read_in_a_map(
    info: DirectiveInfo, plural: bool, listed: bool, case: Any, tmp_path: Path
):
    name = case(info.name + ("s" if plural else ""))
    as_map, as_list = documents(info, name, listed=listed)
    assert load(tmp_path, as_map) == load(tmp_path, as_list)


@pytest.mark.parametrize("info", ONCE, ids=lambda info: info.name)
def test_what_is_given_once_is_read_in_a_map(info: DirectiveInfo, tmp_path: Path):
    as_map, as_list = documents(info, info.name, listed=False)
    assert load(tmp_path, as_map) == load(tmp_path, as_list)


@each_of_several
@pytest.mark.parametrize("value", ["x", "{a: 1}", "[x]", "[{a: 1}]", "[]", ""])
def test_a_plural_in_a_list_is_told_its_singular(value: str, info: DirectiveInfo, tmp_path: Path):
    with pytest.raises(ConfigFaults) as caught:
        load(tmp_path, f"- node: foo\n- {info.name}s: {value}\n")
    assert str(caught.value).endswith(
        f':2: {info.name}s: unknown directive; did you mean "{info.name}"?'
    )


def test_receptors_own_faults_with_the_map_are_not_copied(tmp_path: Path):
    config = load(
        tmp_path,
        "node: foo\n"
        "udp-servers:\n  - {port: 53, remotenode: bar, remoteservice: dns}\n"
        "tcp-peers:\n  - {address: a:1, redial: false}\n"
        "iprouters:\n  - {networkname: lan, localnet: 10.9.1.0/30}\n"
        "ws-listeners:\n  - {port: 80}\n",
    )
    assert [service.INFO.name for service in config.services] == ["udp-server", "ip-router"]
    assert config.peers == (TcpPeer(parse_address("a:1"), redial=False),)
    assert config.listeners[0].bindaddr == ""


def test_a_map_takes_bare_values_and_empty_lists(tmp_path: Path):
    config = load(
        tmp_path,
        "node: foo\nlog-level: debug\ntcp-peers: ['a:1', 'b:1']\nws-peers: []\nudp-peers:\n",
    )
    assert [str(peer.address) for peer in config.peers] == ["a:1", "b:1"]
    assert config.log_level.level == "debug"


@pytest.mark.parametrize("written", ["", "true", "{local: true}", "{}", "{Local: yes}"])
@pytest.mark.parametrize("item", ["", "- "], ids=["map", "list"])
def test_local_only_is_meant_however_it_is_written(item: str, written: str, tmp_path: Path):
    assert load(tmp_path, f"{item}local-only: {written}\n{item}node: foo\n").local_only


def test_the_directives_of_all_documents_count(tmp_path: Path):
    text = (
        "---\n- node: foo\n...\n---\n# nothing\n---\ntcp-peers: [a:1]\n---\n- tcp-peer: b:1\n...\n"
    )
    config = load(tmp_path, text)
    assert config.node.id == "foo"
    assert [str(peer.address) for peer in config.peers] == ["a:1", "b:1"]


# --- merge keys


def test_merge_keys_bring_what_is_not_given(tmp_path: Path):
    config = load(
        tmp_path,
        "- node: foo\n"
        "- tcp-peer: &first\n    address: a:1\n    cost: 2\n    allowedpeers: [x]\n"
        "- tcp-peer: &second\n    <<: *first\n    Address: b:1\n    Cost: 3\n"
        "- tcp-peer:\n    <<: [*second, *first]\n    address: c:1\n",
    )
    assert [(str(peer.address), peer.cost, peer.allowedpeers) for peer in config.peers] == [
        ("a:1", 2.0, ("x",)),
        ("b:1", 3.0, ("x",)),
        ("c:1", 3.0, ("x",)),
    ]


def test_a_merge_key_works_within_values_and_around_directives(tmp_path: Path):
    config = load(
        tmp_path,
        "node: foo\n"
        "tcp-listeners:\n"
        "  - {port: 1, nodecost: &costs {a: 2}}\n"
        "  - {port: 2, nodecost: {<<: *costs, b: 3}}\n"
        "work-commands:\n"
        "  - &work {worktype: x, command: c, env: {A: 1}}\n"
        "  - {<<: *work, worktype: y, env: {B: 2}}\n",
    )
    assert dict(config.listeners[1].nodecost) == {"a": 2.0, "b": 3.0}
    assert [dict(work.env) for work in config.work_types] == [{"A": "1"}, {"B": "2"}]


@pytest.mark.parametrize("item", ["", "- "], ids=["map", "list"])
def test_keys_within_values_are_merged_as_they_are_written(item: str, tmp_path: Path):
    """Names of variables and nodes are not those of parameters: PATH and Path are two."""
    config = load(
        tmp_path,
        f"{item}node: foo\n"
        f"{item}tcp-listener: {{port: 1, nodecost: {{<<: {{bar: 2, baz: 4}}, BAR: 3, baz: 5}}}}\n"
        f"{item}work-command: {{worktype: x, command: c, env: {{<<: {{PATH: p}}, Path: q}}}}\n",
    )
    assert dict(config.listeners[0].nodecost) == {"BAR": 3.0, "baz": 5.0, "bar": 2.0}
    assert dict(config.work_types[0].env) == {"Path": "q", "PATH": "p"}


def test_a_map_that_others_take_over_keeps_what_they_replace(tmp_path: Path):
    config = load(
        tmp_path,
        "node: foo\nlocal-only:\nwork-commands:\n"
        "  - &work {worktype: x, command: c, env: {<<: {A: 1}, B: 2}}\n"
        "  - {<<: *work, worktype: y, env: {C: 3}}\n",
    )
    envs = [dict(work.env) for work in config.work_types]
    assert envs == [{"A": "1", "B": "2"}, {"C": "3"}]


@pytest.mark.parametrize("own", ["<<: *a", "<<: [*a, *a]"])
def test_a_map_that_merges_itself_is_as_without_that(own: str, tmp_path: Path):
    config = load(tmp_path, f"- node: foo\n- tcp-peer: &a\n    {own}\n    address: a:1\n")
    assert config.peers == (TcpPeer(parse_address("a:1")),)


@pytest.mark.parametrize(
    "merges",
    ["k: {<<: [" + "*a," * 300 + "]}\n", "".join(f"k{i}: {{<<: *a}}\n" for i in range(300))],
    ids=["in one map", "in many maps"],
)
def test_merge_keys_cost_no_more_than_their_budget(merges: str, tmp_path: Path):
    many = ", ".join(f"k{i}: 1" for i in range(1000))
    with pytest.raises(ConfigFaults) as caught:
        load(tmp_path, f"base: &a {{{many}}}\nnode: foo\n{merges}")
    told = [fault for fault in caught.value.faults if "merge keys" in str(fault)]
    assert [str(fault) for fault in told] == [
        f"{tmp_path / 'node.yml'}: not a configuration: its merge keys look at more than "
        f"{MAX_MERGED} pairs"
    ]


def test_a_thousand_peers_may_merge_a_map_each(tmp_path: Path):
    peers = "".join(f"  - {{<<: *peer, address: 'a{i}:1'}}\n" for i in range(1000))
    text = f"node: foo\ntcp-peers:\n  - &peer {{address: b:1, cost: 2, redial: false}}\n{peers}"
    assert {peer.cost for peer in load(tmp_path, text).peers} == {2.0}


# --- --convert


@each_directive
def test_a_converted_map_means_the_same(info: DirectiveInfo, tmp_path: Path):
    as_map, _ = documents(info, info.name, listed=False)
    config = load(tmp_path, as_map)
    converted = list_form(str(tmp_path / "node.yml"))
    assert isinstance(yaml.safe_load(converted), list)
    assert load(tmp_path, converted) == config


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@given(st.lists(texts), texts)
def test_values_survive_a_conversion_whatever_they_are(words: list[str], command: str):
    document = {
        "node": "foo",
        "local-only": None,
        "work-commands": [
            {"workType": f"w{n}", "command": "c" + command, "env": {"A": word, "b": command}}
            for n, word in enumerate(words)
        ],
    }
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "node.yml")
        file.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
        config = load_file(str(file))
        converted = list_form(str(file))
        file.write_text(converted, encoding="utf-8")
        assert load_file(str(file)) == config


def test_a_conversion_keeps_how_values_were_written_and_names_no_alias(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "node.yml"
    file.write_text(
        "version: 2\n"
        "node: foo # a comment\n"
        "Control-Services: {filename: /nowhere/x.sock, Permissions: 0660}\n"
        "tcp-peers:\n"
        "  - &a\n    address: a:1\n    allowedPeers: [x]\n    cost: '2'\n"
        "  - <<: *a\n    address: b:1\n"
        "local-only:\n"
    )
    assert main(["check", "--convert", str(file)]) == ExitCode.OK
    assert capsys.readouterr().out == (
        "---\n"
        "- node: foo\n"
        "- control-service:\n    filename: /nowhere/x.sock\n    permissions: 0660\n"
        "- tcp-peer:\n    address: a:1\n    allowedpeers: [x]\n    cost: '2'\n"
        "- tcp-peer:\n    address: b:1\n    allowedpeers: [x]\n    cost: '2'\n"
        "- local-only\n"
    )


def test_what_is_wrong_is_not_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "node.yml"
    file.write_text("node: foo\ntcp-peers: [a]\n")
    assert main(["check", str(file), "--convert"]) == ExitCode.CONFIGURATION
    assert capsys.readouterr() == ("", f'{file}:2: tcp-peer: address: "a" is not host:port\n')
