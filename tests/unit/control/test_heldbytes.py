"""What is kept for clients is shared among sources, which nobody can invent."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.control.heldbytes import Ledger
from meshnode.net.sockets import Origin
from meshnode.shares import NO_WAY, Way

OF_ONE, IN_ALL = 100, 300

OTHERS = [
    Origin("mesh honest", way=Way("10.0.0.1")),
    Origin("mesh near", way=Way("10.0.0.1", is_near=True)),
    Origin("unix uid 1000", way=NO_WAY),
    Origin("tcp 10.0.0.9", way=NO_WAY),
]


def invented(number: int) -> Origin:
    return Origin(f"mesh {number}", way=Way("10.0.0.66", is_near=number % 3 == 0))


@pytest.mark.parametrize("other", OTHERS, ids=lambda o: o.name)
@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_whatever_invented_nodes_hold_others_have_the_share_of_a_source(other, seed):
    ledger, held = Ledger(OF_ONE, IN_ALL), dict[int, int]()
    chance = Random(seed)
    for _ in range(chance.choice([100, 400])):
        number, size = chance.randrange(500), chance.randint(1, 40)
        if ledger.has_room(invented(number)):
            ledger.change(invented(number), size)
            held[number] = held.get(number, 0) + size
    ledger.change(other, OF_ONE)
    assert ledger.has_room(other)
    assert ledger.all <= 2 * IN_ALL + OF_ONE + 40 * len(held)
    ledger.change(other, 1)
    assert not ledger.has_room(other)
    ledger.change(other, -OF_ONE - 1)
    for number, size in held.items():
        ledger.change(invented(number), -size)
    assert ledger.all == 0
    assert ledger.has_room(other)


def test_nodes_of_one_branch_share_what_is_its_own():
    ledger = Ledger(OF_ONE, IN_ALL)
    for number in range(4):
        ledger.change(invented(number), OF_ONE)
    ledger.change(OTHERS[0], OF_ONE)
    assert not ledger.has_room(invented(0))
    assert ledger.has_room(invented(9))
    ledger.change(invented(9), IN_ALL // 2 // 5)
    assert ledger.has_room(invented(9))
    ledger.change(invented(9), 1)
    assert not ledger.has_room(invented(9))
