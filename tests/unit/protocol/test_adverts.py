"""Advertisements: the newest wins, a withdrawal stays withdrawn."""

import itertools

from meshnode.protocol.adverts import AdvertisementTable
from meshnode.protocol.messages import ServiceAdvertisement


def advert(second, *, cancel=False, node="a", service="control"):
    return ServiceAdvertisement(node, service, f"2026-11-21T00:00:{second:02}Z", 1, cancel=cancel)


def test_any_order_of_arrival_ends_with_the_newest():
    story = [advert(1), advert(2), advert(3, cancel=True)]
    for order in itertools.permutations(story):
        table = AdvertisementTable()
        for item in order:
            table.apply(item)
        assert table.find("a", "control") is None
        assert len(table) == 0


def test_only_news_is_passed_on():
    table = AdvertisementTable()
    assert table.apply(advert(2))
    assert not table.apply(advert(2))
    assert not table.apply(advert(1))
    assert table.apply(advert(3))
    assert list(table) == [advert(3)]


def test_a_service_can_come_back_after_its_withdrawal():
    table = AdvertisementTable()
    table.apply(advert(1, cancel=True))
    assert table.apply(advert(2))
    assert table.find("a", "control") == advert(2)


def test_services_of_gone_nodes_are_forgotten():
    table = AdvertisementTable()
    for node in "ab":
        table.apply(advert(1, node=node))
    table.keep_nodes({"b"})
    assert [a.node_id for a in table] == ["b"]
    assert table.apply(advert(1, node="a"))
