"""How a client shows a token (``Authorization``), and what a refusal asks its client to show.

Programs send a token as Bearer (RFC 6750). A browser that loads a page cannot; but told to, it asks
its user for a name and a password, and sends both as Basic (RFC 7617). The token is the password.
From then on the browser sends it by itself with each request here, whichever page has it made, as
it does with a certificate: that is judged by where a request comes from (``origins.py``).
"""

import base64
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers

from meshnode.web.problems import UNPROVED, Problem

BEARER: Final = 'Bearer realm="meshnode"'
"""What each refusal asks for: one must ask for something (RFC 9110, section 15.5.2)."""

BASIC: Final = 'Basic realm="meshnode", charset="UTF-8"'
"""What has a browser ask its user."""

ASKED_FOR_PAGES: Final = ("text/html", "text/*", "*/*")
"""Kinds of content of which who loads a page takes one. Scripts of our page never name them."""

HOW: Final = "write Authorization: Bearer, a space and a token; or Basic, with it as the password"


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token as a client shows it."""

    token: str
    name: str = ""
    """What the client says that it is called, if it says so."""


def shown_token(headers: Headers) -> ShownToken:
    """Return the token in a request's ``Authorization``. Raises ValueError."""
    [given] = headers.getlist("authorization")
    scheme, _, shown = given.partition(" ")
    match scheme.lower():
        case "bearer":
            return ShownToken(shown.strip())
        case "basic":
            pair = base64.b64decode(shown.strip(), validate=True).decode()
            # A token has no colon, so what stands before the last one is the name, even of a
            # token whose own name has some.
            name, colon, token = pair.rpartition(":")
            if colon:
                return ShownToken(token, name)
    raise ValueError(scheme)


def unproved(text: str, *, error: str = "", asks_user: bool = False) -> Problem:
    """Return the refusal of a request of which nobody knows who asks."""
    bearer = BEARER + (f', error="{error}"' if error else "")
    asked = (BASIC, bearer) if asks_user else (bearer,)
    return Problem(UNPROVED, text, {"www-authenticate": asked})


def loads_page(headers: Headers) -> bool:
    """Whether a request may be a browser's that loads a page of ours, or what belongs to one.

    For such a one only it asks its user. A script that is refused must not make it do so: the page
    has a button for that. Browsers say what they do over TLS and on loopback; elsewhere what is
    asked for tells it.
    """
    if headers.get("authorization", "").lower().startswith("bearer"):
        return False
    purpose = headers.get("sec-fetch-dest")
    if purpose is not None:
        # What is shown within another page must not ask in its name.
        is_ours = headers.get("sec-fetch-site") in {"same-origin", "none"}
        return purpose == "document" or (is_ours and purpose != "empty")
    if headers.get("upgrade", "").lower() == "websocket":
        return False
    accepted = headers.get("accept", "*/*").split(",")
    return any(one.partition(";")[0].strip().lower() in ASKED_FOR_PAGES for one in accepted)
