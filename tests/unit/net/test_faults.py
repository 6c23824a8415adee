"""Errors of the network in words that say what to look at."""

import errno
import os
import socket
from collections.abc import Iterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshnode.net.faults import in_words


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of the loopback interface on which nothing listens; nobody else is given it either."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


async def test_a_port_on_which_nothing_listens_is_refused(closed_port: int) -> None:
    with pytest.raises(OSError, match="all attempts") as caught:
        await trio.open_tcp_stream("127.0.0.1", closed_port)
    assert in_words(caught.value).startswith("refused: nothing listens")


async def test_a_name_that_nobody_knows_is_not_found() -> None:
    class Nobody(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *args: object) -> list[object]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        async def getnameinfo(self, *args: object) -> tuple[str, str]:
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(Nobody())
    with pytest.raises(OSError, match="not known") as caught:
        await trio.open_tcp_stream("nosuch.example", 1)
    assert in_words(caught.value) == "name not found"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EHOSTUNREACH, "unreachable: "),
        (errno.ENETUNREACH, "unreachable: "),
        (errno.ETIMEDOUT, "unreachable: "),
        (errno.EADDRINUSE, "the address is in use already"),
    ],
)
def test_what_the_system_says_by_number_is_said_in_words(number: int, words: str) -> None:
    assert in_words(OSError(number, os.strerror(number))).startswith(words)


def of_addresses(*errors: OSError) -> OSError:
    """Return what trio raises when none of several addresses can be reached."""
    whole = OSError("all attempts to connect failed")
    whole.__cause__ = ExceptionGroup("all", errors)
    return whole


def test_the_errors_of_several_addresses_are_each_said_once() -> None:
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    far = OSError(errno.ENETUNREACH, "Network is unreachable")
    words = in_words(of_addresses(refused, far, refused))
    assert words.count("refused: ") == words.count("unreachable: ") == 1


@given(
    st.lists(
        st.builds(OSError, st.integers(-20, 200), st.text())
        | st.builds(OSError, st.text())
        | st.builds(socket.gaierror, st.integers(-20, 0), st.text()),
        min_size=1,
    )
)
def test_any_error_has_words(errors: list[OSError]) -> None:
    for error in errors:
        assert in_words(error)
    assert in_words(of_addresses(*errors))
