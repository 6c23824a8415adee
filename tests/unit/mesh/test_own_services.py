"""What a node says of its own services is what every other node takes."""

import hypothesis.strategies as st
import trio
from hostile.anything import ANY_TEXT
from hypothesis import given

from meshnode.mesh.peers.own_services import Announcer, LocalService
from meshnode.protocol.adverts import AdvertisementTable
from meshnode.protocol.fields import MAX_ADVERTISEMENT
from meshnode.protocol.routing import ConnType, ServiceAdvertisement, WorkType


def said_of(service: LocalService) -> ServiceAdvertisement:
    """Return what a node tells others of a service, as they read it."""
    flooded: list[bytes] = []

    async def add() -> None:
        await trio.lowlevel.checkpoint()
        Announcer("foo", AdvertisementTable(), flooded.append).add(service)

    trio.run(add)
    (message,) = flooded
    assert len(message) <= MAX_ADVERTISEMENT
    return ServiceAdvertisement.decode(message)


WORK_TYPES = st.one_of(
    st.lists(st.builds(WorkType, st.text("abc-ü", max_size=60), st.booleans())),
    st.integers(0, 2000).map(lambda count: [WorkType(f"type-{n}", True) for n in range(count)]),
)


@given(st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=6), WORK_TYPES)
def test_whatever_tags_and_work_types_a_service_has_others_take_what_is_said_of_it(tags, types):
    advert = said_of(LocalService("svc", ConnType.STREAM, tags, tuple(types)))
    assert (advert.node_id, advert.service, advert.conn_type) == ("foo", "svc", ConnType.STREAM)
    assert advert.work_types == tuple(types)[: len(advert.work_types or ())]


def test_what_fits_is_said_as_it_is():
    tags = {"type": "Unix Proxy", "filename": "/tmp/sögk"}
    types = tuple(WorkType(f"work-type-{number}", False) for number in range(300))
    advert = said_of(LocalService("svc", ConnType.STREAM, tags, types))
    assert (advert.tags, advert.work_types) == (tags, types)


def test_a_path_that_is_not_text_is_said_as_far_as_it_is(caplog):
    tags = {"filename": "/tmp/\udcff\n" + "x" * 5000}
    advert = said_of(LocalService("svc", ConnType.STREAM, tags))
    assert advert.tags["filename"] == "/tmp/??" + "x" * 4089
    assert not caplog.messages


def test_who_runs_the_node_is_told_how_many_work_types_did_not_fit(caplog):
    types = tuple(WorkType(f"work-type-{number}", False) for number in range(1000))
    advert = said_of(LocalService("control", ConnType.STREAM, {"type": "x"}, types))
    left = len(types) - len(advert.work_types)
    assert 0 < left < 700
    (line,) = caplog.messages
    assert f"{left} of 1000 work types" in line


def test_of_very_many_tags_as_many_are_said_as_fit(caplog):
    tags = {"type": "IP Router"} | {
        f"route_{n}": f"10.{n // 256}.{n % 256}.0/24" for n in range(2000)
    }
    advert = said_of(LocalService("ip", ConnType.DATAGRAM, tags))
    assert list(tags.items())[: len(advert.tags)] == list(advert.tags.items())
    assert len(advert.tags) > 400
    (line,) = caplog.messages
    assert f"{len(tags) - len(advert.tags)} of {len(tags)} tags" in line
