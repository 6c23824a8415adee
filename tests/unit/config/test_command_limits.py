"""What a work-command may limit, and how sizes, durations and variables are written."""

from pathlib import Path

import pytest

from meshnode.config import ConfigFaults, load_file

HEAD = "- node: foo\n- local-only\n- work-command:\n    worktype: t\n    command: c\n"


def load(tmp_path: Path, parameter: str):
    path = tmp_path / "node.yml"
    path.write_text(f"{HEAD}    {parameter}\n")
    return load_file(str(path)).work_types[0]


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("100MiB", 100 * 2**20), ("2 GB", 2 * 10**9), ("1kb", 1000), ("7b", 7)],
)
def test_sizes_are_read_as_people_write_them(tmp_path, text, size):
    assert load(tmp_path, f"maxoutput: {text}").maxoutput == size


@pytest.mark.parametrize("text", ["much", "-1", "1.5GB", "10 XB", "0", "[1]", "99999999999999999"])
def test_what_is_no_size_is_refused_with_its_line(tmp_path, text):
    with pytest.raises(ConfigFaults, match=r":6: work-command: maxoutput: "):
        load(tmp_path, f"maxoutput: {text}")


def test_errors_go_to_stdout_unless_the_type_says_otherwise(tmp_path):
    kind = load(tmp_path, "params: x")
    assert (kind.stderr, kind.timestamps) == ("merge", False)
    assert load(tmp_path, "stderr: separate").stderr == "separate"
    assert load(tmp_path, "timestamps: true").timestamps is True
    with pytest.raises(ConfigFaults, match='"both" is not one of merge, separate'):
        load(tmp_path, "stderr: both")


def test_limits_are_optional(tmp_path):
    kind = load(tmp_path, "params: x")
    assert (kind.timeout, kind.maxoutput, kind.cwd, dict(kind.env)) == (None, None, "", {})
    assert kind.grace == 10.0


def test_times_are_durations(tmp_path):
    assert load(tmp_path, "timeout: 1h30m").timeout == 5400.0
    assert load(tmp_path, "grace: 0s").grace == 0.0


def test_the_environment_is_a_map_of_texts(tmp_path):
    assert dict(load(tmp_path, "env: {A: 1, B: two words}").env) == {"A": "1", "B": "two words"}
    with pytest.raises(ConfigFaults, match="cannot name an environment variable"):
        load(tmp_path, 'env: {"A=B": 1}')


def test_the_directory_is_absolute(tmp_path):
    assert load(tmp_path, "cwd: /tmp").cwd == "/tmp"
    with pytest.raises(ConfigFaults, match="not an absolute path"):
        load(tmp_path, "cwd: here")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("true", True),
        ("Yes", True),
        ("false", None),
        ("conmon", ("conmon",)),
        ('["catatonit -P", "podman pause"]', ("catatonit -P", "podman pause")),
        ("\"[conmon, 'ssh: *']\"", ("conmon", "ssh: *")),
    ],
)
def test_what_is_left_running_is_all_nothing_or_named(tmp_path, text, left):
    assert load(tmp_path, f"leave-processes: {text}").leave_processes == left


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ('"*"', "write true"),
        ('[conmon, "**?"]', "write true"),
        ('""', "write true"),
        ("/usr/bin/conmon", 'named without: "conmon"'),
        ("[]", "leave the parameter out instead"),
        ("{a: 1}", "is a map"),
        ("[true, [x]]", "is a list"),
    ],
)
def test_names_that_would_leave_everything_or_nothing_are_refused(tmp_path, text, remedy):
    with pytest.raises(ConfigFaults, match=f":6: work-command: leave-processes: .*{remedy}"):
        load(tmp_path, f"leave-processes: {text}")
