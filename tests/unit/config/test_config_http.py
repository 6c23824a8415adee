"""The directive of the HTTP service: what nobody could use, what is open, what is missing."""

import ast
import sys
from pathlib import Path

import pytest

from meshnode import web
from meshnode.config import ConfigFaults, check, check_environment, load_arguments
from meshnode.config.check import exposures, open_https
from meshnode.config.directives import NodeConfig

SRV = ["--tls-server", "name=srv", "cert=a", "key=b"]


def load(*words: str) -> NodeConfig:
    return load_arguments(["--local-only", "--node", "id=foo", *words])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--http-service", "page=false"], "nobody could reach it; give a port or a filename"),
        (["--http-service", "8043", "requireclientcert=true"], "needs tls"),
        (
            [*SRV, "--http-service", "8043", "tls=srv", "requireclientcert=true"],
            'needs clientcas in the tls-server "srv"',
        ),
        (["--http-service", "filename=/tmp/x", "requireclientcert=true"], "without a port"),
        (["--http-service", "8043", "tls=none"], 'no tls-server "none"'),
        (["--http-service", "8043", "cors=ops.example"], "is no origin"),
        (["--http-service", "8043", "cors=https://ops.example/path"], "is no origin"),
        (["--http-service", "8043", "--http-service", "8043"], "already used by the http-service"),
        (
            ["--control-service", "tcplisten=127.0.0.1:8043", "--http-service", "8043"],
            "already used",
        ),
        (
            ["--control-service", "filename=/tmp/x", "--http-service", "filename=/tmp/x"],
            "already used",
        ),
    ],
)
def test_what_nobody_could_use_is_refused_in_one_line(words: list[str], told: str) -> None:
    with pytest.raises(ConfigFaults) as caught:
        load(*words)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        [*SRV, "clientcas=c", "--http-service", "8043", "tls=srv", "requireclientcert=true"],
        ["--http-service", "8043", "--http-service", "filename=/tmp/x"],
        ["--http-service", "port=0", "cors=https://ops.example:8443"],
    ],
)
def test_what_can_be_used_is_taken(words: list[str]) -> None:
    assert load(*words).http_services


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["8043", "allowanonymous=true"], "nobody is asked who they are"),
        (["8043", "bindaddr=10.0.0.1"], "without TLS: tokens and all that passes can be read"),
        (["8043", "bindaddr="], "without TLS: tokens"),
    ],
)
def test_what_is_open_is_warned_of_by_checks_and_starts(words: list[str], told: str) -> None:
    [warning] = open_https(load("--http-service", *words))
    assert told in str(warning)


@pytest.mark.parametrize(
    "words", [["8043"], ["filename=/tmp/x"], ["8043", "allowanonymous=false", "bindaddr=127.0.0.2"]]
)
def test_what_only_this_machine_reaches_is_no_warning_of_a_start(words: list[str]) -> None:
    assert open_https(load("--http-service", *words)) == []


def test_a_check_warns_that_every_user_of_the_machine_may_do_everything() -> None:
    rule = ["--access-rule", "action=allow", "who=uid=0", "do=submit"]
    [warning] = exposures(load("--http-service", "8043"))
    assert "every user of this machine may do everything at port 8043" in str(warning)
    assert exposures(load("--http-service", "8043", "allowanonymous=false")) == []
    assert exposures(load("--http-service", "8043", *rule)) == []


def test_packages_that_are_missing_are_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load("--http-service", "8043")
    check.check_packages(config)
    monkeypatch.setattr(check, "WEB_PACKAGES", ("starlette", "no_such_package"))
    for look in (check.check_packages, check_environment):
        with pytest.raises(ConfigFaults) as caught:
            look(config)
        told = str(caught.value)
        assert "no_such_package: pip install 'meshnode[web]'" in told
        assert "starlette" not in told
    check.check_packages(load())


def test_a_check_looks_for_all_packages_that_the_service_imports() -> None:
    """Those that come with another one are looked for with it."""
    # hypercorn needs them, and h2 hyperframe; meshnode itself needs trio.
    come_along = {"h11", "h2", "hyperframe", "trio"}
    imported: set[str] = set()
    for path in Path(web.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names.append(node.module)
            imported |= {name.partition(".")[0] for name in names}
    ours = sys.stdlib_module_names | come_along | {"meshnode", "meshctl"}
    assert imported - ours == set(check.WEB_PACKAGES)
