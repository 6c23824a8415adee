"""The house rules that a program can check: who touches whose private parts, sizes, circles.

What breaks a rule today and is argued stands in a list here, by name. A name that breaks it no
longer must leave its list, so the lists only shrink.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("meshnode", "meshctl")
FILES = {
    str(path.relative_to(ROOT)): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


@cache
def nodes(name: str) -> list[ast.AST]:
    """Return all of a module's syntax tree."""
    return list(ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))))


# --- Private parts -------------------------------------------------------------------------------

ENGINE = frozenset({"meshnode/mesh/streams/packets.py", "meshnode/mesh/streams/quic.py"})
"""Files that touch private parts of aioquic, each with a test (docs/design/quic.md)."""

PUBLIC = frozenset({"os._exit"})
"""Names with an underscore that are documented for everybody."""

TOUCHES = frozenset({"meshnode/mesh/streams/packets.py: _buffer"})  # aioquic's own
"""Private parts of another module that are touched: ``file: name``."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@cache
def defined(name: str) -> frozenset[str]:
    """Return the private names that a module gives to its own classes, objects, or itself."""
    names = set()
    for node in nodes(name):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), ctx=ast.Store()):
                names.add(node.attr)
            case ast.Constant(value=str()) if node.value.isidentifier():
                names.add(node.value)  # in __slots__, or set by its name
    return frozenset(filter(is_private, names))


def touched(name: str) -> Iterator[str]:
    """Yield each private name of others that a module touches."""
    own = defined(name)
    for node in nodes(name):
        match node:
            case ast.ImportFrom():
                yield from (alias.name for alias in node.names if is_private(alias.name))
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super"))):
                pass
            case ast.Attribute() if is_private(node.attr) and node.attr not in own:
                if f"{ast.unparse(node.value)}.{node.attr}" not in PUBLIC:
                    yield node.attr


@cache
def private_touches() -> set[str]:
    house = frozenset().union(*(defined(name) for name in FILES if name not in ENGINE))
    return {
        f"{name}: {attribute}"
        for name in FILES
        for attribute in touched(name)
        if name not in ENGINE or attribute in house
    }


def test_no_private_part_of_another_module_is_touched() -> None:
    assert sorted(private_touches() - TOUCHES) == []


def test_each_touch_that_is_allowed_is_still_there() -> None:
    assert sorted(TOUCHES - private_touches()) == []
    assert [name for name in ENGINE if not any(touched(name))] == []


# --- Sizes ---------------------------------------------------------------------------------------

LARGEST = 400
"""Lines of a module; a larger one does a second thing."""

SMALLEST = 60
"""Lines below which a module needs a reason to be one."""

SMALL = {
    "meshnode/work/local/launcher/isolationprobe.py": "a program of its own",
    "meshnode/work/local/launcher/limits.py": "of a command's limits the one that takes nothing",
    "meshnode/mesh/streams/identity.py": "grows with TLS of services",
    "meshnode/web/page.py": "the page's files are its own room",
    "meshnode/web/api/types.py": "what there is to submit",
    "meshctl/commands/top.py": "says what the extra is called where it is not installed",
    "meshnode/plugins.py": "public: what the author of a plug-in imports",
}
"""Modules that are smaller, and why. Packages' own files (``__init__``, ``__main__``) need none."""


def lines(name: str) -> int:
    return FILES[name].read_text(encoding="utf-8").count("\n")


def test_no_module_is_too_large() -> None:
    assert [name for name in FILES if lines(name) > LARGEST] == []


def test_no_module_is_too_small_to_be_looked_for() -> None:
    assert [
        name
        for name, path in FILES.items()
        if lines(name) < SMALLEST and not path.stem.startswith("__") and name not in SMALL
    ] == []


def test_each_size_that_is_excused_needs_it() -> None:
    assert [name for name in SMALL if name not in FILES or lines(name) >= SMALLEST] == []


# --- Circles -------------------------------------------------------------------------------------


def dotted(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {dotted(name): name for name in FILES}


def imported(name: str) -> set[str]:
    """Return the modules of the house that a module imports, wherever in it, also for types."""
    found = set()
    for node in nodes(name):
        match node:
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str(module), level=0):
                for alias in node.names:
                    part = f"{module}.{alias.name}"
                    found.add(part if part in MODULES else module)
    return found & MODULES.keys() - {dotted(name)}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that reach each other (Tarjan's)."""
    found: list[list[str]] = []
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            at = stack.index(module)
            found.append(sorted(stack[at:]))
            del stack[at:]

    for module in graph:
        if module not in index:
            visit(module)
    return sorted(group for group in found if len(group) > 1)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: imported(name) for module, name in MODULES.items()}
    assert circles(graph) == []


# --- The page about the house --------------------------------------------------------------------

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)*(?:/|\.(?:py|md|toml)))`")
"""What stands in code marks and looks like a directory or a file."""


def drawn(block: str) -> Iterator[str]:
    """Yield the paths in a drawing of directories, a level for each two blanks."""
    above: list[str] = []
    for line in filter(None, block.splitlines()):
        indent = (len(line) - len(line.lstrip())) // 2
        del above[indent:]
        for name in line.strip().split("  ")[0].split():
            yield "".join(above) + name
        above.append(line.split()[0])


def named(page: str) -> set[str]:
    drawings = re.findall(r"```text\n(meshnode/\n.*?)```", page, re.DOTALL)
    assert drawings
    return set(PATH.findall(page)).union(*map(drawn, drawings))


def is_there(path: str) -> bool:
    return any((base / path).exists() for base in (ROOT, ROOT / "meshnode", ROOT / "meshctl"))


def test_each_path_that_the_page_about_the_house_names_is_there() -> None:
    assert [path for path in sorted(named(PAGE)) if not is_there(path)] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("[dp]*/*.md")), ids=lambda p: p.stem)
def test_each_file_that_a_page_on_design_or_performance_names_is_there(page: Path) -> None:
    paths = PATH.findall(page.read_text(encoding="utf-8"))
    assert [path for path in paths if not is_there(path)] == []


ENTRY_POINTS = "meshnode.worker"
"""The group of entry points that plug-ins of receptor have; no module."""


def is_importable(name: str) -> bool:
    """Whether a dotted name is a module, or something that a module defines."""
    home, _, last = name.rpartition(".")
    if name in MODULES or name == ENTRY_POINTS:
        return True
    return (
        home in MODULES and re.search(rf"\b{last}\b", FILES[MODULES[home]].read_text()) is not None
    )


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.stem)
def test_each_module_that_a_page_names_is_there(page: Path) -> None:
    names = re.findall(r"`((?:meshnode|meshctl)(?:\.\w+)+)`", page.read_text("utf-8"))
    assert [name for name in names if not is_importable(name)] == []


def test_each_room_has_its_line_on_the_page_about_the_house() -> None:
    rooms = {f"{Path(name).parent}/" for name in FILES}
    assert rooms - named(PAGE) == set()


# --- The checks themselves can fail --------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("other._part", ["_part"]),
        ("self._part._inner", ["_inner"]),
        ("from meshnode.net.pump import _copy", ["_copy"]),
        ("self._part; cls._part; super()._part; other.__class__; os._exit(1)", []),
        ("class C:\n    def same(self, other):\n        self._part = other._part", []),
    ],
)
def test_a_touch_of_others_is_told_from_one_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, found: list[str]
) -> None:
    (tmp_path / "m.py").write_text(source)
    monkeypatch.setitem(FILES, f"{tmp_path}/m.py", tmp_path / "m.py")
    assert list(touched(f"{tmp_path}/m.py")) == found


def test_what_a_page_names_is_read_from_its_words_and_its_drawing() -> None:
    drawing = "meshnode/\n  c.py d.py   why\n  e/        what\n    f/   that\n"
    page = f"See `a/b.py`, `no_path` and `x = 1/2`.\n```text\n{drawing}```\n"
    assert named(page) == {
        "a/b.py",
        "meshnode/",
        "meshnode/c.py",
        "meshnode/d.py",
        "meshnode/e/",
        "meshnode/e/f/",
    }


def test_a_circle_of_three_is_found_and_a_diamond_is_none() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []


def test_no_two_files_of_tests_have_one_name() -> None:
    """Folders of tests are no packages, so pytest takes the second one for the first."""
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    loose = [one for one in folders if not (one / "__init__.py").exists()]
    names = Counter(path.name for one in loose for path in one.glob("*.py"))
    assert [name for name, count in names.items() if count > 1 and name != "conftest.py"] == []
