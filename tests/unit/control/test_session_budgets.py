"""What is kept for clients is shared among sources, which nobody can invent."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.shares import Budget, Holder

OF_ONE, IN_ALL = 100, 300

OTHERS = [
    Holder("mesh honest", "10.0.0.1"),
    Holder("mesh near", "10.0.0.1", is_near=True),
    Holder("unix uid 1000"),
    Holder("tcp 10.0.0.9"),
]


def invented(number: int) -> Holder:
    return Holder(f"mesh {number}", "10.0.0.66", is_near=number % 3 == 0)


@pytest.mark.parametrize("other", OTHERS, ids=lambda o: o.name)
@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_whatever_invented_nodes_hold_others_have_the_share_of_a_source(other, seed):
    budget, held = Budget(OF_ONE, IN_ALL), dict[int, int]()
    chance = Random(seed)
    for _ in range(chance.choice([100, 400])):
        number, size = chance.randrange(500), chance.randint(1, 40)
        if budget.has_room(invented(number)):
            budget.change(invented(number), size)
            held[number] = held.get(number, 0) + size
    budget.change(other, OF_ONE)
    assert budget.has_room(other)
    assert budget.used <= 2 * IN_ALL + OF_ONE + 40 * len(held)
    budget.change(other, 1)
    assert not budget.has_room(other)
    budget.change(other, -OF_ONE - 1)
    for number, size in held.items():
        budget.change(invented(number), -size)
    assert budget.used == 0
    assert budget.has_room(other)


def test_nodes_of_one_branch_share_what_is_its_own():
    budget = Budget(OF_ONE, IN_ALL)
    for number in range(4):
        budget.change(invented(number), OF_ONE)
    budget.change(OTHERS[0], OF_ONE)
    assert not budget.has_room(invented(0))
    assert budget.has_room(invented(9))
    budget.change(invented(9), IN_ALL // 2 // 5)
    assert budget.has_room(invented(9))
    budget.change(invented(9), 1)
    assert not budget.has_room(invented(9))
