"""Mistakes in the descriptions of arguments are told with their line."""

from pathlib import Path

import pytest

from meshnode.arguments import Argument, ArgumentType, Pattern
from meshnode.config import ConfigFaults, load_arguments, load_file
from meshnode.surroundings import AllowedDirectories

HEAD = "- node: foo\n- local-only\n- work-command:\n    worktype: t\n    command: c\n"


def load(tmp_path: Path, text: str, head: str = HEAD):
    path = tmp_path / "node.yml"
    path.write_text(head + text)
    return load_file(str(path)).work_types[0]


def faults(tmp_path: Path, text: str, head: str = HEAD) -> str:
    with pytest.raises(ConfigFaults) as error:
        load(tmp_path, text, head)
    return str(error.value).replace(str(tmp_path / "node.yml"), "node.yml")


def test_arguments_are_read_as_people_write_them(tmp_path):
    kind = load(
        tmp_path,
        """\
    params: "{position} {x} {name} {speed} {all:--all} {file}"
    arguments:
      - name: position
        Type: INT
        required: yes
        min: 1
        max: "1000"
        help: Which number.
      - {name: x, type: float, min: -0.5, default: 1}
      - {name: name, pattern: "[a-z]+", default: bob}
      - {name: speed, type: choice, choices: [fast, slow], default: slow}
      - {name: all, type: bool, default: no}
      - {name: file, type: path}
""",
    )
    assert kind.arguments == (
        Argument(
            *("position", ArgumentType.INT),
            required=True,
            least=1,
            most=1000,
            help="Which number.",
        ),
        Argument("x", ArgumentType.FLOAT, least=-0.5, default="1"),
        Argument("name", pattern=Pattern("[a-z]+"), default="bob"),
        Argument("speed", ArgumentType.CHOICE, choices=("fast", "slow"), default="slow"),
        Argument("all", ArgumentType.BOOL, default="false"),
        Argument("file", ArgumentType.PATH),
    )


def test_arguments_are_read_from_the_command_line():
    words = ["--node", "foo", "--local-only", "--work-command", "worktype=t", "command=c"]
    one = 'arguments={"name": "a", "type": "int"}'
    two = 'arguments={"name": "b"}'
    config = load_arguments([*words, "params={a} {b}", one, two])
    assert [argument.name for argument in config.work_types[0].arguments] == ["a", "b"]


WRONG = {
    "{name: a, type: text}": 'argument 1: type: "text" is not one of int, float,',
    "{name: a, typ: int}": 'argument 1: "typ" is unknown; did you mean "type"?',
    "{type: int}": "argument 1: name is missing",
    "{name: 1a}": 'argument 1: name: "1a" is no name',
    "{name: a, min: 1}": "argument 1: min: is only for int and float, and the type is str",
    "{name: a, type: int, min: 1.5}": 'argument 1: min: "1.5" is not a whole number',
    "{name: a, type: int, min: 2, max: 1}": "argument 1: max: 1 is less than min, which is 2",
    "{name: a, type: int, max: 1, default: 2}": "argument 1: default: 2 is more than 1",
    "{name: a, type: int, default: x}": 'argument 1: default: "x" is not a whole number',
    "{name: a, required: true, default: x}": "argument 1: default: would never be used",
    "{name: a, pattern: '('}": 'argument 1: pattern: "(" is not a regular expression of RE2',
    "{name: a, pattern: '(?=x)'}": "is not a regular expression of RE2",
    "{name: a, type: int, pattern: x}": "argument 1: pattern: is only for str and path",
    "{name: a, pattern: '[a-z]', default: B}": 'argument 1: default: "B" does not match [a-z]',
    "{name: a, choices: [x]}": "argument 1: choices: are only for type: choice",
    "{name: a, type: choice}": "argument 1: type: choice needs choices",
    "{name: a, type: choice, choices: []}": "argument 1: choices: is an empty list",
    "{name: a, type: choice, choices: [x, x]}": 'argument 1: choices: "x" is there twice',
    "{name: a, type: choice, choices: [x], default: y}": 'default: "y" is not one of x',
    '{name: a, help: "two\\nlines"}': "argument 1: help: ",
}


@pytest.mark.parametrize(("argument", "text"), WRONG.items())
def test_a_wrong_description_is_refused_with_its_line_and_key(tmp_path, argument, text):
    found = faults(tmp_path, f'    params: "{{a}}"\n    arguments:\n      - {argument}\n')
    assert found.startswith("node.yml:8: work-command: arguments: ")
    assert text in found


def test_the_line_is_that_of_the_wrong_key(tmp_path):
    lines = (
        "    params: '{a}'\n    arguments:\n      - name: a\n        type: int\n        max: x\n"
    )
    assert faults(tmp_path, lines).startswith("node.yml:10: work-command: arguments: argument 1: ")


@pytest.mark.parametrize(
    ("names", "text"),
    [(("a", "b", "a"), 'has "a" twice'), (("Pos", "pos"), 'has "Pos" and "pos", which differ')],
)
def test_no_two_arguments_have_one_name(tmp_path, names, text):
    described = "".join(f"      - name: {name}\n" for name in names)
    found = faults(tmp_path, f"    params: '{{a}}'\n    arguments:\n{described}")
    assert text in found


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ("{a} {b}", '{b}: there is no argument "b"'),
        ("none", "has no {a}, so the argument would have no effect"),
        ("-n {a}", "has -n, which would stay without a value where a has none"),
    ],
)
def test_words_and_arguments_go_together(tmp_path, params, text):
    found = faults(tmp_path, f"    params: '{params}'\n    arguments:\n      - name: a\n")
    assert found.startswith("node.yml:6: work-command: params: ")
    assert text in found


def test_words_that_begin_with_a_brace_are_no_map(tmp_path):
    text = "    params: {a}\n    arguments:\n      - name: a\n"
    assert "params: is a map; text that begins with { must be in quotes" in faults(tmp_path, text)


def test_braces_are_nothing_special_where_there_are_no_arguments(tmp_path):
    kind = load(tmp_path, "    params: '-c \"echo ${HOME} {a} }{\"'\n")
    assert kind.params == ("-c", "echo ${HOME} {a} }{")


SCRIPTS = [
    ("bash", "-c 'echo {a}'"),
    ("/bin/sh", "-euc 'echo {a}' x"),
    ("env", "X=1 dash -c 'echo {a}'"),
    ("busybox", "sh -c 'echo {a}'"),
    ("bash", "-x -c '{a}'"),
]


@pytest.mark.parametrize(("command", "params"), SCRIPTS)
@pytest.mark.parametrize("kind", ["str", "path"])
def test_a_clients_text_is_no_part_of_a_script(tmp_path, command, params, kind):
    head = HEAD.replace("command: c", f"command: {command}")
    text = f'    params: "{params}"\n    arguments: {{name: a, type: {kind}, required: true}}\n'
    assert "in a script of a shell, which would run it as code" in faults(tmp_path, text, head)


@pytest.mark.parametrize(
    ("command", "params", "kind"),
    [
        *((command, params, "int") for command, params in SCRIPTS),
        ("bash", "-c 'echo $1' bash {a}", "str"),
        ("bash", "script.sh -c {a}", "str"),
        ("sh", "-- -c {a}", "str"),
        ("grep", "-c {a}", "str"),
    ],
)
def test_what_no_shell_runs_as_code_is_taken(tmp_path, command, params, kind):
    head = HEAD.replace("command: c", f"command: {command}")
    text = f'    params: "{params}"\n    arguments: {{name: a, type: {kind}, required: true}}\n'
    assert load(tmp_path, text, head).arguments


# --- Surroundings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "roots"),
    [
        ("true", ("/",)),
        ("no", ()),
        ("/srv/jobs/", ("/srv/jobs",)),
        ("[/srv/jobs, /data]", ("/srv/jobs", "/data")),
    ],
)
def test_directories_are_all_none_or_some(tmp_path, text, roots):
    kind = load(tmp_path, f"    allowruntimecwd: {text}\n")
    assert kind.allowruntimecwd == AllowedDirectories(roots)


@pytest.mark.parametrize("text", ["jobs", "[jobs]", "maybe", "{a: b}", "[]"])
def test_what_names_no_directory_is_refused(tmp_path, text):
    found = faults(tmp_path, f"    allowruntimecwd: {text}\n")
    assert found.startswith("node.yml:6: work-command: allowruntimecwd: ")


def test_variables_are_named(tmp_path):
    kind = load(tmp_path, "    allowruntimeenv: [LANG, 'JOB_*']\n")
    assert kind.allowruntimeenv.texts == ("LANG", "JOB_*")
    assert load(tmp_path, "").allowruntimeenv.texts == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [("['LD_*']", "is too wide"), ("[MESHNODE_UNIT_ID]", "cannot be given"), ("[A=b]", "neither")],
)
def test_variables_that_clients_cannot_be_given_so_are_refused(tmp_path, text, why):
    found = faults(tmp_path, f"    allowruntimeenv: {text}\n")
    assert found.startswith("node.yml:6: work-command: allowruntimeenv: ")
    assert why in found
