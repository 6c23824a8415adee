"""Whatever a node, a network or a payload does, the Python client raises a ControlError."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_node import FAILED

from meshctl import BadSettings, ControlClient, ControlError, PayloadLost
from meshctl.render.output import ExitCode


class Breaks:
    """A file of the caller's that unpacks what it reads, and cannot."""

    def __init__(self, error):
        self.error = error

    def read(self, size):
        raise self.error


@pytest.mark.parametrize(
    "error", [EOFError("file ended early"), KeyError("x"), OSError(5, "I/O"), ValueError()]
)
def test_whatever_a_payload_raises_is_a_lost_payload_and_starts_nothing(node, error):
    with ControlClient(node.address) as client, pytest.raises(PayloadLost) as caught:
        client.submit("cat", Breaks(error))
    assert caught.value.unit_id == "Unit0001"
    assert caught.value.__cause__.__cause__ is error
    assert node.payload_ended.wait(60)
    assert node.payload_ends == ["reset"]


@pytest.mark.parametrize(
    "command",
    [
        *("\ud800", "two\nlines", "", "{", '{"a":' * 100_000),
        *({"command": b"bytes"}, {"command": object()}, {"command": 1}, {}),
    ],
    ids=lambda command: ascii(command)[:20],
)
def test_what_is_no_command_is_refused_and_sent_nowhere(node, command):
    with ControlClient(node.address) as client, pytest.raises(BadSettings):
        client.command(command)
    assert node.lines == []


text = st.one_of(st.text(max_size=6), st.sampled_from(["\ud800", "a\0b", "one", "a b", "\r"]))


@given(st.lists(text, min_size=4, max_size=4), st.dictionaries(text, text, max_size=2))
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_text_a_caller_gives_the_error_is_a_control_error(node, words, params):
    node.handlers[""] = lambda session, line: session.send(b"ERROR: no\n") or True
    a, b, c, d = words
    with ControlClient(node.address) as client:
        for call in (
            lambda: client.command(a),
            lambda: client.command({"command": a, b: c}),
            lambda: client.status([a, b]),
            lambda: client.ping(a),
            lambda: client.traceroute(a),
            lambda: client.work_list(a, node=b, tls_client=c),
            lambda: client.work_status(a),
            lambda: client.results(a).close(),
            lambda: client.cancel(a),
            lambda: client.connect_stream(a, b, c).close(),
            lambda: client.submit(a, b"x", node=b, ttl=c, tls_client=d, params=params),
            lambda: client.wait(a, 0),
        ):
            with contextlib.suppress(ControlError):
                call()


@pytest.mark.parametrize("options", [[], ["-f"], ["--wait"]])
def test_a_unit_whose_payload_broke_is_released_by_rm(meshctl, node, options):
    node.handlers["work release"] = lambda session, line: (
        session.send({"released": line.split()[-1]}) or True
    )
    result = meshctl("work", "submit", "cat", "-p", "/proc/self/mem", "--rm", *options)
    assert result.exit_code == ExitCode.SUBMIT_FAILED
    assert result.stderr.endswith("unit Unit0001 was not started\n")
    assert node.lines[-1] == "work release Unit0001"


@pytest.mark.parametrize("options", [["-f"], ["--wait"]])
def test_a_release_that_fails_does_not_hide_how_the_unit_ended(meshctl, node, options):
    node.unit_status = dict(FAILED)
    node.handlers["work release"] = lambda session, line: False
    result = meshctl("work", "submit", "cat", "-n", "--rm", "--propagate", *options)
    assert result.exit_code == 7
    *_, release, ended = result.stderr.splitlines()
    assert release.startswith("ERROR: unit Unit0001 is not released: ")
    assert release.endswith(f"Again: meshctl --socket {node.address} work release Unit0001")
    assert ended == "ERROR: unit Unit0001 failed: exit status 7"
