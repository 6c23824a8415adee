"""Who submitted a unit, and who ended it, in words: what a status says of clients as objects.

A receptor node says nothing of this, and neither do old meshnodes. What a later version says of a
kind of client that this one does not know is shown as it comes.
"""

from collections.abc import Mapping
from typing import Any

from meshctl.api.status import UNFINISHED

CANCELED = "Canceled"
"""The detail of a unit that was canceled, which does not say by whom: receptor's."""

WIDEST_PARAMS = 30
"""Columns of the parameters in a table; ``work status`` has more of them."""


def who(client: object) -> str:
    """Return who a client is, for a line of its own; ``-`` if nobody says."""
    match client:
        case {"Kind": "unix", "Uid": uid, **more}:
            pid = f", pid {more['Pid']}" if "Pid" in more else ""
            user = more.get("User")
            return f"{user} (uid {uid}{pid})" if user else f"uid {uid}{pid}"
        case {"Kind": "tcp", "Address": address, **more}:
            proved = _certified(more.get("Certificate"))
            return f"{proved} ({address})" if proved else str(address)
        case {"Kind": "token", "Name": name, **more}:
            return f"token {name} ({more['Address']})" if "Address" in more else f"token {name}"
        case {"Kind": "mesh", "Node": node, **more}:
            # What another node says of its clients is its word, and no more.
            claim = _last(more.get("Claim"))
            return f"node {node}, which says for {who(claim)}" if claim else f"node {node}"
        case {"Kind": "unknown"}:
            return "an unknown client"
        case Mapping():
            return ", ".join(f"{key} {value}" for key, value in client.items())
    return "-"


def who_briefly(client: object) -> str:
    """Return who a client is, for a column of a table."""
    match client:
        case {"Kind": "unix", "Uid": uid, **more}:
            return str(more.get("User") or f"uid {uid}")
        case {"Kind": "tcp", "Address": address, **more}:
            # Who has proved a name is told by it: the next client may have its port.
            return _certified(more.get("Certificate")) or str(address)
        case {"Kind": "token", "Name": name}:
            return f"token {name}"
        case {"Kind": "mesh", "Node": node, **more}:
            claim = _last(more.get("Claim"))
            # Never the name alone: a node may be called as a user of this machine is.
            return f"node {node} ({who_briefly(claim)})" if claim else f"node {node}"
        case Mapping():
            return str(client.get("Kind", "-"))
    return "-"


def _certified(certificate: object) -> str:
    """Return whom a certificate names: its subject, or else its nodes; empty if nobody."""
    match certificate:
        case {"Subject": str(subject)} if subject:
            return subject
        case {"Nodes": [first, *others]}:
            return f"certificate of {', '.join(map(str, (first, *others)))}"
    return ""


def _last(claim: object) -> Mapping[str, Any] | None:
    """Return a claim without one within it, which no meshnode sends: it could be of any depth."""
    if not isinstance(claim, Mapping):
        return None
    return {key: value for key, value in claim.items() if key != "Claim"}


def shown_params(status: Mapping[str, Any], most: int = WIDEST_PARAMS) -> str:
    """Return what a unit was submitted with, for a column of a table."""
    params = status.get("SubmittedParams")
    if not isinstance(params, str) or not params:
        return "-"
    return params if len(params) <= most else f"{params[: most - 1]}…"


CLIENT_KEYS = frozenset({"SubmittedBy", "AdoptedBy", "EndedBy"})
"""Keys of a status that are shown in words."""


def in_words(key: str, value: object) -> str:
    """Return what a key of :data:`CLIENT_KEYS` says."""
    return how_ended(value) if key == "EndedBy" else who(value)


def how_ended(end: object) -> str:
    """Return who or what ended a unit, ``-`` for one that ended by itself."""
    match end:
        case {"Cause": cause, **more}:
            by = f" by {who(more['By'])}" if more.get("By") else ""
            if not by and more.get("Pid"):
                # The sender of a signal, as the kernel names it.
                by = f" by process {more['Pid']} (uid {more.get('Uid', '?')})"
            where = f" on node {more['Node']}" if more.get("Node") else ""
            return f"{cause}{by}{where}"
    return "-"


def killed(status: Mapping[str, Any]) -> str:
    """Return whether a unit was ended before it ended by itself, by which signal, and by whom."""
    if status.get("State") in UNFINISHED:
        return "-"
    by, name = how_ended(status.get("EndedBy")), status.get("Signal")
    reasons = [str(name)] if name else []
    # "signal" alone says no more than which one it was.
    reasons += [by] if by != "-" and not (reasons and by == "signal") else []
    return f"yes: {', '.join(reasons)}" if reasons else "no"


def canceled_briefly(status: Mapping[str, Any]) -> str:
    """Return a unit's detail for a table; of one that somebody canceled, who that was."""
    detail, end = str(status.get("Detail", "")), status.get("EndedBy")
    if detail != CANCELED or not isinstance(end, Mapping) or not end.get("By"):
        return detail
    return f"{detail} by {who_briefly(end['By'])}"
