"""Errors of the network in words that say what to look at: refused, unreachable, name not found.

What the system says of a failed connection is written for whoever wrote the program. Whoever runs
a node asks: is the host there, does it have that name, does anything listen on the port?
"""

import errno
import socket
from collections.abc import Iterator

_WORDS = {
    errno.ECONNREFUSED: "refused: nothing listens on that port, or a firewall refuses",
    errno.EHOSTUNREACH: "unreachable: no route to the host",
    errno.ENETUNREACH: "unreachable: no route to the network",
    errno.EHOSTDOWN: "unreachable: the host is down",
    errno.ENETDOWN: "unreachable: the network is down",
    errno.ETIMEDOUT: "unreachable: no answer in time",
    errno.ECONNRESET: "the other end reset the connection",
    errno.EADDRINUSE: "the address is in use already",
    errno.EADDRNOTAVAIL: "that address is not one of this machine",
    errno.EACCES: "not permitted: ports below 1024 may need a privilege",
    errno.EMFILE: "this node has no file descriptor left",
    errno.ENFILE: "this machine has no file descriptor left",
}
"""What errors of the system mean, by number."""

_NAMES = {
    socket.EAI_NONAME: "name not found",
    socket.EAI_NODATA: "name not found: it has no address",
    socket.EAI_AGAIN: "name not found: no name server answers",
    socket.EAI_FAIL: "name not found: the name server failed",
}
"""What errors of a look-up mean, by number, which are not those of the system."""


def in_words(error: OSError) -> str:
    """Return what is wrong, in one line; the errors of several addresses each once."""
    return "; ".join(dict.fromkeys(map(_words_of_one, _causes(error))))


def _causes(error: OSError) -> Iterator[OSError]:
    """Yield what an error is made of: trio tells of all addresses of a name in one error."""
    cause = error.__cause__
    if error.errno is not None or cause is None:
        yield error
    elif isinstance(cause, ExceptionGroup):
        found = [e for e in cause.exceptions if isinstance(e, OSError)]
        for each in found:
            yield from _causes(each)
        if not found:
            yield error
    elif isinstance(cause, OSError):
        yield from _causes(cause)
    else:
        yield error


def _words_of_one(error: OSError) -> str:
    words = _NAMES if isinstance(error, socket.gaierror) else _WORDS
    if error.errno in words:
        return words[error.errno]
    return str(error.strerror or error) or type(error).__name__
