"""Advertisements: the newest wins, a withdrawal stays withdrawn."""

import itertools

from meshnode.protocol.adverts import (
    ADVERTISEMENT_LIFETIME,
    RENEWED_WITHIN,
    WITHDRAWAL_LIFETIME,
    AdvertisementTable,
)
from meshnode.protocol.routing import ServiceAdvertisement


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
    table.forget_node("a")
    assert [a.node_id for a in table] == ["b"]
    assert table.apply(advert(1, node="a"))


def test_the_very_message_is_known_until_a_newer_one_comes():
    table = AdvertisementTable()
    first, second = advert(1).encode() + b" ", advert(2).encode()
    assert not table.is_known(first)
    table.apply(advert(1), 0.0, first)
    assert table.is_known(first)
    assert list(table.messages("a")) == [first]
    table.apply(advert(2), 0.0, second)
    assert not table.is_known(first)
    assert table.is_known(second)


def test_a_service_that_is_not_repeated_goes():
    table = AdvertisementTable()
    table.apply(advert(1), now=0.0)
    table.apply(advert(1, service="other"), now=50.0)
    table.expire(ADVERTISEMENT_LIFETIME)
    assert [a.service for a in table] == ["other"]


def test_a_withdrawal_outlives_the_services_and_then_goes_too():
    table = AdvertisementTable()
    table.apply(advert(5, cancel=True), now=0.0)
    table.expire(WITHDRAWAL_LIFETIME - 1)
    assert not table.apply(advert(1))
    assert list(table.messages("a")) == []
    assert list(table.nodes) == ["a"]
    table.expire(WITHDRAWAL_LIFETIME)
    assert not table.nodes
    assert table.apply(advert(1))


def test_a_withdrawal_goes_with_its_node():
    table = AdvertisementTable()
    table.apply(advert(5, cancel=True))
    table.forget_node("a")
    assert not table.nodes
    assert table.apply(advert(1))


def test_of_a_new_life_any_word_counts_and_what_it_does_not_say_again_goes():
    table = AdvertisementTable()
    table.apply(advert(5), now=0.0)
    table.apply(advert(5, service="old"), now=0.0)
    table.apply(advert(5, node="b"), now=0.0)
    table.begin_anew("a", now=10.0)
    assert len(table) == 3
    assert table.apply(advert(1), now=20.0)
    assert not table.apply(advert(1), now=20.0)
    assert not table.apply(advert(1, node="b"), now=20.0)
    table.expire(10.0 + RENEWED_WITHIN)
    assert {(a.node_id, a.service) for a in table} == {("a", "control"), ("b", "control")}


class CountingServices(dict):
    """Counts how often the services of a node are looked at."""

    looks = 0

    def values(self):
        CountingServices.looks += len(self)
        return super().values()


def test_forgetting_a_node_looks_at_nothing_but_what_is_forgotten():
    table = AdvertisementTable()
    for number in range(2000):
        for service in "xy":
            table.apply(advert(1, cancel=True, node=f"n{number}", service=service))
    for record in table._nodes.values():
        record.services = CountingServices(record.services)
    for number in range(2000):
        table.forget_node(f"n{number}")
    assert CountingServices.looks == 2 * 2000
    assert not table.nodes
    assert not table._raw
