"""Which unit is meant: one may be named by its ID, by the beginning of that, or as ``last``."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from meshctl.api.listing import Query, pages
from meshctl.api.settings import UnixAddress, parse_address
from meshctl.api.status import newest_first
from meshctl.commands.options import Invocation
from meshctl.render.output import ExitCode, Failure

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient

LAST = "last"
"""The unit that was submitted last. No node gives a unit an ID so short."""

ID_LENGTH = 8
"""Characters of a whole ID, of receptor's units as well as of meshnode's."""

MOST_NAMED = 8
"""Candidates that are named where several units are meant; a line has not room for thousands."""

NEWEST = 100
"""Units that are looked at together for the last one of who asks: mostly it is among the first."""

Units = Mapping[str, Mapping[str, Any]]


def find_unit(invocation: Invocation, client: "ControlClient", word: str) -> str:
    """Return the ID of the unit that a word means. Raises as :func:`find_units`."""
    (unit_id,) = find_units(invocation, client, [word])
    return unit_id


def find_units(
    invocation: Invocation,
    client: "ControlClient",
    words: Sequence[str],
    *,
    takes_batches: bool = False,
) -> Sequence[str]:
    """Return the IDs of the units that words mean, in their order.

    The node is asked for its units only where a word is not a whole ID. A word that means none is
    returned as it is, so that the node says so in its own words.

    Raises:
        Failure: a word means several units, or a batch where none is meant, or there is no last
            unit.
        ControlError: the node does not tell which units it has.
    """
    if not takes_batches:
        for word in words:
            _refuse_batch(invocation, word)
    if all(map(_is_whole, words)):
        return words
    is_plain = all(word == LAST or _is_whole(word) for word in words)
    units = {} if is_plain else client.work_list()
    return [_last(invocation, client) if word == LAST else _find(units, word) for word in words]


def _refuse_batch(invocation: Invocation, word: str) -> None:
    if _is_batch(word):
        shown = invocation.shell_command("work", "batch", "status", word)
        raise Failure(f"{word} is a batch, and no unit. See: {shown}")


def _is_batch(word: str) -> bool:
    from meshctl.api.batch import is_batch  # noqa: PLC0415 - help and completion need none of it

    return is_batch(word)


def _is_whole(word: str) -> bool:
    return (len(word) == ID_LENGTH and word.isalnum()) or _is_batch(word)


def _find(units: Units, word: str) -> str:
    if word in units or _is_whole(word):
        return word
    # An empty word begins every ID, and comes from a script whose variable is not set.
    candidates = [unit_id for unit_id in units if word and unit_id.startswith(word)]
    if len(candidates) > 1:
        raise Failure(f"{word!r} may be any of {len(candidates)} units: {_named(candidates)}")
    return candidates[0] if candidates else word


def _named(candidates: Sequence[str]) -> str:
    shown = [*sorted(candidates)[:MOST_NAMED], *(["…"] if len(candidates) > MOST_NAMED else [])]
    return ", ".join(shown)


def _last(invocation: Invocation, client: "ControlClient") -> str:
    """Return the unit that was submitted last, where more is known: by who asks.

    Other users of the node submit units, too, and ``release last`` must not be about theirs.
    """
    has_mine = False
    for page in pages(client, Query(limit=NEWEST)):
        mine = {one: told for one, told in page.units.items() if _may_be_mine(invocation, told)}
        for unit_id in newest_first(mine):
            return unit_id
        has_mine = has_mine or bool(mine)
    if has_mine:
        raise Failure("the node does not say when units were made: give an ID", ExitCode.REFUSED)
    whose = "" if invocation.node else " of yours"
    raise Failure(f"there is no last unit: the node has none{whose}", ExitCode.REFUSED)


def _may_be_mine(invocation: Invocation, status: Mapping[str, Any]) -> bool:
    client = status.get("AdoptedBy") or status.get("SubmittedBy")
    if invocation.node or not isinstance(client, Mapping):
        return True
    if isinstance(parse_address(invocation.socket), UnixAddress):
        return client.get("Kind") == "unix" and client.get("Uid") == os.getuid()
    return client.get("Kind") != "mesh"
