"""Payloads and results are bytes: none is added, lost or changed on the way to bar and back."""

import os
from pathlib import Path

import pytest
from harness import ControlConnection, Node

MIB = 2**20


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(os.urandom(10 * MIB), id="10 MiB of random bytes"),
        pytest.param(b"", id="0 bytes"),
        pytest.param(b"no final newline", id="no final newline"),
        pytest.param(b"\n", id="only a newline"),
        pytest.param(b"\x00\xff\r\n\r\x80ERROR: not one\n", id="bytes with a meaning elsewhere"),
    ],
)
def test_cat_on_bar_gives_back_the_payload(
    foo_bar: tuple[Node, Node], tmp_path: Path, payload: bytes
) -> None:
    foo, bar = foo_bar
    file = tmp_path / "payload"
    file.write_bytes(payload)
    unit = foo.submit("cat", "--node", "bar", "--payload", file)
    # Not assert a == b: pytest would spend minutes on the difference of two long byte strings.
    same = foo.results(unit) == payload
    assert same
    status = foo.unit_status(unit)
    assert (status["StateName"], status["StdoutSize"]) == ("Succeeded", len(payload))
    remote = bar.units / status["ExtraData"]["RemoteUnitID"]
    for stored in (
        foo.units / unit / "stdin",
        foo.units / unit / "stdout",
        remote / "stdin",
        remote / "stdout",
    ):
        same = stored.read_bytes() == payload
        assert same, stored


def test_a_literal_payload_ends_with_a_newline_as_receptorctls_does(
    foo_bar: tuple[Node, Node],
) -> None:
    foo, _ = foo_bar
    output = foo.meshctl("work", "submit", "cat", "--node", "bar", "-l", "one line", "-f")
    assert output == b"one line\n"


def test_results_can_start_in_the_middle(foo_bar: tuple[Node, Node]) -> None:
    foo, _ = foo_bar
    unit = foo.submit("cat", "--node", "bar", "-p", "-", stdin=b"0123456789")
    assert foo.results(unit) == b"0123456789"
    with ControlConnection(foo.socket) as connection:
        reply = connection.ask(f"work results {unit} 7")
        assert reply == f"Streaming results for work unit {unit}"
        assert connection.reader.read() == b"789"
