"""What clients may give a job: the ``arguments`` of its type, variables, working directories.

A mistake in a description is found when the configuration is read, with its line, and not by the
first client whose submission it spoils.
"""

import posixpath
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml

from meshnode.arguments import (
    FALSE,
    MAX_ARGUMENTS,
    MAX_CHOICES,
    MAX_NAME,
    MAX_TEXT,
    NAME,
    NUMBERS,
    TEXTS,
    TRUE,
    Argument,
    ArgumentType,
    Pattern,
)
from meshnode.config.faults import FaultLog, quote
from meshnode.config.kinds import Kind, boolean, choice, list_of, scalar_text, text
from meshnode.config.names import Wrong, check_absolute
from meshnode.config.rules import WrongKey, records_of
from meshnode.config.schema import Directive
from meshnode.surroundings import MAX_NAMES, ROOT, AllowedDirectories, AllowedNames
from meshnode.templates import Template, TemplateWord

SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "fish", "busybox"})
"""Programs whose ``-c`` makes the next word a script."""


def line_of_help(label: str = "one line of text") -> Kind[str]:
    """A text that is shown to clients."""
    return text(label, _check_line)


def _check_line(value: str) -> str:
    if len(value) > MAX_TEXT or not value.isprintable():
        raise Wrong(f"{quote(value)} is not one printable line of at most {MAX_TEXT} characters")
    return value


# --- Arguments ------------------------------------------------------------------------------------


def argument_list() -> Kind[tuple[Argument, ...]]:
    """A list of descriptions of arguments."""
    kind = records_of(
        "argument",
        _argument,
        {"name": text("name", _check_name)},
        type=choice(tuple(ArgumentType)),
        required=boolean(),
        default=text("value"),
        min=text("number"),
        max=text("number"),
        pattern=text("regular expression of RE2", least=1),
        choices=list_of(text("choice", _check_choice, least=1), "list of texts"),
        help=line_of_help(),
    )
    return Kind(kind.label, lambda node: _all_different(kind.read(node)), repeatable=True)


def _check_name(value: str) -> str:
    if len(value) > MAX_NAME or not NAME.fullmatch(value):
        raise Wrong(
            f"{quote(value)} is no name: at most {MAX_NAME} of the characters A-Za-z0-9_- with a "
            "letter first"
        )
    return value


def _check_choice(value: str) -> str:
    return _check_line(value)


def _all_different(found: tuple[Argument, ...]) -> tuple[Argument, ...]:
    if len(found) > MAX_ARGUMENTS:
        raise Wrong(f"has {len(found)} arguments; a type of work has at most {MAX_ARGUMENTS}")
    seen: dict[str, str] = {}
    for argument in found:
        # In any case: a person does not tell Position from position.
        other = seen.setdefault(argument.name.lower(), argument.name)
        if other != argument.name:
            raise Wrong(f"has {quote(other)} and {quote(argument.name)}, which differ only in case")
    if len(seen) < len(found):
        names = [argument.name for argument in found]
        twice = next(name for name in names if names.count(name) > 1)
        raise Wrong(f"has {quote(twice)} twice")
    return found


def _argument(name: str, **given: Any) -> Argument:
    """Return the argument that a map describes. Raises WrongKey."""
    kind = ArgumentType(given.get("type", ArgumentType.STR))
    _check_keys(kind, given)
    bounds = {key: _bound(key, given[key], kind) for key in ("min", "max") if key in given}
    if bounds.get("min", 0) > bounds.get("max", bounds.get("min", 0)):
        raise WrongKey("max", f"{given['max']} is less than min, which is {given['min']}")
    argument = Argument(
        name,
        kind,
        required=given.get("required", False),
        least=bounds.get("min"),
        most=bounds.get("max"),
        pattern=_pattern(given["pattern"]) if "pattern" in given else None,
        choices=given.get("choices", ()),
        help=given.get("help", ""),
    )
    return _with_default(argument, given["default"]) if "default" in given else argument


def _check_keys(kind: ArgumentType, given: Mapping[str, Any]) -> None:
    """Refuse what a type has no use for."""
    for key in ("min", "max"):
        if key in given and kind not in NUMBERS:
            raise WrongKey(key, f"is only for int and float, and the type is {kind}")
    if "pattern" in given and kind not in TEXTS:
        raise WrongKey("pattern", f"is only for str and path, and the type is {kind}")
    if "choices" in given and kind is not ArgumentType.CHOICE:
        raise WrongKey("choices", f"are only for type: choice, and the type is {kind}")
    if kind is ArgumentType.CHOICE:
        _check_choices(given.get("choices", ()))
    if given.get("required") and "default" in given:
        raise WrongKey("default", "would never be used: the argument is required")


def _check_choices(choices: tuple[str, ...]) -> None:
    if not choices:
        raise WrongKey("type", "choice needs choices, a list of the values")
    if len(choices) > MAX_CHOICES:
        raise WrongKey("choices", f"are {len(choices)}; there are at most {MAX_CHOICES}")
    for value in choices:
        if choices.count(value) > 1:
            raise WrongKey("choices", f"{quote(value)} is there twice")


def _bound(key: str, value: str, kind: ArgumentType) -> float:
    try:
        Argument(key, kind).value(value)
    except ValueError as error:
        raise WrongKey(key, str(error)) from None
    return int(value) if kind is ArgumentType.INT else float(value)


def _pattern(value: str) -> Pattern:
    try:
        return Pattern.parse(value)
    except ValueError as error:
        raise WrongKey("pattern", f"{quote(value)} {error}") from None


def _with_default(argument: Argument, value: str) -> Argument:
    try:
        default = argument.value(value)
    except ValueError as error:
        raise WrongKey("default", str(error)) from None
    return Argument(
        argument.name,
        argument.type,
        default=default,
        least=argument.least,
        most=argument.most,
        pattern=argument.pattern,
        choices=argument.choices,
        help=argument.help,
    )


def check_templates(typed: Iterable[Directive], faults: FaultLog) -> None:
    """Note each type of work whose words and arguments do not go together."""
    for one in typed:
        described: tuple[Argument, ...] = getattr(one, "arguments", ())
        if not described:
            continue
        command, words = getattr(one, "command", ""), getattr(one, "params", ())
        try:
            template = Template.parse(words, described)
            _check_scripts(command, template)
        except ValueError as error:
            place = one.place_of("params")
            faults.add(place, one.INFO.name, "params", text=str(error))


def _check_scripts(command: str, template: Template) -> None:
    """Refuse a client's own text in what a shell runs as a script: it would run it.

    Numbers, truth and choices cannot be more than they are.
    """
    is_shell, is_script = _is_shell(command), False
    for word in template.words:
        first = word.parts[0]
        text = first if isinstance(first, str) and len(word.parts) == 1 else ""
        if is_script:
            _check_script(word)
        is_script = is_shell and text.startswith("-") and not text.startswith("--") and "c" in text
        # What is neither an option nor a shell ends the shell's own options.
        is_shell = _is_shell(text) or (
            is_shell and not is_script and text.startswith("-") and text != "--"
        )


def _check_script(word: TemplateWord) -> None:
    for reference in word.references:
        name = reference.argument.name
        if reference.argument.type in TEXTS:
            raise ValueError(
                f"has {{{name}}} in a script of a shell, which would run it as code: write "
                f'"$1" there, and {{{name}}} as a word of its own, behind one for $0: '
                f"-c 'echo \"$1\"' sh {{{name}}}"
            )


def _is_shell(word: str) -> bool:
    return posixpath.basename(word) in SHELLS


# --- Variables and working directories ------------------------------------------------------------


def variable_names() -> Kind[AllowedNames]:
    """A list of names of variables, and of beginnings of names with a ``*`` behind."""
    label = "list of names; NAME_* is all that begin so"
    inner = list_of(text("name"), label)

    def read(node: yaml.Node) -> AllowedNames:
        texts = inner.read(node)
        if len(texts) > MAX_NAMES:
            raise Wrong(f"has {len(texts)} names; there are at most {MAX_NAMES}")
        try:
            return AllowedNames.parse(texts)
        except ValueError as error:
            raise Wrong(str(error)) from None

    return Kind(label, read, lambda value: ", ".join(value.texts), repeatable=True)


def directories() -> Kind[AllowedDirectories]:
    """True for any directory, false for none, or a list of absolute ones."""
    label = "true, false, or a list of directories"
    inner = list_of(text("absolute path", check_absolute, least=1), label)

    def read(node: yaml.Node) -> AllowedDirectories:
        if isinstance(node, yaml.ScalarNode) and not node.value.startswith(("/", "~", "$", "[")):
            word = scalar_text(node, label).lower()
            if word not in TRUE | FALSE:
                raise Wrong(f"{quote(node.value)} is not {label}")
            return AllowedDirectories((ROOT,) if word in TRUE else ())
        return AllowedDirectories(tuple(posixpath.normpath(path) for path in inner.read(node)))

    return Kind(label, read, lambda value: ", ".join(value.roots), repeatable=True)
