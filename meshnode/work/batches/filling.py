"""What stands for ``{index}`` and ``{line}`` in what each member of a batch is given.

Where a text is split into words later, as a shell splits it, what stands there must not change how:
a line may hold quotes. So within quotes it is quoted by the same rules, and stays a part of one
word, whatever it holds.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from meshnode.protocol.control import ARGUMENTS_KEY, CWD_KEY, ENV_KEY, OUTPUT_KEY

_PLACE = re.compile(r"\{(index|line)\}")

_KEPT: Final = frozenset({"node", "worktype", "tlsclient", "ttl", "signwork"})
"""Keys in which nothing is replaced."""

_JSON_KEYS: Final = frozenset({ARGUMENTS_KEY, ENV_KEY, OUTPUT_KEY})
"""Keys whose values are JSON, in whose strings the words stand."""

_SPLIT_KEYS: Final = frozenset({"params", "kube_params", "kube_command"})
"""Keys whose values are split into words where the unit runs."""

_OF_SHELL = re.compile(r"(?P<escaped>\\[\\'\"])|(?P<quote>['\"])|(?P<place>\{(?:index|line)\})")
"""What changes how a text is split, and what is replaced."""


def filled(fields: Mapping[str, str], words: Mapping[str, str]) -> dict[str, str]:
    """Return fields with ``{index}`` and ``{line}`` replaced in what is given and brought back."""
    return dict(_filled(fields, words))


def _filled(fields: Mapping[str, str], words: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key, value in fields.items():
        if key in _KEPT or "{" not in value:
            yield key, value
        elif key in _JSON_KEYS:
            yield key, _PLACE.sub(lambda match: json.dumps(words[match[1]])[1:-1], value)
        elif key in _SPLIT_KEYS:
            yield key, _filled_words(value, words)
        elif key == CWD_KEY or not key.startswith(("job", "submission", "placement")):
            yield key, _replaced(value, words)
        else:
            yield key, value


def _replaced(text: str, words: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda match: words[match[1]], text)


def _filled_words(text: str, words: Mapping[str, str]) -> str:
    """Return a text that is split later; outside of quotes a word may become several."""
    quote, position, pieces = "", 0, list[str]()
    while match := _OF_SHELL.search(text, position):
        piece = match[0]
        if match["place"]:
            piece = _quoted(words[piece[1:-1]], quote)
        elif match["escaped"] and quote == "'":
            # There a backslash stands for itself.
            piece = piece[0]
        elif match["quote"] and quote in {"", piece}:
            quote = "" if quote else piece
        pieces += (text[position : match.start()], piece)
        position = match.start() + len(match[0] if match["place"] else piece)
    # What is no shell's text, such as a sentence with an apostrophe, has no quotes to heed.
    return _replaced(text, words) if quote else "".join((*pieces, text[position:]))


def _quoted(text: str, quote: str) -> str:
    """Return a text so that it is itself between such quotes."""
    if quote == "'":
        return text.replace("'", "'\"'\"'")
    return text.replace("\\", "\\\\").replace('"', '\\"') if quote else text
