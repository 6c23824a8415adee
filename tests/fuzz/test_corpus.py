"""A fixed corpus of each fuzz target: ``make fuzz`` feeds many more."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from fuzz import certificates
from fuzz.catalogue import TARGETS
from fuzz.engine import fuzz, make_input
from meshnode.errors import TlsProblem, TlsRefused
from meshnode.mesh.streams.listener import StreamListener
from meshnode.protocol.adverts import AdvertisementTable
from meshnode.protocol.topology import Topology, Verdict

SEED = 1

INPUTS = {
    "routing": 400,
    "notices": 400,
    "adverts": 400,
    "data": 400,
    "quic": 300,
    "answers": 100,
    "farwork": 200,
    "control": 400,
    "unitfiles": 300,
    "framing": 300,
    "certificates": 200,
    "handshakes": 60,
    "tokens": 300,
    "yaml": 200,
    "rules": 60,
}
"""How many make some seconds in all."""


@pytest.mark.parametrize("name", INPUTS)
def test_no_input_harms_anybody_but_its_sender(name):
    report = fuzz(TARGETS[name], SEED, INPUTS[name])
    assert not report.failures, "\n".join(
        f"{failure}\n{make_input(TARGETS[name], SEED, failure.number)!r}"
        for failure in report.failures
    )
    assert report.inputs == INPUTS[name]


@contextmanager
def counted(
    owner: type, method: str, counts: Counter[str], key: Callable[..., str]
) -> Iterator[None]:
    """Count the calls of a method, by what ``key`` makes of the object and the result."""
    original: Callable[..., Any] = getattr(owner, method)

    def wrapper(self: Any, *args: Any, **more: Any) -> Any:
        result = original(self, *args, **more)
        counts[key(self, result)] += 1
        return result

    with mock.patch.object(owner, method, wrapper):
        yield


def at_victim(topology: Topology, verdict: Verdict) -> str:
    return f"{verdict.name} at {topology.own.own_id}"


GATES = {
    "routing": (Topology, "apply", at_victim, "FORWARD at victim", 0.5),
    "notices": (StreamListener, "on_unreachable", lambda *_: "heard", "heard", 0.2),
    "adverts": (AdvertisementTable, "apply", lambda _, news: f"{news}", "True", 0.3),
    "quic": (StreamListener, "stream_opened", lambda _, taken: f"{taken}", "True", 0.3),
}
"""What an input has reached that is no longer judged by its form, and how many of them must."""


@pytest.mark.parametrize("name", GATES)
def test_many_inputs_pass_the_gate(name):
    owner, method, key, reached, share = GATES[name]
    counts: Counter[str] = Counter()
    with counted(owner, method, counts, key):
        report = fuzz(TARGETS[name], SEED, 200)
    assert counts[reached] > share * report.inputs, counts


def test_nearly_right_chains_are_refused_for_many_reasons_and_some_are_taken():
    found: Counter[str | TlsProblem] = Counter()
    verify = certificates.verify_chain

    def counting(ders: Any, expected: Any, now: Any) -> Any:
        try:
            shown = verify(ders, expected, now)
        except TlsRefused as refusal:
            found[refusal.problem] += 1
            raise
        found["taken"] += 1
        return shown

    with mock.patch.object(certificates, "verify_chain", counting):
        fuzz(TARGETS["certificates"], SEED, 200)
    assert found["taken"] > 0.05 * found.total(), found
    assert len(found) > 4, found
