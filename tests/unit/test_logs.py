"""What a stranger can do to the log: nothing but cause a bounded number of honest lines."""

import io
import json
import logging
import re
import sys
import warnings

import hypothesis
import hypothesis.strategies as st
import pytest

from meshnode import logs
from meshnode.logs import LINES_A_MINUTE, LONGEST_LINE, MINUTE, MOST_KINDS, subject_logger

EVENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) (.*)")

LONG = "n" * 60_000

ANY_TEXT = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=[])),  # lone surrogates too
    st.sampled_from(
        ["%", "%s", "%d%%", "a\nb", "\x1b[31m", "\u202e", "\ud800", "\u2028", "", LONG]
    ),
)


class Written:
    """A log that is set up as a node's, with a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stream = io.StringIO()
        self.limit = logs.configure("info", self.stream)
        self.limit._clock = lambda: self.now
        self.limit._look_at = MINUTE

    def lines(self) -> list[str]:
        """Return what was written since the last call, without the times."""
        text = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        assert text == "" or text.endswith("\n")
        return [EVENT.sub(r"\1 \2", line) for line in text.split("\n")[:-1]]


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.mark.parametrize("name", ["100%", "%s", "%d %(x)s %%"])
def test_a_percent_sign_in_a_subject_is_itself_with_and_without_values(written, name):
    subject_logger("unit", name).warning("said 5% of it")
    subject_logger("unit", name).warning("said %s", "5% of it")
    assert written.lines() == [f"WARNING unit {name}: said 5% of it"] * 2


def test_values_keep_their_form(written):
    subject_logger("link", "a").info("%d %.1f %g %5s|%r %s", 7, 0.25, 2.0, "x", "y", None)
    assert written.lines() == ["INFO link a: 7 0.2 2     x|'y' None"]


@hypothesis.given(name=ANY_TEXT, text=ANY_TEXT, fault=ANY_TEXT)
def test_no_text_forges_a_line_or_reaches_a_terminal_as_a_command(name, text, fault):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.OneLineFormatter())
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger = logging.getLogger(logs.ROOT)
    keep = Keep()
    logger.addHandler(keep)
    try:
        log = subject_logger("link", name)
        log.warning("says %s", text)
        log.warning("says nothing")
        try:
            raise ValueError(fault)
        except ValueError:
            log.exception("failed for %s", text)
    finally:
        logger.removeHandler(keep)
    for record in records:
        handler.handle(record)
    lines = stream.getvalue().split("\n")[:-1]
    events = [line for line in lines if not line.startswith("  ")]
    assert len(events) == 3
    assert all(EVENT.fullmatch(line) for line in events)
    assert all(line.isprintable() for line in lines)
    assert all(len(line) < 2 * LONGEST_LINE for line in lines)


def test_a_long_text_does_not_hide_what_follows_it(written):
    subject_logger("link", LONG).warning("closed (%s): %s", LONG, "it lied")
    (line,) = written.lines()
    assert line.endswith("(60000 characters)): it lied")
    assert len(line) < 1200


def test_lines_of_one_kind_are_limited_and_counted(written):
    for number in range(1000):
        subject_logger("link", f"tcp {number}").warning("closed (%s): %s", number, "rejected")
    lines = written.lines()
    assert len(lines) == LINES_A_MINUTE
    assert lines[-1] == f"WARNING link tcp {LINES_A_MINUTE - 1}: closed (59): rejected"
    written.now = MINUTE
    subject_logger("peer", "b").info("another kind")
    left_out = 1000 - LINES_A_MINUTE
    assert written.lines() == [
        f"WARNING link: {left_out} more like this in the last minute: closed (...): ...",
        "INFO peer b: another kind",
    ]


def test_what_was_left_out_is_told_although_nothing_else_happens(written):
    for _ in range(LINES_A_MINUTE + 2):
        subject_logger("mesh").error("it rains %5.1f%%", 7)
    written.lines()
    written.now = MINUTE - 1
    written.limit.report()
    assert written.lines() == []
    written.now = MINUTE
    written.limit.report()
    written.limit.report()
    assert written.lines() == ["ERROR mesh: 2 more like this in the last minute: it rains ...%%"]


def test_a_minute_later_lines_are_written_again(written):
    for minute in range(3):
        written.now = minute * MINUTE
        for _ in range(2 * LINES_A_MINUTE):
            subject_logger("link", "a").info("up")
        assert written.lines().count("INFO link a: up") == LINES_A_MINUTE


def test_other_kinds_and_single_events_are_written_during_a_flood(written):
    for number in range(1000):
        subject_logger("link", str(number)).warning("closed: %s", "flood")
        if number % 100 == 0:
            subject_logger("link", "honest").warning("it broke: %s", "really")
            subject_logger("listener", "a").warning("closed: %s", "of another subject")
    lines = written.lines()
    assert sum("really" in line for line in lines) == 10
    assert sum("of another subject" in line for line in lines) == 10


def test_lines_about_units_are_all_written(written):
    for number in range(1000):
        subject_logger("unit", str(number)).info("started")
    assert len(written.lines()) == 1000


def test_lines_about_units_that_may_be_any_number_are_limited(written):
    for number in range(1000):
        subject_logger("unit", str(number), limited=True).info("waits")
        subject_logger("unit", str(number)).info("started")
    lines = written.lines()
    assert sum(line.endswith("waits") for line in lines) == LINES_A_MINUTE
    assert sum(line.endswith("started") for line in lines) == 1000


def test_all_is_written_for_whoever_debugs(written):
    logs.set_level("debug")
    for _ in range(1000):
        subject_logger("router").debug("dropped")
    assert len(written.lines()) == 1000


def test_a_flood_of_kinds_takes_no_memory(written):
    for number in range(10 * MOST_KINDS):
        subject_logger("link").info(f"template that somebody made {number}")
    assert len(written.limit._counts) <= MOST_KINDS + 1
    assert len(written.lines()) <= MOST_KINDS + LINES_A_MINUTE
    written.now = 2 * MINUTE
    written.limit.report()
    assert written.limit._counts == {}


def test_another_level_keeps_the_counts(written):
    for _ in range(LINES_A_MINUTE):
        subject_logger("link").warning("again")
    logs.set_level("error")
    subject_logger("link").warning("not at this level")
    logs.set_level("warning")
    subject_logger("link").warning("again")
    assert written.lines() == ["WARNING link: again"] * LINES_A_MINUTE


def test_a_log_goes_to_standard_error_unless_told_otherwise(written, capsys):
    logs.configure("warning", sys.stderr)
    subject_logger("node").info("not shown")
    subject_logger("node").warning("shown")
    assert capsys.readouterr().err.endswith(" WARNING node: shown\n")


# --- as JSON -------------------------------------------------------------------------------------


def test_json_has_each_event_in_an_object_of_one_line(written):
    logs.set_format("json")
    subject_logger("unit", "a1").info("ended: %s (%d%%)", "exit status 7", 7)
    subject_logger("reload").warning("100% refused")
    one, two = map(json.loads, written.stream.getvalue().splitlines())
    assert EVENT.fullmatch(f"{one.pop('time')} INFO x")
    assert one == {
        "level": "info",
        "subject": "unit a1",
        "kind": "unit",
        "name": "a1",
        "text": "ended: exit status 7 (7%)",
    }
    del two["time"]
    expected = {"level": "warning", "subject": "reload", "kind": "reload", "text": "100% refused"}
    assert two == expected


@hypothesis.given(name=ANY_TEXT, text=ANY_TEXT, fault=ANY_TEXT)
def test_json_says_what_text_says_whatever_that_is(name, text, fault):
    lines: dict[str, list[str]] = {"text": [], "json": []}

    class Formatted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            for form, found in lines.items():
                found.append(logs.FORMATS[form]().format(record))

    logger = logging.getLogger(logs.ROOT)
    handler = Formatted()
    logger.addHandler(handler)
    try:
        log = subject_logger("link", name)
        log.warning("says %s", text)
        log.warning("says nothing")
        try:
            raise ValueError(fault)
        except ValueError:
            log.exception("failed for %s", text)
    finally:
        logger.removeHandler(handler)
    assert len(lines["json"]) == 3
    for as_text, as_json in zip(lines["text"], lines["json"], strict=True):
        assert as_json.isascii()
        assert as_json.isprintable()
        event = json.loads(as_json)
        head, *below = as_text.split("\n")
        if len(head) < LONGEST_LINE:
            shown = f"{event['subject']}: {event['text']}"
            assert head == f"{event['time']} {event['level'].upper()} {shown}"
        assert [line[2:] for line in below] == event.get("traceback", "").split("\n")[: len(below)]


def test_what_is_left_out_is_an_event_of_json_too(written):
    logs.set_format("json")
    for _ in range(LINES_A_MINUTE + 2):
        subject_logger("mesh", "x").error("it rains %5.1f%%", 7)
    written.now = MINUTE
    written.limit.report()
    event = json.loads(written.stream.getvalue().splitlines()[-1])
    del event["time"]
    assert event == {
        "level": "error",
        "subject": "mesh",
        "kind": "mesh",
        "text": "2 more like this in the last minute: it rains ...%%",
    }


def test_the_format_can_be_another_one_while_the_node_runs(written):
    subject_logger("mesh").info("one")
    logs.set_format("json")
    subject_logger("mesh").info("two")
    logs.set_format("text")
    subject_logger("mesh").info("three")
    one, two, three = written.stream.getvalue().splitlines()
    assert EVENT.fullmatch(one)
    assert json.loads(two)["text"] == "two"
    assert EVENT.fullmatch(three)


def test_what_a_library_finds_odd_in_a_certificate_of_others_is_no_line_on_stderr(capsys):
    logs.configure("warning", sys.stderr)
    for module in ("meshnode.security.certificates", "meshnode.security.verification"):
        warnings.warn_explicit("an attribute's length", UserWarning, "x.py", 1, module=module)
    with pytest.warns(UserWarning, match="ours"):
        warnings.warn_explicit("ours", UserWarning, "x.py", 1, module="meshnode.mesh.router")
    assert capsys.readouterr().err == ""
