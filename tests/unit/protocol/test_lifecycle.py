"""The states of a unit, their transitions, and the picture of them."""

from itertools import product
from pathlib import Path

import pytest

from meshnode.errors import WorkError
from meshnode.protocol.lifecycle import TRANSITIONS, UnitState, check_transition, life_cycle

PAGE = Path(__file__).parents[3] / "docs" / "guarantees.md"


def test_the_picture_in_the_docs_is_drawn_from_the_table() -> None:
    picture = f"```mermaid\n{life_cycle()}```\n"
    assert picture in PAGE.read_text("utf-8"), "run: python -m meshnode.protocol.lifecycle"


def test_every_state_is_in_the_table_and_nothing_leaves_a_final_one() -> None:
    assert set(TRANSITIONS) == set(UnitState)
    finals = {state for state in UnitState if state.is_final}
    assert finals == {UnitState.SUCCEEDED, UnitState.FAILED, UnitState.CANCELED}


@pytest.mark.parametrize(("old", "new"), list(product(UnitState, UnitState)))
def test_what_is_not_in_the_table_is_refused(old: UnitState, new: UnitState) -> None:
    if new is old or new in TRANSITIONS[old]:
        check_transition(old, new)
    else:
        with pytest.raises(WorkError, match=f"cannot go from {old.label} to {new.label}"):
            check_transition(old, new)


def test_nothing_comes_back_to_pending_and_only_running_work_succeeds() -> None:
    assert not any(UnitState.PENDING in following for following in TRANSITIONS.values())
    before = {old for old, following in TRANSITIONS.items() if UnitState.SUCCEEDED in following}
    assert before == {UnitState.RUNNING}
