"""What is told of links: once, and again when it is news."""

import logging

import trio

from meshnode.mesh.peers.ending import REMEMBERED, REPEATED_AFTER, Ended, LinkLog, RepeatFilter


def lines(caplog) -> list[tuple[str, str]]:
    found = [(r.levelname, r.getMessage().split(": ", 1)[1]) for r in caplog.records]
    caplog.clear()
    return found


async def test_the_same_complaint_is_told_once_an_hour(autojump_clock):
    repeats = RepeatFilter()
    told = 0
    for _ in range(int(2.5 * REPEATED_AFTER / 20)):
        told += repeats.is_news("bar", "it was refused")
        await trio.sleep(20)
    assert told == 3


async def test_other_reasons_and_others_are_told(autojump_clock):
    repeats = RepeatFilter()
    assert repeats.is_news("bar", "one reason")
    assert repeats.is_news("bar", "another")
    assert repeats.is_news("baz", "one reason")
    assert not repeats.is_news("bar", "one reason")


async def test_what_has_lasted_is_told_anew_when_it_fails(autojump_clock):
    repeats = RepeatFilter()
    repeats.is_news("bar", "away")
    repeats.is_news("baz", "away")
    repeats.reset("bar")
    assert repeats.is_news("bar", "away")
    assert not repeats.is_news("baz", "away")


async def test_a_flood_of_reasons_takes_no_memory(autojump_clock):
    repeats = RepeatFilter()
    for number in range(10 * REMEMBERED):
        assert repeats.is_news(str(number), "x" * 10_000)
    assert len(repeats._logged) == REMEMBERED
    assert all(len(reason) < 1000 for _, reason in repeats._logged)


async def test_how_a_link_ends_says_how_loud_it_is_told(caplog):
    caplog.set_level(logging.DEBUG, "meshnode")
    repeats = RepeatFilter()

    def end(peer: str, reason: str, *, lasted: bool = False, **how: bool) -> list[tuple[str, str]]:
        LinkLog("tcp a", "10.0.0.7", repeats).ended(peer, Ended(reason, **how), lasted=lasted)
        return lines(caplog)

    assert end("bar", "it went", lasted=True) == [("INFO", "closed (bar): it went")]
    assert end("bar", "it lied", lasted=True, fault=True) == [("WARNING", "closed (bar): it lied")]
    assert end("bar", "it lied", fault=True) == [("WARNING", "closed (bar): it lied")]
    assert end("bar", "it lied", fault=True) == [("DEBUG", "closed again (bar): it lied")]
    assert end("", "silent") == [("WARNING", "closed (peer unknown): silent")]
    assert end("", "silent") == [("DEBUG", "closed again (peer unknown): silent")]
    assert end("", "full", is_logged=True) == [("DEBUG", "closed again (peer unknown): full")]
