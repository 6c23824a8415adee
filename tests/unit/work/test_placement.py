"""Which node a unit goes to: labels, load, and the words for why there is none."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.errors import CommandError
from meshnode.work.placement.choice import Candidate, Choice, NoneFits, choose
from meshnode.work.placement.load import Load, labels_tag, read_labels, read_load
from meshnode.work.units.jobsettings import WORDS_OF_KEYS
from meshnode.work.units.placement import (
    Placement,
    Rule,
    Selector,
    parse_placement,
    parse_selector,
    selectors_text,
)

NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,10}[A-Za-z0-9])?", fullmatch=True)
VALUES = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters=",")
).filter(lambda value: not value.startswith("="))
SELECTORS = st.builds(Selector, NAMES, st.none() | VALUES, st.booleans())
COUNTS = st.dictionaries(st.text(max_size=8), st.integers(1, 1000), max_size=5)
LOADS = st.builds(
    Load,
    COUNTS,
    COUNTS,
    st.none() | st.integers(0, 1000),
    st.integers(1, 1000),
    st.floats(0, 1000).map(lambda value: round(value, 2)),
    st.integers(0, 2**63 - 1),
)


def first(candidates):
    return candidates[0]


def any_node(name: str, *types: str, **more) -> Candidate:
    return Candidate(name, set(types), **more)


# --- what is sent and read ------------------------------------------------------------------------


@given(st.sampled_from(Rule), st.lists(SELECTORS, max_size=16))
def test_what_a_submission_says_is_read_as_it_was_meant(rule, selectors):
    placement = parse_placement(str(rule), selectors_text(selectors))
    assert placement == Placement(rule, tuple(selectors))


@pytest.mark.parametrize(
    "text", ["", "=1", "!=1", "!gpu=1", "g pu", "gpu=a\nb", "a,", "!", "!!a", "gpu==1"]
)
def test_what_chooses_no_nodes_is_refused_with_how_to_write_it(text):
    with pytest.raises(CommandError, match="NAME!=VALUE"):
        parse_selector(text)


def test_an_unknown_rule_is_refused_with_those_that_there_are():
    with pytest.raises(CommandError, match="must be one of any, random, least"):
        parse_placement("best", "")


@given(LOADS)
def test_a_load_is_read_as_it_was_told(load):
    assert read_load(load.to_tag()) == load


@given(st.text() | st.sampled_from(["[]", "1", '{"units":{"a":[-1,2]},"avg":1e999,"cpus":0}']))
def test_any_text_is_a_load_or_none(text):
    load = read_load(text)
    assert load is None or (load.processors >= 1 and load.per_processor >= 0)


@given(st.dictionaries(NAMES, VALUES, max_size=16))
def test_labels_are_read_as_they_were_told(labels):
    assert dict(read_labels(labels_tag(labels))) == labels


@given(st.text())
def test_any_text_has_labels_or_none(text):
    assert all(isinstance(value, str) for value in read_labels(text).values())


# --- the choice -----------------------------------------------------------------------------------


def test_the_words_for_no_node_say_which_rule_excludes_how_many():
    nodes = [any_node(f"n{i}", "render") for i in range(9)]
    nodes += [any_node(f"g{i}", "test", labels={"gpu": "1"}) for i in range(3)]
    chosen = choose(parse_placement("least", "gpu"), "render", nodes, first)
    assert chosen == NoneFits("0 of 12 nodes: 9 lack label gpu, 3 lack work type render")


def test_a_node_that_could_not_be_reached_is_passed_over():
    nodes = [any_node("a", "render", cost=1), any_node("b", "render", cost=2)]
    placement = parse_placement("any", "")
    assert choose(placement, "render", nodes, first, {"a"}) == Choice("b", "nearest of 1 that fit")
    none = choose(placement, "render", nodes, first, {"a", "b"})
    assert none == NoneFits("0 of 2 nodes: 2 could not be reached")


@given(
    st.lists(st.frozensets(st.sampled_from(sorted(WORDS_OF_KEYS))), min_size=1, max_size=6),
    st.sets(st.sampled_from(sorted(WORDS_OF_KEYS))),
    st.sampled_from(Rule),
)
def test_a_node_that_would_not_know_what_a_job_is_given_is_never_chosen(taken, given_, rule):
    nodes = [any_node(str(number), "t", takes=keys) for number, keys in enumerate(taken)]
    needs = {key: WORDS_OF_KEYS[key] for key in given_}
    found = choose(Placement(rule, ()), "t", nodes, first, needs=needs)
    fit = [node.node for node in nodes if given_ <= node.takes]
    if isinstance(found, Choice):
        assert found.node in fit
    else:
        assert not fit
        assert "take" in found.reason
        assert found.reason.startswith(f"0 of {len(nodes)} node")


def test_the_words_for_no_node_say_what_nodes_would_not_know():
    takes_some = [any_node(name, "t", takes={"jobcwd"}) for name in "ab"]
    needs = {"jobarguments": "arguments", "jobcwd": "working directory"}
    found = choose(
        parse_placement("any", ""), "t", [*takes_some, any_node("c")], first, set(), needs
    )
    assert found == NoneFits("0 of 3 nodes: 2 take no arguments, 1 lacks work type t")


def test_labels_admit_as_in_kubernetes():
    admits = {
        text: [parse_selector(text).admits(labels) for labels in ({"z": "a"}, {"z": "b"}, {})]
        for text in ("z=a", "z!=a", "z", "!z")
    }
    assert admits == {
        "z=a": [True, False, False],
        "z!=a": [False, True, True],
        "z": [True, True, False],
        "!z": [False, False, True],
    }


def test_of_equally_many_units_the_calmer_node_is_chosen():
    nodes = [
        any_node("a", "t", load=Load({"t": 1}, processors=1, average=0.9)),
        any_node("b", "t", load=Load({"t": 1}, processors=8, average=0.9)),
    ]
    assert choose(parse_placement("least", ""), "t", nodes, first).node == "b"


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 60))
def test_a_burst_spreads_although_no_node_has_told_of_it_yet(loads, burst):
    placed = Counter()
    for _ in range(burst):
        nodes = [
            any_node(f"n{i}", "t", load=Load({"t": load}), own=placed[i], placed=placed[i])
            for i, load in enumerate(loads)
        ]
        placed[int(choose(parse_placement("least", ""), "t", nodes, first).node[1:])] += 1
    busy = [load + placed[i] for i, load in enumerate(loads)]
    # Nobody has more than one above another, but for what it had before.
    assert all(busy[i] <= max(min(busy) + 1, load) for i, load in enumerate(loads))


def test_random_reaches_every_node_that_fits_and_no_other():
    nodes = [any_node(name, "t") for name in "abc"] + [any_node("x", "other")]
    chance = random.Random(7)
    chosen = {
        choose(parse_placement("random", ""), "t", nodes, chance.choice).node for _ in range(200)
    }
    assert chosen == {"a", "b", "c"}
