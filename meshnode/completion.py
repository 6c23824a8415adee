"""What can stand at the cursor of a command line of ``meshnode``, for a shell at TAB.

Directives, their parameters and the values of those are what the schema says (config/schema.py), so
a new one is completed as soon as it is declared. How shells ask is meshctl's (meshctl/shells.py).
"""

from collections.abc import Iterable, Iterator, Sequence

from click.shell_completion import CompletionItem

from meshctl import shells
from meshnode.config.directives import CERT_NAMES, all_directives
from meshnode.config.schema import DirectiveInfo, ParameterInfo
from meshnode.config.sources import CONFIG_OPTIONS

PROGRAM = "meshnode"

COMMANDS = {
    "check": "Check a file; start nothing",
    "cert": "Make and show keys and certificates",
    "help": "Show what a directive takes",
    "completion": "Print what has a shell complete arguments",
    "version": "Print the version",
}
"""The first words that are no options, and what they do."""

OPTIONS = {
    "--config": "A node's file",
    "--help": "Show directives, or one of them",
    "--version": "Print the version",
}
"""Options that are no directives."""

CHECK_OPTIONS = {
    "--convert": "Print the file as a list of directives",
    "--may": "Ask its access rules: 'WHO VERB [WHAT ...]'",
}

HELP = """\
usage: meshnode completion bash|zsh|fish

Prints what has a shell complete directives, their parameters and values, and
the options of meshnode cert, at TAB.

For yourself, a line in the file that your shell reads at its start:

  ~/.bashrc                   eval "$(meshnode completion bash)"
  ~/.zshrc, below compinit    eval "$(meshnode completion zsh)"
  ~/.config/fish/config.fish  meshnode completion fish | source

For all users, as a file that a shell reads when it is needed (Debian's package
has them):

  /usr/share/bash-completion/completions/meshnode   with bash-completion
  /usr/share/zsh/vendor-completions/_meshnode       on Debian; else in zsh's fpath
  /usr/share/fish/vendor_completions.d/meshnode.fish

The same for meshctl: meshctl completion bash|zsh|fish.
"""

Values = Iterable[CompletionItem]


def answer(instruction: str) -> int:
    """Answer a shell; return the exit code."""
    return shells.answer(instruction, PROGRAM, find)


def find(before: list[str], incomplete: str) -> Values:
    """Return what can go on a word, after the words before it."""
    if "=" in incomplete and incomplete.startswith("-"):
        option, _, incomplete = incomplete.partition("=")
        before = [*before, option]
    match before:
        case ["cert", *rest]:
            from meshnode.certs.commands import cert  # noqa: PLC0415 - no other line needs it

            return shells.of_click(cert, f"{PROGRAM} cert")(rest, incomplete)
        case ["check", *rest]:
            return _of_check(rest, incomplete)
        case ["completion", *rest]:
            return [] if rest else _beginning(dict.fromkeys(shells.SHELLS, ""), incomplete)
        case ["help", *_]:
            return _topics(incomplete)
    if not {"-h", "--help"}.isdisjoint(before):
        return _topics(incomplete)
    if incomplete.startswith("-"):
        return _options(before, incomplete)
    return _values(before, incomplete)


def _beginning(known: dict[str, str], incomplete: str) -> list[CompletionItem]:
    """Return those of the words, each with its description, that go on as the word began."""
    return [
        CompletionItem(word, help=meaning)
        for word, meaning in known.items()
        if word.startswith(incomplete)
    ]


def _topics(incomplete: str) -> Values:
    dashes = "--" if incomplete.startswith("-") else ""
    infos = [directive.INFO for directive in all_directives()]
    return _beginning({dashes + info.name: info.meaning for info in infos}, incomplete)


def _of_check(words: Sequence[str], incomplete: str) -> Values:
    if words[-1:] == ["--may"]:
        return []
    if incomplete.startswith("-"):
        return _beginning(CHECK_OPTIONS, incomplete)
    return [CompletionItem("", type="file")]


def _options(before: Sequence[str], incomplete: str) -> Values:
    """Return the directives that may follow, and what else begins with dashes."""
    given = {word.lower() for word in before}
    known = {
        f"--{info.name}": info.meaning
        for info in (directive.INFO for directive in all_directives())
        if not (info.once and f"--{info.name}" in given)
        # Directives that make certificates do not stand beside others.
        and (not before or (info.name in CERT_NAMES) == _makes_certificates(before))
    }
    return _beginning(
        known | (OPTIONS if not before else {"--config": OPTIONS["--config"]}), incomplete
    )


def _makes_certificates(before: Sequence[str]) -> bool:
    return any(word.removeprefix("--") in CERT_NAMES for word in before)


def _values(before: Sequence[str], incomplete: str) -> Values:
    """Return what may follow the last option: a file, parameters of the directive, their values."""
    at = next((i for i in reversed(range(len(before))) if before[i].startswith("-")), None)
    if at is None:
        return [] if before else _beginning(COMMANDS, incomplete)
    option, words = before[at].lower(), before[at + 1 :]
    if option in CONFIG_OPTIONS:
        return [] if words else [CompletionItem("", type="file")]
    info = next((d.INFO for d in all_directives() if f"--{d.INFO.name}" == option), None)
    if info is None:
        return []
    name, equals, _ = incomplete.partition("=")
    if equals:
        parameter = info.find(name)
        return _of_parameter(parameter, before, incomplete, name + equals) if parameter else []
    found = list(_parameters(info, words, before, incomplete))
    return found if found or incomplete else _options(before, incomplete)


def _parameters(
    info: DirectiveInfo, words: Sequence[str], before: Sequence[str], incomplete: str
) -> Iterator[CompletionItem]:
    """Yield the parameters that are not given yet, and the values of the one that needs no name."""
    given = {word.partition("=")[0].lower() for word in words if "=" in word}
    bare = info.bare
    if bare and bare.name not in given and all("=" in word for word in words):
        values = list(_of_parameter(bare, before, incomplete, ""))
        # Paths are many: they are offered for what can be the beginning of one.
        yield from values if bare.kind.words or incomplete else ()
    known = {
        f"{parameter.name}=": parameter.meaning
        for parameter in info.parameters
        if parameter.kind.repeatable or parameter.name not in given
    }
    yield from _beginning(known, incomplete)


def _of_parameter(
    parameter: ParameterInfo, before: Sequence[str], incomplete: str, ahead: str
) -> Values:
    """Return the values of a parameter; ``ahead`` is what stands before them in the word."""
    kind = parameter.kind
    if kind.on_disk:
        return [CompletionItem("", type=kind.on_disk, before=ahead)]
    words = kind.words
    if kind.refers_to:
        words = tuple(_names(kind.refers_to, before))
    return _beginning({f"{ahead}{word}": "" for word in words}, incomplete)


def _names(directive: str, before: Sequence[str]) -> Iterator[str]:
    """Yield the names that directives of a kind have on the command line so far."""
    option = ""
    for word in before:
        option = word.lower() if word.startswith("-") else option
        name, equals, value = word.partition("=")
        if option == f"--{directive}" and equals and name.lower() == "name":
            yield value
