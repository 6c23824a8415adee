"""What there is instead of what was asked for: the nodes, services and work types that are known.

A node refuses a name that it does not know with receptor's words, which tools match and which name
nothing. What may have been meant stands in its status, so a person is told that as well.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from meshctl.api.errors import ControlError

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient

MOST_NAMES = 12
"""Names in a hint at most: a line for a person, who can ask for the status of a large mesh."""


_REMEDIES = {
    "extra params provided but not allowed": "; its work type takes none: allowruntimeparams "
    "must be true where it is configured",
}
"""What to do about a refusal that receptor's words leave open."""


_SAID = ("known nodes", "no other node is known", "did you mean")


def hint(client: "ControlClient", reason: str, node: str, wanted: str) -> str:
    """Return what to add to a refusal; nothing where it is about something else.

    Args:
        client: Whom to ask: the node that has refused.
        reason: The node's words.
        node: The node that was asked for; empty for the client's own.
        wanted: The service or the work type that was asked for there.
    """
    if any(words in reason for words in _SAID):
        return ""  # a meshnode has said so itself
    find: Callable[[Mapping[str, Any], str], Iterator[str]]
    if "no route to node" in reason:
        label, name, find = "known nodes", node, _nodes
    elif "service unknown" in reason:
        label, name, find = "its services", wanted, _services
    elif "unknown work type" in reason:
        # A meshnode that passes the refusal of another one on has said those of that one.
        label = "" if "it offers " in reason else "its work types"
        name, find = wanted, _types
    else:
        return _REMEDIES.get(reason.rpartition(": ")[2], "")
    try:
        status = client.status(["NodeID", "RoutingTable", "Advertisements"])
    except ControlError:
        return ""  # the refusal itself is what matters
    return _instead(label, name, set(find(status, node)))


def _instead(label: str, name: str, known: set[str]) -> str:
    import difflib  # noqa: PLC0415 - only for what was mistyped

    if near := difflib.get_close_matches(name, known, 1):
        return f"; did you mean {near[0]}?"
    if not (known and label):
        return ""
    more = ", …" if len(known) > MOST_NAMES else ""
    return f"; {label}: {', '.join(sorted(known)[:MOST_NAMES])}{more}"


def _nodes(status: Mapping[str, Any], node: str) -> Iterator[str]:
    del node  # all of them
    yield str(status.get("NodeID", ""))
    yield from as_table(status.get("RoutingTable"))


def _services(status: Mapping[str, Any], node: str) -> Iterator[str]:
    for advertisement in advertisements(status, node):
        yield str(advertisement.get("Service", ""))


def _types(status: Mapping[str, Any], node: str) -> Iterator[str]:
    for command in types_of(status, node):
        yield str(command.get("WorkType", ""))


def types_of(status: Mapping[str, Any], node: str) -> Iterator[Mapping[str, Any]]:
    """Yield what a status says of each work type that a node has (empty: its own)."""
    for advertisement in advertisements(status, node):
        commands = advertisement.get("WorkCommands")
        yield from map(as_table, commands if isinstance(commands, list) else ())


def advertisements(status: Mapping[str, Any], node: str) -> Iterator[Mapping[str, Any]]:
    """Yield what a node says that it has; its own node is ``localhost`` in any case, too."""
    own = status.get("NodeID")
    listed = status.get("Advertisements")
    for table in map(as_table, listed if isinstance(listed, list) else ()):
        if table.get("NodeID") == (own if node.lower() in {"", "localhost"} else node):
            yield table


def as_table(value: object) -> Mapping[str, Any]:
    """Return a value that is a map; an empty one for any other."""
    return value if isinstance(value, dict) else {}
