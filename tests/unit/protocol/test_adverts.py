"""Advertisements: the newest wins, a withdrawal stays withdrawn."""

import itertools

from meshnode.protocol.adverts import ADVERTISEMENT_LIFETIME, AdvertisementTable
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


def test_the_very_message_is_known_until_a_newer_one_comes():
    table = AdvertisementTable()
    first, second = advert(1).encode() + b" ", advert(2).encode()
    assert not table.is_known(first)
    table.apply(advert(1), 0.0, first)
    assert table.is_known(first)
    assert list(table.messages()) == [("a", first)]
    table.apply(advert(2), 0.0, second)
    assert not table.is_known(first)
    assert table.is_known(second)


def test_a_service_that_is_not_repeated_goes():
    table = AdvertisementTable()
    table.apply(advert(1), now=0.0)
    table.apply(advert(1, service="other"), now=50.0)
    table.expire(ADVERTISEMENT_LIFETIME)
    assert [a.service for a in table] == ["other"]


def test_a_withdrawal_outlives_the_services_and_goes_with_its_node():
    table = AdvertisementTable()
    table.apply(advert(5, cancel=True), now=0.0)
    table.expire(10 * ADVERTISEMENT_LIFETIME)
    assert not table.apply(advert(1))
    assert list(table.messages()) == []
    assert table.nodes() == {"a"}
    table.forget_node("a")
    assert table.nodes() == set()
    assert table.apply(advert(1))
