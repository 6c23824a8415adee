"""``work-ssh``: hosts, and what is refused of them."""

import pytest

from meshnode.config import ConfigFaults, SshHost, load_arguments, load_file
from meshnode.config.ssh_directives import OURS

HEAD = """
- node:
    id: foo
- local-only:
- work-ssh:
    worktype: far
"""


def load(tmp_path, text):
    path = tmp_path / "foo.yml"
    path.write_text(HEAD + text)
    return load_file(str(path)).ssh_types[0]


def faults(tmp_path, text):
    with pytest.raises(ConfigFaults) as caught:
        load(tmp_path, text)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_a_host_is_a_name_or_a_map_of_all_that_ssh_is_told(tmp_path):
    found = load(
        tmp_path,
        """    command: nice
    hosts:
      - anna
      - {name: bert, address: 10.0.0.7, port: 2222, user: ann, options: [ProxyJump=gate]}
      - address: carl
""",
    )
    assert found.hosts == (
        SshHost("anna"),
        SshHost("bert", "10.0.0.7", 2222, "ann", None, ("ProxyJump=gate",)),
        SshHost("carl", "carl"),
    )


def test_hosts_can_be_named_on_the_command_line():
    hosts = 'hosts=[anna, {"name": "bert", "port": 22}]'
    config = load_arguments(["--local-only", "--work-ssh", "worktype=far", "command=nice", hosts])
    assert config.ssh_types[0].hosts == (SshHost("anna"), SshHost("bert", port=22))


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        ("[]", "is an empty list"),
        ("[anna, anna]", '"anna" is named twice'),
        ("[-oProxyCommand=x]", "begins with a dash"),
        ("[{name: anna, address: -oProxyCommand=x}]", "begins with a dash"),
        ("[{name: anna, user: -x}]", "begins with a dash"),
        ("[least]", "it is a way to choose one"),
        ("[{name: anna, prot: 22}]", 'did you mean "port"?'),
        ("[{name: anna, port: 70000}]", "70000 is out of range"),
        ("[{port: 22}]", "a host has neither name nor address"),
        ("[{name: anna, options: [ProxyJump]}]", "is not an option of ssh"),
        ("[a b]", "has spaces"),
    ],
)
def test_a_host_that_cannot_be_is_refused_by_name(tmp_path, hosts, told):
    text = faults(tmp_path, f"    command: nice\n    hosts: {hosts}\n")
    assert "work-ssh: hosts: " in text
    assert told in text


@pytest.mark.parametrize("option", sorted(OURS))
@pytest.mark.parametrize("form", ["{}=yes", "{} yes", "{} = yes"])
def test_an_option_that_would_keep_the_node_from_talking_is_refused(tmp_path, option, form):
    wrong = form.format(option.upper())
    text = faults(tmp_path, f"    command: nice\n    hosts: [{{name: a, options: ['{wrong}']}}]\n")
    assert "is an option that meshnode sets itself" in text


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", "command: is missing"),
        ("    command: nice\n    script: /x\n", "script: cannot stand beside command"),
        ("    command: nice\n    env: {A-B: x}\n", "cannot name an environment variable"),
    ],
)
def test_exactly_one_of_command_and_script_is_wanted_and_names_that_a_shell_takes(
    tmp_path, given, told
):
    assert told in faults(tmp_path, f"    hosts: [anna]\n{given}")
