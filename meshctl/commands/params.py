"""The parameters of a submission: ``-a KEY=VALUE``, and the words for the command itself.

The text of ``params`` is split into words where the unit runs, as a shell splits it and by no
shell. receptorctl's users know that, and quote for it: ``-a params="--all 'my files'"``. Words that
stand on meshctl's own command line were split by the user's shell already, and are quoted here so
that each is one argument in the end.
"""

from collections.abc import Iterable, Sequence

from meshctl.render.output import Failure, print_warning

COMMAND_WORDS = "params"
"""The parameter whose text is split into the arguments of a command."""

KNOWN = (
    COMMAND_WORDS,
    "host",
    *("kube_command", "kube_image", "kube_params", "kube_namespace", "pod_pending_timeout"),
    *("secret_kube_config", "secret_kube_pod"),
)
"""The parameters that receptor's kinds of work types look at, and ours."""

SECRET_PREFIX = "secret_"  # noqa: S105
"""Begins parameters that nodes keep to themselves, whatever they are for."""


def collect_params(given: Sequence[str], cmdparams: Sequence[str]) -> dict[str, str]:
    """Combine ``-a key=value`` options and trailing words into parameters.

    Each trailing word reaches the command as one argument; they follow a ``params`` given with
    ``-a``, which is a text of several words.

    Raises:
        Failure: an option has no ``=``, its file cannot be read, or a key has two values.
    """
    params: dict[str, str] = {}
    for key, value in map(_key_and_value, given):
        if params.setdefault(key, value) != value:
            raise Failure(f"--param {key} is given twice, with different values.")
    if cmdparams:
        words = quoted(cmdparams)
        before = params.get(COMMAND_WORDS)
        params[COMMAND_WORDS] = words if before is None else _followed(before, words)
    return params


def quoted(words: Sequence[str]) -> str:
    """Return the text that is split into just these words.

    Between single quotes nothing means anything, to our splitter and to receptor's, which takes
    ``#`` for the beginning of a comment elsewhere.
    """
    import shlex  # noqa: PLC0415 - most commands need none

    return shlex.join(words)


def warn_of_unknown(names: Iterable[str]) -> None:
    """Say which parameters no work type looks at: nodes take them without a word."""
    unknown = [n for n in names if n not in KNOWN and not n.startswith(SECRET_PREFIX)]
    if not unknown:
        return
    import difflib  # noqa: PLC0415 - most submissions name what there is

    for name in unknown:
        near = difflib.get_close_matches(name.lower(), KNOWN, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        print_warning(f"--param {name}: no work type has this parameter{hint}")


def _followed(text: str, words: str) -> str:
    """Return a text of several words, and further words behind it.

    Raises:
        Failure: the text is not whole, so that what follows would be a part of its last word.
    """
    import shlex  # noqa: PLC0415 - most commands need none

    try:
        shlex.split(text)
    except ValueError as error:
        raise Failure(
            f"--param {COMMAND_WORDS}={text}: {error}, and further words are given"
        ) from error
    # To receptor a "#" begins a comment, which the end of a line ends.
    return f"{text}\n{words}" if "#" in text else f"{text} {words}"


def _key_and_value(option: str) -> tuple[str, str]:
    key, separator, value = option.partition("=")
    if not separator or not key:
        raise Failure(f"--param {option}: write KEY=VALUE")
    return key, _value(value)


def _value(value: str) -> str:
    """A value as given, ``@FILE`` as the file's text, ``@@…`` as a value that begins with ``@``."""
    if value.startswith("@@"):
        return value[1:]
    if not value.startswith("@"):
        return value
    path = value[1:]
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise Failure(f"--param @{path}: a parameter is text in UTF-8") from error
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else error
        raise Failure(f"--param @{path}: {text}") from error
