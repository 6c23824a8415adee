"""Since when nodes are away."""

from meshnode.protocol.budget import FORGET_AFTER, GONE_AFTER, Absences


def test_a_node_is_overdue_when_it_was_away_all_the_time():
    absences = Absences()
    absences.note("ab", "a", now=100.0)
    absences.note("ab", "a", now=200.0)
    assert absences.overdue(100.0 + FORGET_AFTER - 1) == []
    assert absences.overdue(100.0 + FORGET_AFTER) == ["b"]


def test_a_node_that_came_back_starts_anew():
    absences = Absences()
    absences.note("b", "", now=0.0)
    absences.note("b", "b", now=FORGET_AFTER - 1)
    absences.note("b", "", now=FORGET_AFTER)
    assert absences.overdue(FORGET_AFTER + 1) == []


def test_a_node_counts_as_gone_after_a_while_and_a_present_or_unknown_one_never():
    absences = Absences()
    absences.note("ab", "a", now=0.0)
    assert not absences.is_gone("b", GONE_AFTER - 1)
    assert absences.is_gone("b", GONE_AFTER)
    assert not absences.is_gone("a", GONE_AFTER)
    assert not absences.is_gone("c", GONE_AFTER)


def test_what_nobody_knows_any_more_is_dropped():
    absences = Absences()
    absences.note("b", "", now=0.0)
    absences.note("", "", now=1.0)
    assert absences.overdue(2 * FORGET_AFTER) == []
