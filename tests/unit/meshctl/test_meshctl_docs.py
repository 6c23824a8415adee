"""docs/meshctl.md tells all there is."""

from pathlib import Path

import pytest

import meshctl
from meshctl.api import errors
from meshctl.cli import cli
from meshctl.render.output import ExitCode

PAGE = (Path(__file__).parents[3] / "docs" / "meshctl.md").read_text("utf-8")


def commands():
    for name, command in cli.commands.items():
        if name not in {"work", "auth"}:
            yield name, command
    for group in ("work", "auth"):
        for name, command in cli.commands[group].commands.items():
            yield f"{group} {name}", command


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda c: c)
def test_each_command_and_option_is_documented(name, command):
    assert f"| `{name}" in PAGE
    for parameter in command.params:
        for option in parameter.opts if parameter.param_type_name == "option" else []:
            # --unit-id is for those who expect a hyphen, --unit_id is receptorctl's.
            assert option in PAGE or option in {"-r", "--quiet", "--unit-id"}, option


def test_each_global_option_and_its_variables_are_documented():
    for parameter in cli.params:
        if parameter.name != "version":
            assert all(f"`{option}`" in PAGE for option in parameter.opts)
            assert all(f"`{name}`" in PAGE for name in parameter.envvar or [])


@pytest.mark.parametrize("code", list(ExitCode))
def test_each_exit_code_is_documented(code):
    assert f"| {code.value} | `{code.name}` | {code.meaning} |" in PAGE


@pytest.mark.parametrize("name", meshctl.__all__)
def test_each_public_name_is_documented(name):
    if name not in {"__version__", "ResultStream"}:
        assert name in PAGE


def test_each_error_is_public_and_documented():
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.ControlError):
            assert name in meshctl.__all__
            assert f"`{name}`" in PAGE


def test_each_method_of_the_client_is_documented():
    for name in vars(meshctl.ControlClient):
        if not name.startswith("_"):
            assert f"`{name}" in PAGE, name
