"""What is shown of the labels and the load that nodes advertise."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshctl.render.columns import Terminal
from meshctl.render.loads import labels_of, load_of, shown_tag
from meshctl.render.status import status_page
from meshnode.work.placement.load import Load, labels_tag

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
COUNTS = st.dictionaries(st.text(min_size=1, max_size=9), st.integers(1, 10**6), max_size=9)


@given(COUNTS, COUNTS, st.none() | st.integers(0, 99), st.integers(1, 512))
def test_what_a_node_writes_of_its_load_is_read(
    running: dict[str, int], queued: dict[str, int], free: int | None, cpus: int
) -> None:
    tag = Load(running, queued, free, cpus, 0.5, 2**30).to_tag()
    load = load_of({"load": tag})
    assert load is not None
    assert (load.running, load.queued) == (sum(running.values()), sum(queued.values()))
    assert (load.free, load.processors, load.memory) == (free, cpus, 2**30)


@given(st.dictionaries(st.sampled_from(["a", "b.c"]), st.text(max_size=5)))
def test_what_a_node_writes_of_its_labels_is_read(labels: dict[str, str]) -> None:
    assert labels_of({"labels": labels_tag(labels)}) == labels


@given(st.text() | JSON.map(json.dumps) | JSON, st.sampled_from(["load", "labels", "type"]))
def test_any_tag_is_shown_as_something(value: Any, name: str) -> None:
    assert isinstance(shown_tag(name, value, {name: value}), str)


@given(JSON, JSON, JSON)
def test_any_numbers_give_a_load_or_none(units: Any, average: Any, cpus: Any) -> None:
    tag = json.dumps({"units": units, "avg": average, "cpus": cpus})
    load = load_of({"load": tag})
    assert load is None or str(load)


def test_people_see_labels_and_load_in_words() -> None:
    tags = {
        "labels": labels_tag({"gpu": "1", "zone": "a"}),
        "load": Load({"echo": 2}, {"echo": 3}, 1, 8, 0.42, 2**30).to_tag(),
    }
    advert = {"NodeID": "foo", "Service": "control", "ConnType": 1, "Tags": tags}
    page = "\n".join(status_page({"Advertisements": [advert]}, Terminal()))
    assert "labels: gpu=1 zone=a" in page
    assert "load: 2 running 3 queued 1 free load 0.42 of 8 memory 1.0 GiB" in page
