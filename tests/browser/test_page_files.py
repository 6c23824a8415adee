"""What the files of the page must not have: they are read as text, no browser is needed."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "meshnode" / "web" / "page"

FILES = sorted(path for path in PAGE.rglob("*") if path.is_file())

SCRIPTS = [path for path in FILES if path.suffix == ".js"]

LARGEST = 400
"""Lines of a module; a larger one does a second thing."""

MAKES_MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment"
    r"|setHTMLUnsafe|parseHTMLUnsafe|\bsrcdoc\b|\beval\b|new Function|javascript:"
)
"""What makes markup or code of a text, which may be a stranger's."""

SENDS = re.compile(
    r"(?<!#)\bfetch\(|XMLHttpRequest|new WebSocket|new EventSource|sendBeacon|RTCPeerConnection"
)
"""What sends something."""


class Document(HTMLParser):
    """Finds what is inline, and what is loaded from where."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.loaded: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.inline += [name for name in names if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag == "style" else []
        if tag in {"script", "link", "img"}:
            self.loaded.append(names.get("src") or names.get("href") or "")
        self._in_script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline.append(data)


@pytest.fixture
def document() -> Document:
    document = Document()
    document.feed((PAGE / "index.html").read_text("utf-8"))
    return document


def test_there_are_scripts_to_look_at() -> None:
    assert PAGE / "main.js" in SCRIPTS


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_markup_or_code_of_a_text(path: Path) -> None:
    assert MAKES_MARKUP.findall(path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_only_one_script_sends_anything(path: Path) -> None:
    found = SENDS.findall(path.read_text("utf-8"))
    assert found == (["fetch("] if path.name == "api.js" else [])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_another_server(path: Path) -> None:
    text = path.read_text("utf-8")
    named = set(re.findall(r"(?:https?:)?//[a-z0-9][\w.-]*\.\w+[^\s\"'`)]*", text))
    # These are names, and nobody loads them.
    assert named - {"http://www.w3.org/2000/svg"} == set()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_each_import_is_a_module_beside_it(path: Path) -> None:
    for name in re.findall(r"from \"([^\"]+)\"|import\(", path.read_text("utf-8")):
        assert name.startswith("./")
        assert (PAGE / name) in SCRIPTS


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_module_is_too_large(path: Path) -> None:
    assert path.read_text("utf-8").count("\n") <= LARGEST


def test_nothing_in_the_document_is_inline(document: Document) -> None:
    assert document.inline == []


def test_all_that_the_document_loads_is_beside_it(document: Document) -> None:
    assert document.loaded
    assert [name for name in document.loaded if not (PAGE / name).is_file()] == []


def test_every_module_is_used() -> None:
    named = {
        name for path in SCRIPTS for name in re.findall(r"\./([\w.]+)", path.read_text("utf-8"))
    }
    assert {path.name for path in SCRIPTS} - named == {"main.js"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("element.innerHTML = name", ["innerHTML"]),
        ("new Function(text)", ["new Function"]),
        ("element.textContent = name; evaluated()", []),
    ],
)
def test_what_makes_markup_is_told_from_what_does_not(text: str, found: list[str]) -> None:
    assert MAKES_MARKUP.findall(text) == found
