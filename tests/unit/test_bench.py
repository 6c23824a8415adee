"""The benchmarks run and report; what they measure is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _bench_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def test_a_table_has_its_figures_to_the_right_with_three_digits():
    from bench.report import Table

    table = Table(
        "T", ("what", "n = 50"), [("cost, µs", 1234.5678), ("share", 0.0123456), ("-", 0)]
    )
    assert table.lines() == [
        "T",
        "what      n = 50",
        "cost, µs   1,235",
        "share     0.0123",
        "-              0",
    ]


def test_growth_is_the_power_from_the_first_size_to_the_last():
    from bench.report import growth

    assert growth([10, 50, 100], [2, 9, 200]) == "n^2.0"
    assert growth([10, 100], [5, 5]) == "n^0.0"
    assert growth([10, 100], [0, 5]) == "-"
    assert growth([10], [5]) == "-"


def test_a_run_of_one_scenario_leaves_the_figures_of_others_of_that_day(tmp_path):
    from bench.__main__ import save

    save(tmp_path, {"one": {"x": 1}, "two": {"x": 1}})
    file = save(tmp_path, {"two": {"x": 2}})
    known = json.loads(file.read_text())
    assert known["scenarios"] == {"one": {"x": 1}, "two": {"x": 2}}
    assert known["machine"]["cores"] >= 1


def test_the_scale_scenario_measures_a_small_mesh():
    from bench.scenarios.scale import ROWS, measure

    figures = measure(10, 20)
    assert {key for _, key in ROWS} <= figures.keys()
    assert figures["edges"] == 2 * (20 - 1)  # both ways, after one cut
    assert all(value >= 0 for value in figures.values())


def test_an_unknown_scenario_is_refused_by_name(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--only", "nosuch", "--results", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no scenario 'nosuch'" in done.stderr
    assert not list(tmp_path.iterdir())
