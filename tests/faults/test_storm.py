"""Storms of faults. ``make faults SEED=7 UNITS=500`` replays one; without, see the Makefile."""

import os

import pytest
import trio
from harness import Cluster
from plan import make_plan
from storm import Storm
from verdict import check_nothing_is_left, judge

SEEDS = [int(word) for word in os.environ.get("FAULTS_SEEDS", "1").split()]
UNITS = int(os.environ.get("FAULTS_UNITS", "60"))


@pytest.mark.parametrize("seed", SEEDS)
async def test_after_a_storm_every_unit_has_ended_ran_at_most_once_and_lost_nothing(
    cluster: Cluster, seed: int
) -> None:
    storm = Storm(cluster, make_plan(seed, UNITS))
    async with trio.open_nursery() as nursery:
        await nursery.start(storm.run)
        ends = await judge(storm)
        await check_nothing_is_left(storm, cluster.mark)
        nursery.cancel_scope.cancel()
    summary = "\n".join(f"{count:6} {end}" for end, count in ends.most_common())
    print(f"seed {seed}, {UNITS} units, {len(storm.plan.faults)} faults:\n{summary}")
    assert sum(ends.values()) == UNITS


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_stands_for_one_storm(seed: int) -> None:
    assert make_plan(seed, 20) == make_plan(seed, 20)
    assert make_plan(seed, 20) != make_plan(seed + 1, 20)
