"""docs/promises.md: each promise stands on its page in these words, and each test is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ROW = re.compile(
    r"\| \[(?P<name>[\w-]+)\]\((?P<page>[\w.-]+)\) \| (?P<words>.+) \| (?P<tests>.+) \|"
)
TEST = re.compile(r"\[`(?P<name>test_\w+)`\]\(\.\./(?P<file>[\w/.]+)\)")
PAGES = ("guarantees", "links", "scale", "operating", "architecture", "firewall")
"""Pages that promise what becomes of a user's work and links."""

LINES = (DOCS / "promises.md").read_text(encoding="utf-8").splitlines()
ROWS = [match for line in LINES if (match := ROW.fullmatch(line))]


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_each_line_of_the_table_is_read() -> None:
    table = [line for line in LINES if line.startswith("| [")]
    assert len(ROWS) == len(table) > 0


@pytest.mark.parametrize("page", PAGES)
def test_each_page_that_promises_has_its_promises_in_the_table(page: str) -> None:
    assert any(row["name"] == page for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['name']}: {row['words'][:40]}")
def test_each_promise_stands_on_its_page_and_has_its_tests(row: re.Match[str]) -> None:
    assert squeezed(row["words"]) in squeezed((DOCS / row["page"]).read_text(encoding="utf-8"))
    tests = list(TEST.finditer(row["tests"]))
    assert len(tests) == row["tests"].count("](../")
    assert tests
    for test in tests:
        source = (ROOT / test["file"]).read_text(encoding="utf-8")
        assert f"def {test['name']}(" in source, test["name"]
