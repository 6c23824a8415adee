"""Floods of TLS handshakes: cut off, slow, of strangers, and bytes that are no TLS at all."""

import itertools
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from hostile import der

from floods.attack import ATTACKER, REOPEN_PAUSE, Crowd, Limit, Sent, Target, tcp_opener

HALF_OPEN = 540
SLOW = 300

PATIENCE = 5.0
"""Seconds for each step of a stranger's handshake."""

CHAIN = 80 * 1024
"""Bytes of certificates that a stranger shows; OpenSSL takes 100 KiB."""

ROUND = 0.05
"""Seconds between two bytes of each slow handshake."""

GARBAGE = 64 * 1024
"""Bytes behind a handshake that went as it should so far."""


def _hello() -> bytes:
    """Return what a client of TLS begins with."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        _context().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def _context(shows: der.Files | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if shows is not None:
        context.load_cert_chain(shows.cert, shows.key)
    return context


def _opener(target: Target) -> Callable[[], socket.socket]:
    """Return what connects to the listener and to the control port, by turns."""
    openers = itertools.cycle([tcp_opener(target.tls), tcp_opener(target.tls_control)])
    return lambda: next(openers)()


def half_hellos(target: Target, limit: Limit) -> Sent:
    """Begin handshakes, and stop within the first record."""
    hello = _hello()
    return Crowd(_opener(target), HALF_OPEN, hello[: len(hello) // 2]).stay(limit)


def hellos(target: Target, limit: Limit) -> Sent:
    """Begin handshakes, have the victim compute its answer, and say no more."""
    return Crowd(_opener(target), HALF_OPEN, _hello()).stay(limit)


def slow_hellos(target: Target, limit: Limit) -> Sent:
    """Send the bytes of many handshakes one by one; each that is closed begins again."""
    sent, hello, open_one = Sent(), _hello(), _opener(target)
    held: dict[socket.socket, int] = {}
    try:
        while limit.seconds:
            while len(held) < SLOW:
                held[open_one()] = 0
                sent.links += 1
            for sock, place in list(held.items()):
                try:
                    held[sock] = place + sock.send(hello[place : place + 1] or b"\0")
                    sent.bytes += 1
                except BlockingIOError:
                    continue
                except OSError:
                    sock.close()
                    del held[sock]
            time.sleep(ROUND)
    finally:
        for sock in held:
            sock.close()
    return sent


def strangers(target: Target, limit: Limit) -> Sent:
    """Shake hands without a certificate, or with many of a CA that nobody trusts."""
    with tempfile.TemporaryDirectory() as name:
        return _shake(target, limit, itertools.cycle([None, _long_chain(Path(name))]), b"")


def garbage(target: Target, limit: Limit) -> Sent:
    """Shake hands as a member of the mesh or as nobody, and send random bytes in place of more."""
    with tempfile.TemporaryDirectory() as name:
        member = der.write_files(Path(name), "evil")
        return _shake(target, limit, itertools.cycle([member, member, None]), os.urandom(GARBAGE))


def _long_chain(place: Path) -> der.Files:
    files = der.write_files(place, "evil")
    more = CHAIN // len(der.BETWEEN.der)
    files.cert.write_bytes(der.pem([der.STRANGER.der, *[der.BETWEEN.der] * more]))
    return files


def _shake(target: Target, limit: Limit, shows: Iterator[der.Files | None], rest: bytes) -> Sent:
    sent = Sent()
    ports = itertools.cycle([target.tls, target.tls_control])
    while limit.allows(sent.messages):
        try:
            plain = socket.create_connection(
                ("127.0.0.1", next(ports)), PATIENCE, source_address=(ATTACKER, 0)
            )
            sent.links += 1
            with plain, _context(next(shows)).wrap_socket(plain, server_hostname="x") as tls:
                # TLS 1.3 has a client believe that it is done before its certificate is judged.
                sent.messages += 1
                if rest:
                    socket.socket.sendall(tls, rest)
                    sent.bytes += len(rest)
                while tls.recv(65536):
                    pass
        except OSError:
            time.sleep(REOPEN_PAUSE)
    return sent
