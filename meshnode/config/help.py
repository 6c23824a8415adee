"""``--help``, made from the directives' own declarations; plain text of at most 80 columns."""

import shlex
import textwrap
from collections.abc import Iterable

import yaml

from meshnode.config.directives import DIRECTIVES
from meshnode.config.later import LATER_DIRECTIVES
from meshnode.config.schema import DirectiveInfo, ParameterInfo

WIDTH = 80
"""The narrowest terminal in common use."""

INDENT = "  "


def directive_list() -> str:
    """Return every directive with its meaning, section by section."""
    infos = [cls.INFO for cls in DIRECTIVES]
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
    lines += ["Not supported yet:", "", wrapped(", ".join(sorted(LATER_DIRECTIVES)), INDENT)]
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
    if info.once:
        notes.append("Given at most once.")
    if info.overridable:
        notes.append("The command line's replaces the file's.")
    for names in info.unique:
        notes.append(f"No two may have the same {' and '.join(names)}.")
    notes += _reload_notes(info)
    if info.later:
        notes.append(f"Not supported yet: {', '.join(info.later)}.")
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
