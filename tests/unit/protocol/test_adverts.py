"""Advertisements: the newest wins, a withdrawal stays withdrawn."""

import itertools
from dataclasses import replace

from meshnode.protocol.adverts import (
    ADVERTISEMENT_LIFETIME,
    READ_LATELY,
    READ_LATELY_BYTES,
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


def test_what_each_dial_asks_for_is_read_once_and_few_are_kept_read(monkeypatch):
    table = AdvertisementTable()
    services = [f"s{number}" for number in range(READ_LATELY + 1)]
    for service in services:
        table.apply(advert(1, service=service), raw=advert(1, service=service).encode(), via="peer")
    read = []
    decode = ServiceAdvertisement.decode
    monkeypatch.setattr(ServiceAdvertisement, "decode", lambda raw: read.append(raw) or decode(raw))
    assert {table.find("a", "s0").service for _ in range(100)} == {"s0"}
    assert len(read) == 1
    for service in services[1:]:
        assert table.find("a", service).service == service
    assert table.find("a", "s0").service == "s0"
    assert len(read) == READ_LATELY + 2


def test_a_long_advertisement_is_not_kept_as_it_was_read(monkeypatch):
    table = AdvertisementTable()
    long = replace(advert(1), tags={"tag": "x" * READ_LATELY_BYTES})
    table.apply(long, raw=long.encode(), via="peer")
    first, again = table.find("a", long.service), table.find("a", long.service)
    assert first == again == long
    assert first is not again
