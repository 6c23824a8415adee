"""What is no mistake and may not do what was meant is warned of, and stops nothing."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import load_arguments, load_file
from meshnode.config.directives import IGNORED_DIRECTIVES

PLAIN = re.compile(r"[A-Za-z0-9.@:_-]+")

LINK = ["--tcp-peer", "a:1"]

printable = st.characters(exclude_categories=["C", "Z"], exclude_characters="/,")
ids = st.text(printable, min_size=1, max_size=20).filter(
    lambda name: name not in {".", ".."} and name.lower() != "localhost"
)


def as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def warnings_of(*arguments: str) -> list[str]:
    return [str(fault) for fault in load_arguments(arguments).warnings]


@given(ids)
def test_a_node_id_that_receptor_does_not_take_is_warned_of(name: str):
    server = ("--tcp-server", "port=1", "remoteservice=x")
    for warnings in (
        warnings_of("--node", f"id={name}", "--local-only"),
        warnings_of("--node", "id=a", *LINK, f"allowedpeers={as_json([name])}"),
        warnings_of("--node", "id=a", "--tcp-listener", "1", f"nodecost={as_json({name: 1})}"),
        warnings_of("--node", "id=a", *LINK, *server, f"remotenode={name}"),
    ):
        assert bool(warnings) is not bool(PLAIN.fullmatch(name))
        for warning in warnings:
            assert " is no node ID for receptor, which takes A-Z a-z 0-9 . - _ @ :" in warning


@pytest.mark.parametrize("directive", IGNORED_DIRECTIVES)
@pytest.mark.parametrize("value", ["", ": x", ":\n    a: b\n    c: [d]"])
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_what_has_no_effect_is_warned_of_whatever_it_holds(
    directive: str, value: str, case, tmp_path: Path
):
    file = tmp_path / "node.yml"
    file.write_text(f"- node: foo\n- {case(directive)}{value}\n- local-only\n")
    (warning,) = load_file(str(file)).warnings
    assert str(warning).startswith(f"{file}:2: {directive}: has no effect here; ")


def test_local_only_beside_links_is_warned_of_and_the_links_count(tmp_path: Path):
    file = tmp_path / "node.yml"
    file.write_text("- node: foo\n- local-only\n- tcp-listener: 1\n- tcp-peer: a:1\n")
    config = load_file(str(file))
    assert (len(config.listeners), len(config.peers), config.local_only) == (1, 1, False)
    assert [str(warning) for warning in config.warnings] == [
        f"{file}:2: local-only: has no effect beside the tcp-listener on line 3"
    ]


def test_local_only_that_is_false_is_not_warned_of():
    assert warnings_of("--node", "a", *LINK, "--local-only", "local=false") == []


@pytest.mark.parametrize(("limits", "warned"), [("", True), ("    limits: {pids: 5}\n", False)])
def test_optional_limits_that_are_none_are_warned_of(tmp_path: Path, limits: str, warned: bool):
    file = tmp_path / "foo.yml"
    file.write_text(
        "- node:\n    id: foo\n- local-only:\n- work-command:\n    worktype: job\n    command: sh\n"
        f"    limits-optional: true\n{limits}"
    )
    expected = f"{file}:7: work-command: limits-optional: has no effect without limits"
    assert [str(fault) for fault in load_file(str(file)).warnings] == [expected] * warned
