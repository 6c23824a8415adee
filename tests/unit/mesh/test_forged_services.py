"""What others say in a node's name: the last word is the node's own."""

import time

import hypothesis
import hypothesis.strategies as st
import trio
import trio.testing
from mesh_helpers import line, meshes
from stranger import EPOCH, stranger

from meshnode.mesh.peers.own_services import ADVERTISE_INTERVAL, ANSWER_INTERVAL, WITHDRAWN_AT_ONCE
from meshnode.mesh.peers.routes import FORGET_INTERVAL
from meshnode.protocol.adverts import RENEWED_WITHIN
from meshnode.protocol.routing import ServiceAdvertisement
from meshnode.protocol.times import (
    CLOCK_AHEAD,
    FIRST_TIME,
    LAST_TIME,
    SECOND,
    format_time,
    latest_believed,
    parse_time,
)

YEAR = 365 * 86_400 * SECOND


def run(scene, *arguments):
    """Run one example of a property in a mesh whose time is simulated."""
    trio.run(scene, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))


def services(mesh, node):
    return {a.service for a in mesh.status().advertisements if a.node_id == node}


TIMES = st.one_of(
    st.integers(FIRST_TIME, LAST_TIME),
    # About now, and about the latest time that is believed.
    st.integers(-YEAR, YEAR).map(lambda off: time.time_ns() + off),
    st.integers(-60 * SECOND, 60 * SECOND).map(lambda off: time.time_ns() + CLOCK_AHEAD + off),
    st.sampled_from([FIRST_TIME, 0, LAST_TIME]),
)

FORGED = st.builds(
    lambda service, nanoseconds, cancel, offset: ServiceAdvertisement(
        "foo",
        service,
        format_time(nanoseconds).removesuffix("Z") + offset,
        1,
        {"type": "forged"},
        cancel=cancel,
    ),
    st.sampled_from(["real", "gone", "other"]),
    TIMES,
    st.booleans(),
    st.sampled_from(["Z", "+00:00", "+14:00", "-23:59"]),
)


@hypothesis.settings(max_examples=40)
@hypothesis.given(st.lists(FORGED, min_size=1, max_size=12))
def test_whatever_is_advertised_in_a_nodes_name_its_own_word_is_the_last(forged):
    async def scene():
        async with line("foo", "bar") as (foo, bar), stranger(bar) as other:
            await foo.listen("real")
            closing = await foo.listen("gone")
            await closing.aclose()
            for advert in forged:
                await other.say(advert)
                await trio.sleep(0.1)
            # Once for what is newer than what foo said; a minute later for what bar only counts as
            # newer because its clock is ahead of foo's by the time that a message takes.
            await trio.sleep(len(forged) * ANSWER_INTERVAL + ADVERTISE_INTERVAL)
            for mesh in (foo, bar):
                assert services(mesh, "foo") == {"real"}
                (advert,) = mesh.status().advertisements
                assert advert.tags != {"type": "forged"}
                assert len(advert.time) == len("2026-01-01T00:00:00.000000000Z")

    run(scene)


async def test_what_is_dated_beyond_belief_is_neither_kept_nor_passed_on(autojump_clock, caplog):
    async with (
        line("foo", "bar", "baz") as (foo, bar, baz),
        stranger(bar) as other,
        stranger(baz, "witness") as witness,
    ):
        await foo.listen("svc")
        await trio.sleep(1)
        witness.heard.clear()
        beyond = format_time(latest_believed(time.time_ns()) + YEAR)
        for cancel in (False, True):
            for node in ("foo", "nobody"):
                await other.say(ServiceAdvertisement(node, "svc", beyond, 1, cancel=cancel))
        await trio.sleep(1)
        assert witness.adverts == []
        assert services(baz, "foo") == {"svc"}
        assert f"it is dated {beyond}" in caplog.text


async def test_a_service_that_somebody_withdrew_in_our_name_is_back_at_once(autojump_clock):
    async with line("foo", "bar", "baz") as (foo, bar, baz), stranger(bar) as other:
        await foo.listen("svc")
        await trio.sleep(1)
        later = format_time(time.time_ns() + YEAR)
        await other.say(ServiceAdvertisement("foo", "svc", later, 1, cancel=True))
        await trio.sleep(0.01)
        assert services(baz, "foo") == {"svc"}
        assert baz._link_state.adverts.find("foo", "svc").nanoseconds == parse_time(later) + 1


async def test_a_clock_that_is_behind_is_no_help_against_the_owner(autojump_clock, monkeypatch):
    now = time.time_ns()
    async with line("foo", "bar") as (foo, bar), stranger(bar) as other:
        monkeypatch.setattr("meshnode.mesh.peers.own_services.time.time_ns", lambda: now - YEAR)
        await foo.listen("svc")
        forged = ServiceAdvertisement("foo", "svc", format_time(now), 0, {"type": "forged"})
        await other.say(forged)
        await trio.sleep(0.01)
        (advert,) = bar.status().advertisements
        assert advert.nanoseconds > now
        assert advert.conn_type == 1


async def test_however_much_is_said_in_our_name_we_answer_at_a_bounded_rate(autojump_clock):
    async with meshes("foo") as (foo,), stranger(foo) as other:
        await foo.listen("svc")
        await trio.sleep(1)
        other.heard.clear()
        start = trio.current_time()
        for number in range(1000):
            later = format_time(time.time_ns() + number * SECOND)
            await other.say(
                ServiceAdvertisement("foo", "svc", later, 1, cancel=True),
                ServiceAdvertisement("foo", f"s{number:03}", later, 1),
            )
            await trio.sleep(0.02)
        rounds = (trio.current_time() - start) / ANSWER_INTERVAL + 1
        answers = [a for a in other.adverts if a.node_id == "foo"]
        assert rounds / 2 < len(answers) <= rounds * (1 + WITHDRAWN_AT_ONCE)


async def test_services_stay_known_while_somebody_invents_new_lives_of_their_node(autojump_clock):
    async with meshes("bar") as (bar,), stranger(bar, "owner") as owner, stranger(bar) as other:
        date = time.time_ns()
        await owner.say(ServiceAdvertisement("owner", "svc", format_time(date), 1))
        await trio.sleep(1)
        for life in range(10):
            await other.say(other.update("owner", {}, epoch=EPOCH + (life << 24) + 1))
            # Also if the clock of a new life had been set back.
            date -= YEAR
            for _ in range(2):
                assert bar._link_state.adverts.find("owner", "svc") is not None
                await trio.sleep(ADVERTISE_INTERVAL / 2)
            await owner.say(ServiceAdvertisement("owner", "svc", format_time(date), 1))


async def test_what_a_former_life_offered_and_this_one_does_not_goes(autojump_clock):
    async with meshes("bar") as (bar,), stranger(bar, "owner") as owner:
        now = time.time_ns()
        await owner.say(
            ServiceAdvertisement("owner", "old", format_time(now), 1),
            ServiceAdvertisement("owner", "kept", format_time(now), 1),
        )
        await trio.sleep(1)
        await owner.say(owner.update("owner", {"bar": 1.0}, epoch=1_900_000_000 << 24))
        earlier = format_time(now - YEAR)
        await owner.say(ServiceAdvertisement("owner", "kept", earlier, 1))
        await trio.sleep(RENEWED_WITHIN + FORGET_INTERVAL)
        assert bar._link_state.adverts.find("owner", "old") is None
        assert bar._link_state.adverts.find("owner", "kept").time == earlier
