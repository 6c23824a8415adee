"""The engine itself: it finds what is planted, names it, and shows the same again."""

import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from fuzz import mutate
from fuzz.catalogue import TARGETS
from fuzz.engine import Harm, Target, World, fuzz, make_input, run_episode

SPOILT = 37
"""The input that does harm in these tests."""


@dataclass
class Planted(World):
    """A world that one input spoils, at once or for the next check."""

    at_once: bool
    spoilt: bool = False

    async def feed(self, item: object) -> None:
        await trio.sleep(0.1)
        if item == SPOILT and self.at_once:
            raise ZeroDivisionError("planted")
        self.spoilt = self.spoilt or item == SPOILT

    async def check(self) -> None:
        await trio.sleep(0.1)
        if self.spoilt:
            raise Harm("a check has failed")


class Numbers(Target):
    """Inputs are their own numbers, one after the other."""

    name = "numbers"
    about = "nothing"
    episode = 100

    def __init__(self, at_once: bool) -> None:
        self._at_once = at_once
        self._next = iter(range(1 << 20))

    def make(self, chance: random.Random) -> object:
        return int(chance.random() * (1 << 30))

    def world(self) -> AbstractAsyncContextManager[World]:
        @asynccontextmanager
        async def open_world() -> AsyncIterator[World]:
            yield Planted(self._at_once)

        return open_world()


@pytest.mark.parametrize("at_once", [True, False])
def test_the_input_that_did_harm_is_named(at_once, monkeypatch):
    monkeypatch.setattr("fuzz.engine.make_input", lambda target, seed, number: number)
    report = fuzz(Numbers(at_once), 5, 100)
    (failure,) = report.failures
    assert (failure.number, failure.seed) == (SPOILT, 5)
    assert ("ZeroDivisionError" in failure.reason) == at_once
    assert "make fuzz TARGET=numbers SEED=5 INDEX=37" in str(failure)


def test_what_comes_behind_a_harmful_input_is_fed_to_another_world(monkeypatch):
    monkeypatch.setattr("fuzz.engine.make_input", lambda target, seed, number: number % 100)
    report = fuzz(Numbers(at_once=True), 5, 300)
    assert [failure.number for failure in report.failures] == [37, 137, 237]


def test_a_node_that_stands_still_is_found_out(monkeypatch):
    class Still(Planted):
        async def feed(self, item: object) -> None:
            while True:
                pass

    @asynccontextmanager
    async def open_world() -> AsyncIterator[World]:
        yield Still(at_once=True)

    monkeypatch.setattr("fuzz.engine.EPISODE_SECONDS", 0.05)
    target = Numbers(at_once=True)
    monkeypatch.setattr(target, "world", open_world)
    failure = run_episode(target, 1, 0, 10, {})
    assert failure is not None
    assert "StandsStill" in failure.reason


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_follows_from_seed_and_number_alone(name):
    target = TARGETS[name]
    first = [repr(make_input(target, 3, number)) for number in range(20)]
    assert first == [repr(make_input(target, 3, number)) for number in range(20)]
    assert len(set(first)) > 10
    assert first != [repr(make_input(target, 4, number)) for number in range(20)]


def test_values_are_such_as_programs_have_trouble_with():
    chance = random.Random(1)
    texts = {mutate.text(chance) for _ in range(2000)}
    assert any("\ud800" in text for text in texts)
    assert any("\0" in text for text in texts)
    assert any(len(text.encode(errors="surrogatepass")) == 256 for text in texts)
    values = {str(mutate.value(chance)) for _ in range(3000)}
    assert {"NaN", "18446744073709551615", "null", "[]"} <= values
