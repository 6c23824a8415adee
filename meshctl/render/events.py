"""One event of a node as one line for a person.

Whatever a node sends gives a line, or none: nodes of later versions may tell of more.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from meshctl.api.status import moment

Part = Mapping[str, Any]
"""An object in JSON."""


def event_line(event: Part) -> str:
    """Return the line for an event, empty if there is nothing to say of it."""
    topic = event.get("topic")
    words = _WORDS.get(topic, _other)(event) if isinstance(topic, str) else ""
    return f"{_clock(moment(event, 'time'))}  {words}" if words else ""


def _clock(when: datetime | None) -> str:
    """Return the time of the day here."""
    return "--:--:--" if when is None else when.astimezone().strftime("%H:%M:%S")


def _part(event: Part, key: str) -> Part:
    value = event.get(key)
    return value if isinstance(value, dict) else {}


def _word(part: Part, key: str) -> str:
    value = part.get(key)
    return "" if value is None else str(value)


def _start(event: Part) -> str:
    return ""


def _lost(event: Part) -> str:
    missed = event.get("missed")
    many = f"up to {missed} changes" if isinstance(missed, int) else "changes"
    return f"lost: {many} were not told; meshctl status and work list have what there is now"


def _unit(event: Part) -> str:
    unit, change = _part(event, "unit"), _word(event, "change")
    words = f"unit {_word(event, 'id')} {change}"
    if "StateName" not in unit:
        return words
    kind = _word(unit, "RemoteWorkType") or _word(unit, "WorkType")
    state, detail = _word(unit, "StateName"), _word(unit, "Detail")
    # "Running: PID 7" and "Canceled" name the state themselves.
    how = detail if detail.startswith(state) else f"{state}: {detail}"
    return f"{words}: {kind} on {_word(unit, 'Node')}: {how}"


def _link(event: Part) -> str:
    change = _word(event, "change")
    if "peer" in event:
        return _peer(_part(event, "peer"), change)
    link = _part(event, "link")
    words = f"link {_word(link, 'a')} - {_word(link, 'b')} {change}"
    costs = [_word(link, key) for key in ("cost_ab", "cost_ba")]
    cost = costs[0] if costs[0] == costs[1] else " and ".join(filter(None, costs))
    more = [_word(link, "kind"), f"cost {cost}" if cost else ""]
    told = ", ".join(filter(None, more)) if change != "down" else ""
    return f"{words} ({told})" if told else words


def _peer(peer: Part, change: str) -> str:
    words = f"peer {_word(peer, 'address')}"
    if change == "removed":
        return f"{words} is no longer configured"
    node, reason = _word(peer, "node"), _word(peer, "reason")
    if node:
        return f"{words} {_word(peer, 'state')} ({node})"
    return f"{words} down: {reason}" if reason else f"{words} {_word(peer, 'state')}"


def _route(event: Part) -> str:
    route, change = _part(event, "route"), _word(event, "change")
    words = f"route to {_word(route, 'node')} {change}"
    return words if change == "removed" else f"{words}: via {_word(route, 'via')}"


def _service(event: Part) -> str:
    service = _part(event, "service")
    words = f"service {_word(service, 'service')} of {_word(service, 'node')}"
    return f"{words} {_word(event, 'change')}"


def _other(event: Part) -> str:
    return f"{_word(event, 'topic')} {_word(event, 'id')} {_word(event, 'change')}"


_WORDS: Mapping[str, Callable[[Part], str]] = {
    "start": _start,
    "lost": _lost,
    "unit": _unit,
    "link": _link,
    "route": _route,
    "service": _service,
}
