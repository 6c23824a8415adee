"""Name hashes, against what receptor put on the wire."""

import json
from pathlib import Path

import pytest

from meshnode.protocol.namehash import NameTable, name_hash

VECTORS = json.loads((Path(__file__).parents[2] / "data" / "wire-vectors.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["name_hashes"], ids=lambda v: v["name"][:12] or "empty")
def test_the_hash_of_a_name_is_receptors(vector):
    assert name_hash(vector["name"]).hex() == vector["hash"]


def test_a_table_names_what_it_learnt_and_nothing_else():
    table = NameTable()
    foo = table.learn("foo")
    assert table.name(foo) == "foo"
    assert "foo" in table
    assert table.name(name_hash("bar")) is None
    table.forget("foo")
    assert table.name(foo) is None
    assert "foo" not in table
