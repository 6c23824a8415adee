"""Storms of faults. ``make faults FLAVOUR=line SEED=7 UNITS=500`` has one of them again."""

import os

import pytest
import sshd
import trio
from disks import AS_ROOT, why_no_mounts
from harness import Cluster
from leavings import Leavings
from plan import FAULTS, FLAVOURS, FaultKind, make_plan
from scene import Scene
from storm import Storm
from verdict import Verdict

SEEDS = [int(word) for word in os.environ.get("FAULTS_SEEDS", "1").split()]
UNITS = int(os.environ.get("FAULTS_UNITS", "40"))
CHOSEN = os.environ.get("FAULTS_FLAVOURS", "").split() or list(FLAVOURS)

ONLY = {word.strip() for word in os.environ.get("FAULTS_KINDS", "").split(",")} - {""}
"""The kinds of faults that a storm may have; empty for all but the awaited."""

PATIENCE = max(600, UNITS * 10)
"""Seconds for a storm: a unit that does not end is to be told of, and not cut off."""


def kinds_of_faults() -> set[FaultKind]:
    """Return what a storm may do here; say what it may not, and why."""
    kinds = {kind for kind in FAULTS if kind in ONLY or not ONLY}
    if reason := why_no_mounts():
        print(f"no disk is filled: {reason}")
        kinds.discard("fill disk")
    if reason := why_no_mounts(AS_ROOT):
        print(f"no disk of a host is filled: {reason}")
        kinds.discard("fill host")
    return kinds


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CHOSEN)
async def test_after_a_storm_every_unit_has_ended_ran_at_most_once_and_lost_nothing(
    cluster: Cluster, name: str, seed: int
) -> None:
    if FLAVOURS[name].hosts and (reason := sshd.reason_against()):
        pytest.skip(reason)
    kinds = kinds_of_faults() & FLAVOURS[name].kinds
    plan = make_plan(FLAVOURS[name], seed, UNITS, sorted(kinds))
    print(f"make faults FLAVOUR={name} SEED={seed} UNITS={UNITS}: {len(plan.faults)} faults")
    scene = Scene(cluster, plan, fills=kinds)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(Storm(scene).run)
            verdict = Verdict(scene)
            ends = await verdict.judge()
            await Leavings(scene, verdict).check()
            nursery.cancel_scope.cancel()
    finally:
        print(scene.tally())
        scene.close()
    print("\n".join(f"{count:6} {end}" for end, count in ends.most_common()))
    assert sum(ends.values()) == UNITS


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_stands_for_one_storm(seed: int) -> None:
    for flavour in FLAVOURS.values():
        plan = make_plan(flavour, seed, 20, list(FAULTS))
        assert make_plan(flavour, seed, 20, list(FAULTS)) == plan
        assert make_plan(flavour, seed + 1, 20, list(FAULTS)) != plan
