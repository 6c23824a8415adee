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


# --- rows ---------------------------------------------------------------------------------------


def row(**changes):
    from bench.rows import Row, Target

    known = {"name": "r", "unit": "ms", "values": [4, 6, 20], "target": Target(2.5)}
    return Row(**known | changes)


def test_a_ratio_is_the_median_of_the_repeats_own_ratios():
    # The third repeat met a busy machine, and so did its floor.
    assert row(floor=[2, 3, 10]).ratio == 2
    assert row(floor=[2, 3, 10]).figure == 2
    assert row().ratio is None
    assert row().figure == 6


def test_a_target_is_of_the_ratio_and_of_the_value_where_there_is_no_floor():
    from bench.rows import Target

    assert row(floor=[2, 3, 10]).met
    assert not row().met
    assert row(target=Target(6)).met
    assert not row(floor=[2, 3, 10], target=Target(2.1, at_least=True)).met
    assert [str(Target(0.5)), str(Target(3, at_least=True))] == ["≤ 0.5", "≥ 3"]


def test_measures_take_turns_and_the_first_turn_does_not_count():
    from bench.rows import alternate

    calls = []

    def measure(name):
        return lambda: calls.append(name) or len(calls)

    figures = alternate({"a": measure("a"), "b": measure("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert figures == {"a": [3, 5], "b": [4, 6]}


# --- comparing two runs -------------------------------------------------------------------------


def run(rows, *, quick=False):
    return {"scenarios": {"s": {"quick": quick, "rows": {r.name: r.as_json() for r in rows}}}}


def only(old, new):
    from bench.compare import compare

    (comparison,) = compare(run([old]), run([new]))
    return comparison


def test_what_got_worse_by_more_than_the_spread_is_marked():
    old = row(values=[10, 10, 11], floor=[10, 10, 10])
    worse = only(old, row(values=[20, 20, 21], floor=[10, 10, 10]))
    assert (worse.change, worse.mark, worse.is_bad) == (1.0, "WORSE", True)
    better = only(old, row(values=[5, 5, 6], floor=[10, 10, 10]))
    assert (better.change, better.mark, better.is_bad) == (-0.5, "", False)
    within = only(old, row(values=[10, 10.5, 11], floor=[10, 10, 10]))
    assert (within.mark, within.is_bad) == ("", False)
    wide = only(old, row(values=[10, 20, 30], floor=[10, 10, 10]))
    assert wide.mark == ""


def test_less_is_worse_where_more_is_promised():
    from bench.rows import Target

    rate = Target(0.5, at_least=True)
    old, new = (row(values=[v] * 3, floor=[100] * 3, target=rate) for v in (90, 60))
    assert only(old, new).mark == "WORSE"
    assert only(new, old).mark == ""


def test_a_missed_target_is_marked_however_little_changed():
    old, new = row(values=[2.5, 2.5]), row(values=[2.51, 2.51])
    assert only(old, new).mark == "MISSED"
    assert only(new, old).mark == ""


def test_small_sizes_are_not_compared_with_full_ones_and_new_rows_with_nothing():
    from bench.compare import compare

    small, full = row(values=[1]), row(values=[2])
    (other,) = compare(run([small], quick=True), run([full]))
    assert (other.mark, other.is_bad) == ("other size", False)
    marks = {c.name: c.mark for c in compare(run([row(name="a", values=[1])]), run([small]))}
    assert marks == {"r": "new", "a": "gone"}


def test_compare_prints_a_table_and_fails_if_something_got_worse(tmp_path, capsys):
    from bench.__main__ import main

    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(run([row(values=[1, 1], unit="s")])))
    new.write_text(json.dumps(run([row(values=[2, 2], unit="s")])))
    assert main(["compare", str(old), str(new)]) == 1
    assert "+100%" in capsys.readouterr().out
    assert main(["compare", str(new), str(old)]) == 0
    assert "nothing got worse" in capsys.readouterr().out


def test_a_figure_is_drawn_as_a_share_of_what_its_target_allows():
    pytest.importorskip("matplotlib", reason="it comes with the extra 'bench'")
    from bench.charts import FAR, _needed
    from bench.rows import Target

    assert _needed(row(values=[5.0]).as_json()) == 2
    assert _needed(row(values=[1.0], target=Target(0.5, at_least=True)).as_json()) == 0.5
    assert _needed(row(values=[0.0], target=Target(0)).as_json()) == 0
    assert _needed(row(values=[1.0], target=Target(0)).as_json()) == FAR


def test_rows_and_growth_are_drawn_to_a_file(tmp_path):
    pytest.importorskip("matplotlib", reason="it comes with the extra 'bench'")
    from bench.__main__ import main
    from bench.growth import Plot

    figures = run([row()])
    plot = Plot("what grows", "things", "ms", [1, 10], {"cost": [2, 20]})
    figures["scenarios"]["s"]["growth"] = [plot.as_json()]
    file, picture = tmp_path / "figures.json", tmp_path / "new" / "picture.svg"
    file.write_text(json.dumps(figures))
    assert main(["draw", str(file), str(picture)]) == 0
    assert "what grows" in picture.read_text()


# --- the house ----------------------------------------------------------------------------------


def test_the_house_is_counted_in_modules_lines_and_functions(tmp_path, capsys):
    from bench.house import main

    part = tmp_path / "meshnode" / "part"
    part.mkdir(parents=True)
    (tmp_path / "meshnode" / "__init__.py").write_text('"""A package."""\n')
    (part / "small.py").write_text("def one():\n    def two():\n        pass\n\n    return two\n")
    (part / "large.py").write_text("\n" * 401)
    (part / "marked.py").write_text("@overload\ndef f(): ...\n\n\ndef f():\n    pass\n")
    main([str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out) == {
        "modules": 3,
        "lines": 413,
        "below_60": 2,
        "above_400": 1,
        "median_module": 6,
        "functions": 3,
        "function_median": 2,
        "function_p95": 5,
        "function_longest": 5,
    }
    main([str(tmp_path)])
    assert capsys.readouterr().out.startswith(
        "modules                  3\nlines                  413\n"
    )


def test_a_tree_without_the_packages_is_no_house(tmp_path):
    from bench.house import count

    with pytest.raises(FileNotFoundError, match="no meshnode"):
        count(tmp_path)


def test_a_crossing_counts_a_file_that_two_processes_cross_once():
    from bench.crossing import report

    calls = {"client": {"a.py": ["f", "g"]}, "foo": {"a.py": ["g"], "b.py": ["f"]}}
    assert report(calls) == [
        "client       1 files     2 functions",
        "foo          2 files     2 functions",
        "together     2 files     3 functions",
    ]
