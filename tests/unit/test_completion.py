"""What is offered at TAB on a command line of meshnode."""

import click
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshctl import shells
from meshnode import __main__ as program
from meshnode import cli, completion
from meshnode.config.directives import all_directives
from meshnode.config.kinds import STANDARD
from meshnode.config.schema import ParameterInfo

INFOS = [directive.INFO for directive in all_directives()]


def offered(line: str) -> list[str]:
    """Return the values that are offered for a line, and of a path its kind."""
    rows = shells.Fish().lines(line, completion.find)
    return [
        value if kind in {"plain", "part"} else f"{before}<{kind}>"
        for kind, value, before in (row.split("\t") for row in rows)
    ]


def test_commands_are_offered_first() -> None:
    assert offered("meshnode ") == list(completion.COMMANDS)
    assert set(completion.COMMANDS) == set(cli.COMMANDS)


def test_directives_are_offered_as_options_with_what_they_mean() -> None:
    options = offered("meshnode --")
    assert {f"--{info.name}" for info in INFOS} <= set(options)
    assert {"--config", "--help", "--version"} <= set(options)
    (row,) = shells.Fish().lines("meshnode --tcp-li", completion.find)
    assert row == "plain\t--tcp-listener\tAccept links from other nodes over TCP."


def test_what_may_stand_once_is_offered_once() -> None:
    assert "--node" not in offered("meshnode --node id=foo --")
    assert "--tcp-peer" in offered("meshnode --tcp-peer address=x:1 --")
    assert offered("meshnode --node id=foo --vers") == []


def test_directives_that_make_certificates_stand_beside_their_kind_alone() -> None:
    assert offered("meshnode --node id=foo --cert") == []
    assert offered("meshnode --cert-init bits=2048 --node") == []
    assert "--cert-signreq" in offered("meshnode --cert-init bits=2048 --cert")


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_the_parameters_of_each_directive_are_offered_until_they_are_given(info) -> None:
    for parameter in info.parameters:
        assert f"{parameter.name}=" in offered(f"meshnode --{info.name} ")
        again = f"{parameter.name}=" in offered(f"meshnode --{info.name} {parameter.name}=x ")
        assert again == parameter.kind.repeatable
    if not info.parameters:
        assert "--tcp-listener" in offered(f"meshnode --{info.name} ") or info.name in cli.COMMANDS


PARAMETERS = [
    pytest.param(info, parameter, id=f"{info.name} {parameter.name}")
    for info in INFOS
    for parameter in info.parameters
]


def given_as(parameter: ParameterInfo, value: str) -> object:
    return parameter.kind.read(yaml.ScalarNode(STANDARD + "str", value))


@pytest.mark.parametrize(("info", "parameter"), PARAMETERS)
def test_each_value_that_is_offered_is_one_and_each_path_is_a_path(info, parameter) -> None:
    kind = parameter.kind
    name = parameter.name
    values = offered(f"meshnode --{info.name} {name.upper()}=")
    if kind.on_disk:
        assert values == [f"{name.upper()}=<{kind.on_disk}>"]
        return
    assert values == [f"{name.upper()}={word}" for word in kind.words]
    for word in kind.words:
        given_as(parameter, word)
    if kind.label == "true or false" or kind.label.startswith("one of "):
        assert kind.words
    assert kind.label not in {"file", "directory"}


def test_a_value_without_a_name_is_offered_where_there_can_be_one() -> None:
    assert offered("meshnode --log-level ")[:2] == ["error", "warning"]
    assert "error" not in offered("meshnode --log-level debug ")
    assert offered("meshnode --log-level=inf") == ["--log-level=info"]
    assert offered("meshnode --audit-log /va") == ["<file>"]


def test_names_of_tls_directives_are_those_given_before() -> None:
    line = "meshnode --tls-server name=one --TLS-Server cert=x name=two --tls-client name=three"
    assert offered(f"{line} --tcp-listener tls=") == ["tls=one", "tls=two"]
    assert offered(f"{line} --tcp-peer tls=t") == ["tls=three"]


def test_files_are_offered_where_they_belong() -> None:
    assert offered("meshnode -c ") == ["<file>"]
    assert offered("meshnode --config=/et") == ["--config=<file>"]
    assert offered("meshnode -c foo.yml ") == []
    assert offered("meshnode check ") == ["<file>"]
    assert offered("meshnode check --may ") == []
    assert offered("meshnode check --") == ["--convert", "--may"]
    assert offered("meshnode cert sign ") == ["<file>"]
    assert offered("meshnode cert init --out-key=/tm") == ["--out-key=<file>"]


def test_commands_of_cert_are_offered_with_their_options() -> None:
    assert "mesh" in offered("meshnode cert ")
    assert "--out-cert" in offered("meshnode cert init --out")


def test_help_is_offered_the_names_of_directives() -> None:
    assert offered("meshnode help tcp-l") == ["tcp-listener"]
    assert offered("meshnode --help --tcp-l") == ["--tcp-listener"]


WORDS = [
    *("cert", "check", "help", "completion", "init", "sign", "-c", "--", "-", "", "x", "=", "a=b"),
    *("--node", "--help", "--config=x", "--tls-server", "name=", "NAME=x", "--may", "bash"),
    *(f"--{info.name}" for info in INFOS),
]


@given(before=st.lists(st.sampled_from(WORDS) | st.text(max_size=6), max_size=5), word=st.text())
def test_any_line_is_answered(before: list[str], word: str) -> None:
    for incomplete in (word, "", "-", "--", "tls="):
        try:
            found = list(completion.find(list(before), incomplete))
        except click.ClickException:
            continue  # of meshnode cert; the answer is empty then
        assert all(item.type in {"plain", "file", "dir"} for item in found)


def test_a_shell_is_answered_before_anything_else_is_done(monkeypatch, capsysbinary) -> None:
    monkeypatch.setenv("_MESHNODE_COMPLETE", "zsh_complete")
    monkeypatch.setenv("COMP_LINE", "meshnode --tcp-liste")
    monkeypatch.setattr("gc.disable", lambda: None)
    assert program.main() == 0
    assert capsysbinary.readouterr().out.startswith(b"plain\t--tcp-listener:Accept")


@pytest.mark.parametrize("shell", shells.SHELLS)
def test_the_script_of_each_shell_is_printed(shell, capsys) -> None:
    assert cli.main(["completion", shell]) == 0
    assert f"_MESHNODE_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_completion_without_a_shell_is_told_which_there_are(capsys) -> None:
    for arguments in ([], ["tcsh"], ["bash", "zsh"]):
        assert cli.main(["completion", *arguments]) == 2
        assert "takes one of bash, zsh, fish" in capsys.readouterr().err
    for arguments in (["completion", "--help"], ["help", "completion"]):
        assert cli.main(arguments) == 0
        assert 'eval "$(meshnode completion bash)"' in capsys.readouterr().out
