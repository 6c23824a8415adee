"""``--help`` and docs/configuration.md, made from the declarations of the directives."""

import shlex
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import yaml

from meshnode.config.directives import (
    CERT_NAMES,
    IGNORED_DIRECTIVES,
    all_directives,
)
from meshnode.config.schema import DirectiveInfo, ParameterInfo

WIDTH = 80
"""Columns of help: the narrowest terminal in common use."""

INDENT = "  "


def directive_list() -> str:
    """Return every directive with its meaning, section by section."""
    infos = [cls.INFO for cls in all_directives()]
    column = max(len(info.name) for info in infos) + 2
    lines: list[str] = []
    for section in dict.fromkeys(info.section for info in infos):
        lines += [f"{section}:", ""]
        lines += [
            wrapped(info.meaning, INDENT + info.name.ljust(column))
            for info in infos
            if info.section == section
        ]
        lines.append("")
    lines += ["Without effect here:", "", wrapped(", ".join(sorted(IGNORED_DIRECTIVES)), INDENT)]
    return "\n".join(lines)


def directive_help(info: DirectiveInfo) -> str:
    """Return all that is to know about one directive: parameters, types, defaults, examples."""
    parts = [wrapped(info.meaning, f"{info.name}: ", INDENT)]
    if info.parameters:
        column = max(len(p.name) for p in info.parameters) + 2
        parts.append("Parameters:")
        parts.append("\n".join(_parameter_help(p, column) for p in info.parameters))
    else:
        parts.append("It takes no parameters.")
    notes = directive_notes(info)
    if notes:
        parts.append("\n".join(wrapped(note) for note in notes))
    parts.append("In a file:\n\n" + textwrap.indent(yaml_example(info), INDENT * 2))
    parts.append("On the command line:\n\n" + INDENT * 2 + argument_example(info))
    return "\n\n".join(parts)


def directive_notes(info: DirectiveInfo) -> list[str]:
    """Return the rules that concern the directive as a whole, one sentence each."""
    notes = []
    if info.bare:
        value = dict(info.example)[info.bare.name]
        notes.append(
            f'A bare value is the {info.bare.name}: "- {info.name}: {value}", '
            f'"--{info.name} {value}".'
        )
    if info.name in CERT_NAMES:
        notes.append(
            "It is done once, and the program ends: no node is started. It stands only beside "
            "others of its kind; requests are made before they are signed."
        )
    if info.once:
        notes.append("Given at most once.")
    if info.overridable:
        notes.append("What the command line gives goes before what the file does.")
    for names in info.claims.values():
        notes.append(f"No two may have the same {' and '.join(names)}.")
    notes += _reload_notes(info)
    if info.ignored:
        notes.append(f"Without effect here, and warned of: {', '.join(info.ignored)}.")
    return notes


def _reload_notes(info: DirectiveInfo) -> list[str]:
    if info.reloadable:
        return ["A change is taken over by a reload, without a restart."]
    parameters = [p.name for p in info.parameters if p.reloadable]
    if parameters:
        return [f"Of this, a reload takes over {', '.join(parameters)}, without a restart."]
    return []


def yaml_example(info: DirectiveInfo) -> str:
    """Return the directive's example as an item of a file."""
    if not info.example:
        return f"- {info.name}"
    lines = [f"- {info.name}:"]
    lines += [f"    {name}: {_yaml_scalar(value)}" for name, value in info.example]
    return "\n".join(lines)


def argument_example(info: DirectiveInfo) -> str:
    """Return the directive's example as arguments, quoted for a shell."""
    words = [f"{name}={shlex.quote(value)}" for name, value in info.example]
    return " ".join([f"--{info.name}", *words])


def requirement(parameter: ParameterInfo) -> str:
    """Return ``required``, or what the default is."""
    if parameter.required:
        return "required"
    return f"default: {parameter.default}" if parameter.default else "optional"


def wrapped(text: str, first: str = "", following: str | None = None) -> str:
    """Fill ``text`` to the width, behind ``first`` and below it."""
    rest = " " * len(first) if following is None else following
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _parameter_help(parameter: ParameterInfo, column: int) -> str:
    meaning = wrapped(parameter.meaning, INDENT + parameter.name.ljust(column))
    kind = f"({parameter.kind.label}; {requirement(parameter)})"
    return f"{meaning}\n{wrapped(kind, INDENT + ' ' * column)}"


def _yaml_scalar(value: str) -> str:
    """Write a value as people would: plain where that is safe, else in quotes."""
    dumped: Iterable[str] = yaml.safe_dump(value, default_style="'").splitlines()
    plain = value.replace(".", "").replace("/", "").replace("-", "").replace(":", "").isalnum()
    return value if plain and not value.startswith("-") else next(iter(dumped))


# --- docs/configuration.md, written by ``python -m meshnode.config.help FILE``
#
# A test fails when the document is not what this writes.

INTRODUCTION = """\
# Configuration

<!-- Generated by `python -m meshnode.config.help docs/configuration.md`. Do not edit. -->

A node is described by one YAML file: a list of directives, each with its parameters. `meshnode
--config foo.yml` (or `-c`) starts it, `meshnode check foo.yml` only checks it.

```yaml
{file_example}
```

* Names of directives and parameters may be written in any case: `workType` is `worktype`.
* Where a directive has one parameter that says it all, its name may be left out:
  `- tcp-listener: 2222`. Each table below marks it.
* The same directives can be given as arguments, as `--directive parameter=value …`:

```text
meshnode {argument_example}
```

* Arguments and files can be mixed; all directives count, those of files first. What `--log-level`
  gives on the command line goes before the file's. A parameter that takes a list is repeated
  (`allowedpeers=bar allowedpeers=baz`) or given as JSON (`allowedpeers='["bar", "baz"]'`), one that
  takes a map is given as JSON (`nodecost='{{"bar": 1.5}}'`).
* A node needs a listener or a peer, or says `- local-only`.
* receptor's other form of a file, "version 2", is read as well: a map of the names of directives
  or their plurals, each with a map or a list of maps. `meshnode check --convert foo.yml` prints it
  as a list, without its comments. The same checks hold for both; [files written for
  receptor](receptors-files.md) says what becomes of them.

```yaml
{map_example}
```

* Anchors, aliases and merge keys (`<<: *anchor`) may be used. If a file has several documents, the
  directives of all of them count.
* Numbers and true/false may be in quotes. Relative paths are relative to where the node is started;
  `~`, `~user`, `$NAME` and `${{NAME}}` in paths are replaced as a shell does, by the environment of
  the node.

Each mistake is one line on stderr that names file, line, directive, parameter and remedy; all of
them are shown at once, nothing is started, and the exit code is 2:

```text
{fault_example}
```
"""

MAP_EXAMPLE = """\
version: 2
node:
  id: foo
tcp-listeners:
  - port: 2222
    bindaddr: 127.0.0.1
tcp-peers:
  - address: bar.example.org:2222"""

SHOWN_FIRST = frozenset({"node", "log-level", "tcp-listener", "control-service", "work-command"})
"""Directives of the example at the top: those that the first node of most readers has."""

FAULT_EXAMPLE = """\
foo.yml:6: tcp-listener: prot: unknown parameter; did you mean "port"?
foo.yml:9: control-service: permissions: 600 would be a decimal number; write 0600"""

LATER = """\
## Without effect here

These directives of receptor are accepted, and warned of by `meshnode check` and in the log:
{ignored}.
"""


def reference() -> str:
    """Return the whole document."""
    infos = [cls.INFO for cls in all_directives()]
    shown = [info for info in infos if info.name in SHOWN_FIRST]
    introduction = INTRODUCTION.format(
        file_example="\n".join(yaml_example(info) for info in shown),
        argument_example=" \\\n  ".join(argument_example(info) for info in shown),
        map_example=MAP_EXAMPLE,
        fault_example=FAULT_EXAMPLE,
    )
    parts = [introduction]
    for section in dict.fromkeys(info.section for info in infos):
        parts.append(f"## {section}\n")
        parts += [_directive(info) for info in infos if info.section == section]
    ignored = ", ".join(f"`{name}`" for name in sorted(IGNORED_DIRECTIVES))
    parts.append(LATER.format(ignored=ignored))
    return "\n".join(parts)


def _directive(info: DirectiveInfo) -> str:
    lines = [f"### {info.name}", "", info.meaning, ""]
    if info.parameters:
        lines += ["| parameter | value | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [_row(parameter) for parameter in info.parameters]
    else:
        lines.append("It takes no parameters.")
    lines += ["", "```yaml", yaml_example(info), "```", ""]
    lines += [f"* {note}" for note in directive_notes(info)]
    return "\n".join([*lines, ""])


def _row(parameter: ParameterInfo) -> str:
    name = f"`{parameter.name}`" + (" (bare value)" if parameter.bare else "")
    default = requirement(parameter).removeprefix("default: ")
    if parameter.required:
        default = "**required**"
    return f"| {name} | {parameter.kind.label} | {default} | {parameter.meaning} |"


def main() -> None:
    """Write the document to the file that is named, or to stdout."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
    else:
        sys.stdout.write(reference())


if __name__ == "__main__":
    main()
