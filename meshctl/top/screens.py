"""What lies over the tables of ``meshctl top``: a unit's output as it comes, and a question."""

import codecs
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.widgets import Footer, Label, RichLog, Static

from meshctl.api.errors import ControlError
from meshctl.render.output import printable
from meshctl.render.tables import unit_lines

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient
    from meshctl.api.connection import ResultStream

TAIL_BYTES = 256 * 1024
"""Bytes of a unit's output before its end that are shown: some thousand lines."""

MOST_LINES = 10_000
"""Lines that are kept to scroll back to."""

LONGEST_LINE = 4_000
"""Characters of a line that are shown; a job without line ends must not fill the memory."""


class Output(Screen[None]):
    """A unit: its status, and its output as it comes."""

    CSS = """
    #unit { height: auto; max-height: 12; padding: 0 1; background: $panel; }
    RichLog { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "Back", key_display="Esc"),
    ]

    def __init__(
        self, connect: "Callable[[], ControlClient]", unit_id: str, status: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self._connect = connect
        self._unit_id = unit_id
        self._status = status
        self._stream: ResultStream | None = None
        self._is_left = False

    def compose(self) -> ComposeResult:
        """Lay the screen out."""
        yield Static("", id="unit", markup=False)
        yield RichLog(max_lines=MOST_LINES, wrap=True, markup=False, highlight=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read."""
        self.query_one("#unit", Static).update(_brief(self._unit_id, self._status, _now()))
        self._follow()

    def action_leave(self) -> None:
        """Go back to the tables."""
        self.dismiss()

    def on_unmount(self) -> None:
        """Have the thread that reads stop."""
        self._is_left = True
        if self._stream is not None:
            self._stream.interrupt()

    @work(thread=True)
    def _follow(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        size = self._status.get("StdoutSize")
        start = max(size - TAIL_BYTES, 0) if isinstance(size, int) else 0
        line = ""
        try:
            with self._connect() as client:
                with client.results(self._unit_id, start) as stream:
                    self._stream = stream
                    for piece in stream:
                        if self._is_left:
                            return
                        *lines, line = (line + decoder.decode(piece)).split("\n")
                        self.app.call_from_thread(self._show, [*lines])
                        line = line[:LONGEST_LINE]
                status = client.work_status(self._unit_id)
        except ControlError as error:
            if not self._is_left:
                self.app.call_from_thread(self._show, [line], f"— {error} —")
            return
        if not self._is_left:
            end = f"— {status.get('StateName', 'ended')}: {status.get('Detail', '')} —"
            self.app.call_from_thread(self._show, [line] if line else [], end)
            self.app.call_from_thread(self._ended, status)

    def _show(self, lines: list[str], end: str = "") -> None:
        log = self.query_one(RichLog)
        for line in lines:
            log.write(Text(printable(line[:LONGEST_LINE].rstrip("\r").expandtabs())))
        if end:
            log.write(Text(printable(end), style="bold"))

    def _ended(self, status: Mapping[str, Any]) -> None:
        self.query_one("#unit", Static).update(_brief(self._unit_id, status, _now()))


class Question(ModalScreen[bool]):
    """Something to be answered with yes or no."""

    CSS = """
    Question { align: center middle; }
    #box { width: auto; height: auto; padding: 1 2; border: thick $warning; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape,q", "dismiss(False)", "No"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Lay the question out."""
        with Vertical(id="box"):
            yield Label(printable(self._text), markup=False)
            yield Label("y: yes    n: no", markup=False)


SHOWN = ("Unit ID", "StateName", "Detail", "WorkType", "Labels", "Created", "Started", "Duration")
"""What of a unit's status stands above its output."""


def _brief(unit_id: str, status: Mapping[str, Any], now: datetime) -> str:
    lines = unit_lines(unit_id, status, now)
    return "\n".join(printable(line) for line in lines if line.split(":")[0] in SHOWN)


def _now() -> datetime:
    return datetime.now(UTC)
