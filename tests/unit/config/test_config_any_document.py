"""Whatever a file or the command line has in it, the answer is a configuration or a ConfigError."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import ConfigFaults, NodeConfig, load_arguments, load_file
from meshnode.config.directives import CERT_NAMES, DIRECTIVES

NAMES = [cls.INFO.name for cls in DIRECTIVES]
PARAMETERS = sorted({p.name for cls in DIRECTIVES for p in cls.INFO.parameters})

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=5),
    st.dates(),
    st.sampled_from(
        [
            "0600",
            "2222",
            "host:1",
            "h:http",
            "h:\0",
            "~",
            "$HOME",
            "foo",
            "30s",
            "[a",
            "{a: 1}",
            "[]",
            "debug",
        ]
    ),
)
names = st.sampled_from([*NAMES, *PARAMETERS, *CERT_NAMES]) | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
items = st.one_of(
    st.sampled_from(NAMES),
    st.builds(lambda name, value: {name: value}, st.sampled_from(NAMES), values),
    st.builds(
        lambda name, parameters: {name: parameters},
        st.sampled_from(NAMES),
        st.dictionaries(st.sampled_from(PARAMETERS), values, max_size=4),
    ),
    values,
)


def answered(load: Callable[[], NodeConfig]) -> NodeConfig | ConfigFaults:
    """Return what loading gives or raises; every fault must be one printable line."""
    try:
        return load()
    except ConfigFaults as raised:
        faults = raised
    lines = str(faults).split("\n")
    assert len(lines) == len(faults.faults) >= 1
    assert all(line.isprintable() for line in lines)
    return faults


def load(data: bytes) -> NodeConfig | ConfigFaults:
    with tempfile.NamedTemporaryFile(suffix=".yml") as file:
        Path(file.name).write_bytes(data)
        answer = answered(lambda: load_file(file.name))
    if isinstance(answer, ConfigFaults):
        assert all(str(fault).startswith(file.name) for fault in answer.faults)
    return answer


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(data: bytes):
    load(data)


@given(st.text(alphabet="-:[]{}&*!|>'\"#%@`,? \n\tab01<\\", max_size=60))
def test_any_yaml_syntax_is_answered(text: str):
    load(text.encode())


@given(st.lists(items, max_size=6))
def test_any_list_of_directives_is_answered(document: list[Any]):
    load(yaml.safe_dump(document, allow_unicode=True).encode())


@given(values)
def test_any_document_is_answered(document: Any):
    load(yaml.safe_dump(document).encode())


words = st.one_of(
    st.sampled_from([f"--{name}" for name in NAMES]),
    st.builds(lambda n, v: f"{n}={v}", st.sampled_from(PARAMETERS), st.text(max_size=8)),
    st.text(max_size=8).filter(lambda word: not word.startswith("-c")),
)


@given(st.lists(words, max_size=8))
def test_any_arguments_are_answered(argv: list[str]):
    answered(lambda: load_arguments(argv))


# --- the same from a file and from arguments ---------------------------------------------------

ids = st.from_regex(r"[a-zA-Z0-9_.-]{1,12}", fullmatch=True).filter(
    lambda name: name not in {".", ".."} and not name.startswith("-")
)
plain = st.text(alphabet=st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)
paths = plain.filter(lambda path: not path.startswith("~") and "$" not in path)
costs = st.floats(min_value=0.001, max_value=1e6)
peers = st.lists(ids, min_size=1, max_size=3)


def parameters(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(required, optional=optional)


sound = st.tuples(
    parameters({"id": ids}, {"datadir": paths, "maxidleconnectiontimeout": st.just("1m")}),
    st.lists(
        parameters(
            {"port": st.integers(1, 65535)},
            {"cost": costs, "nodecost": st.dictionaries(ids, costs), "allowedpeers": peers},
        ),
        max_size=3,
        unique_by=lambda p: p["port"],
    ),
    parameters({"address": st.just("a:1")}, {"redial": st.booleans(), "allowedpeers": peers}),
    parameters({}, {"permissions": st.sampled_from(["0600", "0o640"]), "filename": paths}),
    st.lists(
        parameters(
            {"worktype": plain.filter(lambda t: t.lower() != "remote"), "command": plain},
            {"allowruntimeparams": st.booleans(), "params": st.sampled_from(["", "-c 'a b'"])},
        ),
        max_size=3,
        unique_by=lambda p: p["worktype"],
    ),
)


def as_argument(value: Any) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, width=10**6)).strip()


@given(sound)
def test_files_and_arguments_mean_the_same(drawn: Any):
    node, listeners, peer, control, works = drawn
    document = [{"node": node}, {"tcp-peer": peer}, {"control-service": control}]
    document += [{"tcp-listener": listener} for listener in listeners]
    document += [{"work-command": work} for work in works]
    argv = []
    for directive in document:
        for name, given_parameters in directive.items():
            argv.append(f"--{name}")
            for key, value in given_parameters.items():
                text = value if isinstance(value, str) else as_argument(value).removesuffix("\n...")
                argv.append(f"{key}={text}")
    from_file = load(yaml.safe_dump(document, allow_unicode=True).encode())
    assert isinstance(from_file, NodeConfig), from_file
    assert load_arguments(argv) == from_file


whole_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(whole_texts, whole_texts)
def test_a_file_that_is_json_means_the_same_with_every_character_escaped(name: str, value: str):
    work = {"worktype": "x", "command": "c" + value, "env": {"A" + name.replace("=", ""): value}}
    document = [{"node": "foo"}, {"local-only": None}, {"work-command": work}]
    escaped = load(json.dumps(document).encode())
    assert isinstance(escaped, NodeConfig), escaped
    (made,) = escaped.work_types
    assert dict(made.env) == work["env"]
    assert escaped == load(yaml.safe_dump(document, allow_unicode=True).encode())
