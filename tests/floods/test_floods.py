"""Each flood for a moment, against real nodes; ``make floods`` has more of each, and measures."""

import pytest
from harness import PATIENCE, Cluster

from bench.processes import forget_peak, peak, resident
from floods.catalogue import FLOODS
from floods.probes import echo, operator, ping
from floods.scene import Scene
from floods.table import AMPLIFICATION, MEMORY, MIB, STORED

SECONDS = (1.0, 30.0)
"""How long each flood lasts; the nodes take as long to start. On a busy machine the time may be
over before the attacker has come to it: then it has more."""


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_leaves_node_work_and_honest_links_as_they_were(cluster: Cluster, name: str):
    flood = FLOODS[name]
    scene = Scene(cluster, small=True)
    scene.start()
    idle = resident(scene.victim.pid)
    forget_peak(scene.victim.pid)
    for seconds in SECONDS:
        with scene.attacked(flood, seconds, few=True) as attacker:
            echo(scene.left, "victim", PATIENCE)
            sent = attacker.wait()
        if sent.links + sent.messages and scene.victim.find_log(flood.seen):
            break
    if flood.seen:
        scene.victim.wait_log(flood.seen)
    scene.left.wait_knows("victim")
    ping(scene.left, "victim", PATIENCE)
    echo(scene.left, "victim", PATIENCE)
    way = scene.victim.socket if flood.operator == "unix" else scene.target.control_port
    operator(way, PATIENCE)
    assert sent.links + sent.messages > 0
    assert scene.links_lost() == 0
    assert (peak(scene.victim.pid) - idle) / MIB <= MEMORY / MIB
    assert sent.extra.get("amplification", 0) <= AMPLIFICATION
    assert scene.stored() <= STORED


def test_a_lost_link_and_a_silent_node_are_noticed(cluster: Cluster):
    scene = Scene(cluster, small=True)
    scene.start()
    assert scene.links_lost() == 0
    scene.victim.kill()
    scene.left.wait_log(r"closed \(victim\)")
    assert scene.links_lost() == 1
    with pytest.raises((AssertionError, OSError)):
        ping(scene.left, "victim")
    with pytest.raises(OSError, match="refused"):
        operator(scene.target.control_port)
