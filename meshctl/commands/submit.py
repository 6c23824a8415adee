"""What ``work submit`` was told: its payload and parameters, as receptorctl's users write them."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from meshctl.render.output import ExitCode, Failure
from meshctl.render.progress import on_stderr

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient, Submission

Payload = bytes | BinaryIO | None


@dataclass(frozen=True, slots=True)
class SubmissionRequest:
    """One submission, ready to be sent."""

    worktype: str
    node: str
    params: Mapping[str, str]
    payload: Payload
    ttl: str
    signwork: bool
    tls_client: str

    def send(self, client: "ControlClient", on_created: Callable[[str], object]) -> "Submission":
        """Send it. Raises as :meth:`meshctl.ControlClient.submit`."""
        # Who types a payload sees it grow, on the same terminal.
        is_typed = self.payload is not None and getattr(self.payload, "isatty", bool)()
        with on_stderr("Sending", wanted=not is_typed) as progress:
            return client.submit(
                self.worktype,
                self.payload,
                node=self.node,
                params=self.params,
                ttl=self.ttl,
                signwork=self.signwork,
                tls_client=self.tls_client,
                on_created=on_created,
                on_sent=progress.update,
            )


@contextmanager
def chosen_payload(path: str, literal: str, empty: bool) -> Iterator[Payload]:
    """Give what the one payload option says; a file is open meanwhile, before anything is asked.

    An option given as an empty string counts as not given, as for receptorctl.

    Raises:
        Failure: none or several are given, or the file cannot be opened.
    """
    given = bool(path) + bool(literal) + empty
    if given == 0:
        raise Failure("Must provide one of --payload, --no-payload or --payload-literal.")
    if given > 1:
        raise Failure(
            "Cannot provide more than one of --payload, --no-payload and --payload-literal."
        )
    if literal:
        yield os.fsencode(literal) + b"\n"
    elif empty:
        yield None
    elif path == "-":
        yield _stdin()
    else:
        with _open(path) as file:
            yield file


def _open(path: str) -> BinaryIO:
    try:
        # Unbuffered: the pieces are large, and what a pipe gives must not wait for more.
        return open(path, "rb", buffering=0)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Failure(f"Failed to load payload file: {path}: {reason}") from error


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise Failure("Failed to load payload: standard input is closed")
    # The raw file tells "nothing yet" from "the end", which the buffered one does not.
    raw: BinaryIO = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    return raw


def collect_params(given: Sequence[str], cmdparams: Sequence[str]) -> dict[str, str]:
    """Combine ``-a key=value`` options and trailing words into parameters.

    Trailing words are joined by blanks and follow a ``params`` given with ``-a``. Of a key that is
    given twice the last value counts.

    Raises:
        Failure: an option has no ``=``, or its file cannot be read.
    """
    params = {}
    for option in given:
        key, separator, value = option.partition("=")
        if not separator or not key:
            raise Failure(f"--param {option}: write KEY=VALUE", ExitCode.SUBMIT_FAILED)
        params[key] = _param_value(value)
    if cmdparams:
        first = [params["params"]] if "params" in params else []
        params["params"] = " ".join([*first, *cmdparams])
    return params


def _param_value(value: str) -> str:
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
        reason = "a parameter is text in UTF-8"
        raise Failure(f"--param @{path}: {reason}", ExitCode.SUBMIT_FAILED) from error
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else error
        raise Failure(f"--param @{path}: {text}", ExitCode.SUBMIT_FAILED) from error
