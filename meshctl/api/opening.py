"""Opens the transport that an address names, or says why it cannot, with the remedy."""

import errno
import os
import socket
import stat

from meshctl.api.errors import CannotReach
from meshctl.api.settings import Address, NetworkAddress, TlsSettings, UnixAddress, WebAddress
from meshctl.api.transport import PlainTransport, Transport

SILENCE, PROBE_INTERVAL, PROBES = 30, 10, 3
"""Seconds of silence until the kernel asks the other machine for a sign of life, seconds between
two such questions, and how many go unanswered until the connection is lost: a minute in all, which
is longer than a link takes that comes back. A node that is only busy has its kernel answer."""

NOT_A_SOCKET = "it is no socket. Give the filename of a control-service, and not that of its lock"
STALE_SOCKET = "nobody listens on it. Has its meshnode ended? Start it again"
NO_SOCKET = "no such file. Is meshnode running with a control-service on it?"
NOT_PERMITTED = (
    "permission denied. Run as the user of its meshnode, or set permissions of its control-service"
)
NO_LISTENER = "connection refused. Is meshnode running with tcplisten on this port?"
NO_SERVICE = "connection refused. Is meshnode running with an http-service on this port?"


def open_transport(address: Address, name: str, tls: TlsSettings, timeout: float) -> Transport:
    """Connect to ``address``; every wait until ``set_timeout`` is bounded by ``timeout`` seconds.

    Args:
        address: Where to.
        name: The address as the user gave it, for messages.
        tls: Used for ``tls://`` and ``https://`` addresses only.
        timeout: Seconds.

    Raises:
        CannotReach: with the reason and the remedy.
    """
    if isinstance(address, UnixAddress):
        return PlainTransport(_connect_unix(address, name, timeout))
    transport = _open_tcp(address, name, tls, timeout)
    if not isinstance(address, WebAddress):
        return transport
    from meshctl.api.web import open_web  # noqa: PLC0415 - few talk through HTTP

    return open_web(transport, address, name)


def _open_tcp(
    address: NetworkAddress | WebAddress, name: str, tls: TlsSettings, timeout: float
) -> Transport:
    sock = _connect_tcp(address, name, timeout)
    if not address.tls:
        return PlainTransport(sock)
    from meshctl.api.tls import open_tls  # noqa: PLC0415 - ssl is slow to import

    return open_tls(sock, address.host, name, tls)


def _connect_unix(address: UnixAddress, name: str, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(address.path)
    except OSError as error:
        sock.close()
        raise CannotReach(name, _why_not_unix(error, address.path, timeout)) from error
    except BaseException:
        sock.close()
        raise
    return sock


def _why_not_unix(error: OSError, path: str, timeout: float) -> str:
    if isinstance(error, (TimeoutError, BlockingIOError)):
        return f"not accepted within {timeout:g} s. Is its meshnode stopped or overloaded?"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return NO_SOCKET
        case errno.ECONNREFUSED:
            return STALE_SOCKET if _is_socket(path) else NOT_A_SOCKET
        case errno.EACCES | errno.EPERM:
            return NOT_PERMITTED
        case _:
            return error.strerror or str(error)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return True  # gone meanwhile: it was one


def _connect_tcp(address: NetworkAddress | WebAddress, name: str, timeout: float) -> socket.socket:
    try:
        sock = socket.create_connection((address.host, address.port), timeout)
    except TimeoutError as error:
        raise CannotReach(name, f"no answer within {timeout:g} s. Is the host up?") from error
    except ConnectionRefusedError as error:
        why = NO_SERVICE if isinstance(address, WebAddress) else NO_LISTENER
        raise CannotReach(name, why) from error
    except socket.gaierror as error:
        raise CannotReach(name, f"unknown host {address.host} ({error.strerror})") from error
    except UnicodeError as error:
        raise CannotReach(name, f"{address.host} is no host name") from error
    except OSError as error:
        raise CannotReach(name, error.strerror or str(error)) from error
    # Commands are small and each waits for its reply: none should wait for the last one's ACK.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Who waits for an end or an answer sends nothing, and would never hear that the machine or the
    # network between is gone.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    return sock
