"""Who gives way when there are too many links: whoever has most, and never who was there first."""

import itertools
import resource
from dataclasses import dataclass, field

import hypothesis
import hypothesis.strategies as st
import pytest

from meshnode.mesh.peers import places
from meshnode.mesh.peers.places import KEPT, LinkPlace, LinkPlaces


@dataclass(eq=False)
class Crowd:
    """Links that are opening or up, by who opened them."""

    places: LinkPlaces = field(default_factory=LinkPlaces)
    there: dict[LinkPlace, str] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def open(self, who: str, address: str) -> LinkPlace:
        taken: list[LinkPlace] = []

        def give_way(reason: str) -> None:
            del self.there[taken[0]]
            self.reasons.append(reason)

        taken.append(place := self.places.take(address, give_way))
        self.there[place] = who
        return place

    def link(self, who: str, address: str) -> LinkPlace:
        place = self.open(who, address)
        # It gives way while the pool is told of it, at the earliest.
        self.places.established(place)
        return place

    def leave(self, place: LinkPlace, *, lasted: bool = False) -> None:
        del self.there[place]
        self.places.leave(place, lasted=lasted)

    def who(self) -> list[str]:
        return list(self.there.values())


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(places, "MAX_OPENING", 16)
    monkeypatch.setattr(places, "MAX_LINKS", 16)


STRANGERS = 16 - 16 // KEPT


def test_the_oldest_opening_of_the_largest_holder_gives_way_to_a_newcomer():
    crowd = Crowd()
    crowd.open("honest", "h")
    for number in range(100):
        crowd.open(f"silent {number}", "a")
        assert len(crowd.there) <= STRANGERS
    crowd.open("newcomer", "n")
    left = [f"silent {number}" for number in range(100 - STRANGERS + 2, 100)]
    assert crowd.who() == ["honest", *left, "newcomer"]
    assert set(crowd.reasons) == {"16 handshakes already in progress"}


def test_a_newcomer_finds_a_place_whoever_has_the_others():
    crowd = Crowd()
    for number in range(100):
        crowd.open(f"from everywhere {number}", str(number))
    crowd.open("newcomer", "n")
    assert crowd.who()[-1] == "newcomer"
    assert len(crowd.there) == STRANGERS


def test_the_newest_link_of_the_largest_holder_gives_way():
    crowd = Crowd()
    for number in range(10):
        crowd.link(f"honest {number}", f"h{number}")
    for number in range(100):
        crowd.link(f"flood {number}", "a")
    crowd.link("newcomer", "n")
    honest = [f"honest {number}" for number in range(10)]
    few = [f"flood {number}" for number in range(STRANGERS - 11)]
    assert crowd.who() == [*honest, *few, "newcomer"]
    assert set(crowd.reasons) == {"16 links are up already"}


def test_a_flood_of_links_from_everywhere_ends_none_that_was_there():
    crowd = Crowd()
    for number in range(100):
        crowd.link(str(number), str(number))
    assert crowd.who() == [str(number) for number in range(STRANGERS)]


@pytest.mark.parametrize("up", [False, True])
def test_places_are_kept_for_those_whose_link_has_lasted(up):
    crowd = Crowd()
    take = crowd.link if up else crowd.open
    for number in range(4):
        crowd.leave(crowd.link("neighbour", f"h{number}"), lasted=True)
    for number in range(100):
        take("flood", str(number))
    back = [take("neighbour", "h0"), take("neighbour", "h1")]
    for number in range(100, 200):
        take("flood", str(number))
    assert set(back) <= crowd.there.keys()
    assert len(crowd.there) == 16


def test_kept_places_are_shared_among_those_that_have_a_right_to_them():
    crowd = Crowd()
    for address in ("greedy", "h"):
        crowd.leave(crowd.link("some", address), lasted=True)
    for _ in range(100):
        crowd.open("greedy", "greedy")
    crowd.open("neighbour", "h")
    assert crowd.who() == ["greedy"] * 15 + ["neighbour"]


def test_what_has_lasted_is_remembered_of_a_bounded_number_of_addresses(monkeypatch):
    monkeypatch.setattr(places, "REMEMBERED", 3)
    crowd = Crowd()
    for address in ("a", "b", "c", "a", "d"):
        crowd.leave(crowd.link("some", address), lasted=True)
    assert list(crowd.places._lasted) == ["c", "a", "d"]


def test_places_are_no_more_than_a_share_of_the_descriptors(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (40, 40))
    crowd = Crowd()
    for _ in range(100):
        crowd.open("one", "a")
    assert crowd.places.opening == 40 // places.OPENING_DESCRIPTORS
    for _ in range(100):
        crowd.link("one", "a")
    assert crowd.places.up <= 40 // places.LINK_DESCRIPTORS


STEPS = st.lists(
    st.tuples(st.sampled_from(["open", "up", "leave", "lasted"]), st.integers(0, 20)), max_size=80
)


@hypothesis.given(STEPS, st.lists(st.sampled_from("abcd"), min_size=1))
def test_whatever_happens_the_places_are_bounded_and_counted(steps, addresses):
    crowd = Crowd()
    up: set[LinkPlace] = set()
    address = itertools.cycle(addresses)
    for step, number in steps:
        there = [*crowd.there]
        if step == "open":
            newcomer = crowd.open("somebody", next(address))
            assert newcomer in crowd.there
        elif there:
            place = there[number % len(there)]
            if step == "up" and place not in up:
                up.add(place)
                crowd.places.established(place)
            elif step in ("leave", "lasted"):
                crowd.leave(place, lasted=step == "lasted")
        up &= crowd.there.keys()
        assert crowd.places.up == len(up) <= 16
        assert crowd.places.opening == len(crowd.there) - len(up) <= 16
