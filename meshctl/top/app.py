"""The screen of ``meshctl top``: three tables that follow a node, and what keys do with a unit.

Whatever a node says is shown as text, never as markup.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, Footer, Input, Static, TabbedContent, TabPane

from meshctl.api.errors import ControlError
from meshctl.render.columns import Cell
from meshctl.render.output import printable
from meshctl.top.reading import (
    LINK_HEADING,
    NODE_HEADING,
    WORK_HEADING,
    Reading,
    has_ended,
    headline,
    link_rows,
    node_rows,
    read,
    work_rows,
)
from meshctl.top.screens import Output, Question

if TYPE_CHECKING:
    from meshctl.api.client import ControlClient

Rows = Mapping[str, Sequence[Cell]]
Table = DataTable[Text]

SHARE = 0.1
"""Of the time that readings may take at most: a node with many thousands of units is read less
often than it is asked to be, instead of all the time."""

COLOURS = {"": "", "heading": "bold", "good": "green", "changing": "yellow", "bad": "red"}
"""What a cell's style is on this screen."""


ON_TABLES = frozenset({"show", "find", "cancel", "pause", "forget"})
"""What keys do only where the tables are seen."""


class Top(App[None]):
    """The application; it runs until its user leaves it."""

    TITLE = "meshctl top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head, #trouble { height: 1; padding: 0 1; }
    #head { background: $panel; }
    #trouble { background: $error; color: $text; display: none; }
    #trouble.shown { display: block; }
    #wanted { display: none; }
    #wanted.shown { display: block; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "show('work')", "Work"),
        Binding("2", "show('nodes')", "Nodes"),
        Binding("3", "show('links')", "Links"),
        Binding("slash", "find", "Find", key_display="/"),
        Binding("c", "cancel", "Cancel unit"),
        Binding("space", "pause", "Pause"),
        Binding("q", "quit", "Quit"),
        Binding("escape", "forget", "Clear", show=False),
    ]

    def __init__(self, connect: "Callable[[], ControlClient]", interval: float) -> None:
        """``connect`` makes a client of the node, which is read each ``interval`` seconds."""
        super().__init__()
        self._connect = connect
        self._client = connect()
        self._interval = interval
        self._reading = Reading()
        self._wanted = ""
        self._is_paused = False
        self._is_left = False

    def compose(self) -> ComposeResult:
        """Lay the screen out."""
        yield Static("reading …", id="head", markup=False)
        yield Static("", id="trouble", markup=False)
        with TabbedContent(initial="work"):
            for tab, title in (("work", "Work"), ("nodes", "Nodes"), ("links", "Links")):
                with TabPane(title, id=tab), Vertical():
                    yield DataTable(id=f"{tab}-table", cursor_type="row", zebra_stripes=True)
        yield Input(placeholder="show units with …", id="wanted")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read the node."""
        headings = {"work": WORK_HEADING, "nodes": NODE_HEADING, "links": LINK_HEADING}
        for tab, heading in headings.items():
            for name in heading:
                self._table(tab).add_column(name, key=name)
        self._table("work").focus()
        self._begin()

    def on_unmount(self) -> None:
        """Leave the node; a reading that is under way does so when it ends."""
        self._is_left = True
        self._client.close()

    # --- Reading and showing ---------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin a reading: of all units while one is looked for, which may be an old one."""
        self._read(everything=bool(self._wanted))

    @work(thread=True, exclusive=True)
    def _read(self, *, everything: bool) -> None:
        reading = read(self._client, self._reading, everything=everything)
        if self._is_left:
            self._client.close()
        else:
            self.call_from_thread(self._take, reading)

    def _take(self, reading: Reading) -> None:
        self._reading = reading
        if not self._is_paused:
            self._draw()
        self.set_timer(max(self._interval, reading.took / SHARE), self._begin)

    def _draw(self) -> None:
        trouble = self._reading.error
        try:
            self.query_one("#head", Static).update(printable(headline(self._reading)))
            self._fill("work", work_rows(self._reading, datetime.now(UTC), self._wanted))
            self._fill("nodes", node_rows(self._reading))
            self._fill("links", link_rows(self._reading))
        except ControlError as error:
            trouble = str(error)
        line = self.query_one("#trouble", Static)
        line.update(printable(trouble))
        line.set_class(bool(trouble), "shown")

    def _fill(self, tab: str, rows: Rows) -> None:
        """Show rows, with the cursor on the one that it was on, also if that has moved."""
        table = self._table(tab)
        chosen = self._chosen(table)
        if list(rows) == [key.value for key in table.rows]:
            for key, row in rows.items():
                for column, cell in zip(table.columns, row, strict=True):
                    if table.get_cell(key, column) != (text := _text(cell)):
                        table.update_cell(key, column, text, update_width=True)
            return
        top = table.scroll_y
        table.clear()
        for key, row in rows.items():
            table.add_row(*map(_text, row), key=key)
        if chosen in rows:
            table.move_cursor(row=table.get_row_index(chosen), scroll=False)
        table.scroll_to(y=top, animate=False)

    def _table(self, tab: str) -> Table:
        return self.query_one(f"#{tab}-table", DataTable)

    def _chosen(self, table: Table) -> str:
        if not table.row_count:
            return ""
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value or ""

    # --- What keys do ----------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Let keys of the tables do nothing while something lies over them."""
        return len(self.screen_stack) == 1 or action not in ON_TABLES

    def action_show(self, tab: str) -> None:
        """Show a table."""
        self.query_one(TabbedContent).active = tab
        self._table(tab).focus()

    def action_find(self) -> None:
        """Ask what units shall be shown."""
        self.action_show("work")
        line = self.query_one("#wanted", Input)
        line.add_class("shown")
        line.focus()

    def action_forget(self) -> None:
        """Show all units again."""
        line = self.query_one("#wanted", Input)
        line.value = self._wanted = ""
        line.remove_class("shown")
        self._table("work").focus()
        self._draw()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show what is wanted while it is typed."""
        self._wanted = event.value
        self._draw()

    def on_input_submitted(self) -> None:
        """Go on in the table with what was found."""
        self._table("work").focus()

    def action_pause(self) -> None:
        """Let the tables stand still, or go on."""
        self._is_paused = not self._is_paused
        self.sub_title = "paused" if self._is_paused else ""
        self.notify("paused; space goes on" if self._is_paused else "going on", markup=False)
        self._draw()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Show the output of the unit on which Enter was pressed."""
        unit_id = event.row_key.value or ""
        if event.data_table.id == "work-table" and unit_id in self._reading.units:
            self.push_screen(Output(self._connect, unit_id, self._reading.units[unit_id]))

    def action_cancel(self) -> None:
        """Cancel the unit under the cursor, if that is really meant."""
        unit_id = self._chosen(self._table("work"))
        status = self._reading.units.get(unit_id)
        if self.query_one(TabbedContent).active != "work" or status is None:
            self.notify("choose a unit first (key 1)", severity="warning", markup=False)
        elif has_ended(status):
            self.notify(f"unit {unit_id} has ended", severity="warning", markup=False)
        else:

            def answered(is_meant: bool | None) -> None:
                if is_meant:
                    self._cancel(unit_id)

            self.push_screen(Question(f"Cancel unit {unit_id}?"), answered)

    @work(thread=True)
    def _cancel(self, unit_id: str) -> None:
        try:
            with self._connect() as client:
                told = f"unit {unit_id}: {client.cancel(unit_id)}"
        except ControlError as error:
            self.call_from_thread(
                self.notify, printable(f"unit {unit_id}: {error}"), severity="error", markup=False
            )
            return
        self.call_from_thread(self.notify, told, markup=False)


def _text(cell: Cell) -> Text:
    return Text(cell.text, style=COLOURS[cell.style], no_wrap=True)
