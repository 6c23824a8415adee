"""Help and reference are made from the directives, fit the terminal, and are true."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from meshnode.config import LINK_DIRECTIVES, load_arguments, load_file, load_task
from meshnode.config.directives import CERT_NAMES, all_directives
from meshnode.config.faults import Place
from meshnode.config.help import (
    FAULT_EXAMPLE,
    WIDTH,
    argument_example,
    directive_help,
    main,
    reference,
    yaml_example,
)
from meshnode.config.schema import DirectiveInfo, Origin

ROOT = Path(__file__).parents[3]
INFOS = [cls.INFO for cls in all_directives()]

each_directive = pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)


def test_the_document_is_what_the_code_says():
    written = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert written == reference(), "run: python -m meshnode.config.help docs/configuration.md"


@each_directive
def test_help_names_every_parameter_and_fits_the_terminal(info: DirectiveInfo):
    text = directive_help(info)
    lines = text.splitlines()
    assert max(map(len, lines)) <= WIDTH
    for parameter in info.parameters:
        assert any(line.startswith(f"  {parameter.name} ") for line in lines)
        joined = " ".join(text.split())
        assert parameter.meaning in joined
        assert f"({parameter.kind.label};" in joined


@each_directive
def test_examples_are_sound_and_mean_the_same_in_both_forms(info: DirectiveInfo, tmp_path: Path):
    linked = info.name in {"local-only", *CERT_NAMES}
    linked = linked or info in [cls.INFO for cls in LINK_DIRECTIVES]
    file = tmp_path / "example.yml"
    file.write_text(yaml_example(info) + ("" if linked else "\n- local-only\n"))
    words = shlex.split(argument_example(info)) + ([] if linked else ["--local-only"])
    assert load_task(words) == load_task(["-c", str(file)])


@each_directive
def test_every_default_in_words_is_the_default(info: DirectiveInfo):
    for parameter in info.parameters:
        assert parameter.required or parameter.default, f"{parameter.name} says nothing"
        assert not parameter.meaning.endswith(".")
    assert info.meaning.endswith(".")


def test_the_references_file_and_arguments_mean_the_same(tmp_path: Path):
    text = reference()
    document = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]
    arguments = re.findall(r"```text\nmeshnode (.*?)```", text, re.DOTALL)[0]
    file = tmp_path / "example.yml"
    file.write_text(document)
    words = shlex.split(arguments.replace("\\\n", " "))  # shlex keeps what a shell drops
    assert load_arguments(words) == load_file(str(file))


def test_the_references_map_is_read(tmp_path: Path):
    file = tmp_path / "example.yml"
    file.write_text(re.findall(r"```yaml\n(version.*?)```", reference(), re.DOTALL)[0])
    assert load_file(str(file)) == load_arguments(
        shlex.split(
            "--node foo --tcp-listener 2222 bindaddr=127.0.0.1 --tcp-peer bar.example.org:2222"
        )
    )


def test_the_references_faults_are_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("foo.yml").write_text(
        "- node: foo\n- log-level: info\n\n\n- tcp-listener:\n    prot: 2222\n    port: 2222\n"
        "- control-service:\n    permissions: 600\n"
    )
    with pytest.raises(Exception, match="tcp-listener") as caught:
        load_file("foo.yml")
    assert str(caught.value) == FAULT_EXAMPLE


def test_the_reference_is_written_to_a_file_or_to_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.argv", ["reference", str(tmp_path / "out.md")])
    main()
    assert (tmp_path / "out.md").read_text(encoding="utf-8") == reference()
    monkeypatch.setattr("sys.argv", ["reference"])
    main()
    assert capsys.readouterr().out == reference()


@pytest.mark.parametrize("cls", all_directives(), ids=lambda cls: cls.INFO.name)
def test_every_parameter_of_a_directive_counts_when_it_is_compared(cls):
    """The methods are those of the base, whatever other bases a directive has."""
    fields = [field for field in dataclasses.fields(cls) if field.compare]
    one = cls(**{field.name: object() for field in fields})
    assert one == dataclasses.replace(one, origin=Origin(Place("elsewhere"), {}))
    assert hash(one) == hash(dataclasses.replace(one))
    for field in fields:
        other = dataclasses.replace(one, **{field.name: object()})
        assert one != other
        assert repr(getattr(other, field.name)) in repr(other)
    assert one != object()
