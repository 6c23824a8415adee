"""The requests that a client sends: one line each, whatever the values in it are.

A value that is put into a line of text is checked to be one word, so that no value can add another
command. In JSON anything may stand: the node judges it.
"""

import json
from collections.abc import Mapping

from meshctl.api import JsonObject
from meshctl.api.errors import BadSettings
from meshctl.api.logindex import STDOUT


def command_line(command: str | Mapping[str, object]) -> str:
    """Check that a command is one that gets one reply: malformed JSON would get two."""
    try:
        line = command if isinstance(command, str) else json.dumps(command)
        line.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadSettings(f"a command is text, or what JSON can hold: {error}") from error
    if not line or "\n" in line or "\r" in line:
        raise BadSettings("a command is one line")
    if line.startswith("{"):
        try:
            well_formed = isinstance(json.loads(line).get("command"), str)
        except (ValueError, RecursionError):
            well_formed = False
        if not well_formed:
            raise BadSettings("a command in JSON is an object with the name of its command")
    return line


def word(kind: str, text: str) -> str:
    """Check that ``text`` is one word of a command line, so that no value can add another command.

    Raises:
        BadSettings: it is empty or has white space in it.
    """
    if not text or not text.isprintable() or any(map(str.isspace, text)):
        raise BadSettings(f"{kind} {text!r} is not one word")
    return text


def connecting(node: str, service: str, tls_client: str, *, framed: bool) -> str:
    """Return the line that asks for a stream to a service, in frames if both sides know them."""
    request: JsonObject = {"command": "connect", "node": node, "service": service}
    if tls_client:
        request["tls"] = tls_client
    if framed:
        request["framed"] = True
    return json.dumps(request, ensure_ascii=False)


def adoption(node: str, unit_id: str, tls_client: str, signwork: bool) -> JsonObject:
    """Return the request to adopt a unit of another node; values are strings, as receptor's are."""
    options = {"tlsclient": tls_client, "signwork": "true" if signwork else ""}
    return {
        **{"command": "work", "subcommand": "adopt", "node": node, "unitid": unit_id},
        **{key: value for key, value in options.items() if value},
    }


def remote_ending(subcommand: str, unit_id: str) -> JsonObject:
    """Return the request to release an adopted unit also where it is."""
    return {"command": "work", "subcommand": subcommand, "unitid": unit_id, "remote": "true"}


def may_request(verb: str, what: Mapping[str, str], params: Mapping[str, str]) -> JsonObject:
    """Return the question whether the client may do something; the answer does nothing."""
    request: JsonObject = {"command": "auth", "subcommand": "can", "verb": verb, **what}
    return request | {"params": dict(params)} if params else request


def results_request(unit_id: str, startpos: int, stream: str) -> str:
    """Return the line that asks for results: the one that receptor's clients send, for stdout."""
    unit = word("unit ID", unit_id)
    if stream == STDOUT:
        return f"work results {unit} {startpos:d}"
    request: JsonObject = {"command": "work", "subcommand": "results", "unitid": unit}
    return json.dumps({**request, "startpos": startpos, "stream": stream})
