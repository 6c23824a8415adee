"""What a node warns of is the first thing that its status shows after who it is."""

from meshctl.render.status import status_lines


def test_warnings_are_lines_of_their_own_near_the_top():
    lines = list(status_lines({"NodeID": "foo", "Warnings": ["the disk is full", "x"]}))
    assert lines[4:] == ["Warning: the disk is full", "Warning: x"]


def test_without_warnings_there_is_no_such_line():
    assert not [line for line in status_lines({"NodeID": "foo"}) if "Warning" in line]
