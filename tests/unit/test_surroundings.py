"""Which variables and directories clients may give; the dangerous ones are named one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.surroundings import (
    SENSITIVE_NAMES,
    SENSITIVE_PREFIXES,
    AllowedDirectories,
    AllowedNames,
    is_sensitive,
)

SENSITIVE = st.sampled_from(sorted(SENSITIVE_NAMES)) | st.builds(
    str.__add__, st.sampled_from(SENSITIVE_PREFIXES), st.from_regex(r"[A-Z]{1,5}", fullmatch=True)
)


def test_a_name_lets_itself_and_a_beginning_all_that_begin_so():
    allowed = AllowedNames.parse(["LANG", "JOB_*"])
    assert all(map(allowed.allows, ["LANG", "JOB_", "JOB_A"]))
    assert not any(map(allowed.allows, ["LANGUAGE", "lang", "JOB", "XJOB_A", "", "PATH"]))


@given(SENSITIVE.filter(lambda name: not name.startswith("MESHNODE_UNIT_")))
def test_what_changes_which_code_runs_is_let_only_by_its_full_name(name):
    assert is_sensitive(name)
    for pattern in ["*", name[0] + "*"]:
        allowed = AllowedNames.parse([pattern])
        assert not allowed.allows(name)
        with pytest.raises(ValueError, match="only its full name in allowruntimeenv lets it"):
            allowed.check(name, "x")
    AllowedNames.parse([name]).check(name, "x")


@given(st.text(max_size=5))
def test_nobody_sets_what_says_which_unit_it_is(rest):
    with pytest.raises(ValueError, match=r"cannot be given by clients|is neither"):
        AllowedNames.parse([f"MESHNODE_UNIT_{rest}"])
    with pytest.raises(ValueError, match=r"only its full name|cannot name"):
        AllowedNames.parse(["*"]).check(f"MESHNODE_UNIT_{rest}", "x")


@pytest.mark.parametrize("text", ["", "A=B", "A B", "*A", "A**", "A\n", "LD_*", "PYTHON*", "\x07"])
def test_what_allows_nothing_or_too_much_is_refused(text):
    with pytest.raises(ValueError, match=r"is neither the name|is too wide"):
        AllowedNames.parse([text])


@given(st.lists(st.text(max_size=6), max_size=3), st.text(max_size=8), st.text(max_size=8))
def test_a_variable_that_is_let_through_can_be_given_to_a_program(texts, name, value):
    try:
        AllowedNames.parse(texts).check(name, value)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert name
        assert "=" not in name
        assert "\0" not in name + value
    assert refusal == "" or refusal.isprintable()


# --- Directories ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "directory"),
    [("/srv/jobs", "/srv/jobs"), ("/srv/jobs/", "/srv/jobs"), ("//srv/./jobs//a", "/srv/jobs/a")],
)
def test_a_directory_and_all_below_it_are_let_through(path, directory):
    assert AllowedDirectories(("/srv/jobs", "/data")).check(path) == directory


@pytest.mark.parametrize(
    "path", ["", "jobs", "/", "/srv", "/srv/jobsx", "/srv/jobs/..", "/srv/jobs/../../etc", "/a\0b"]
)
def test_all_others_are_refused(path):
    with pytest.raises(ValueError, match="working directory"):
        AllowedDirectories(("/srv/jobs",)).check(path)


@given(st.text())
def test_where_any_is_allowed_an_absolute_path_is_one(path):
    allowed = AllowedDirectories(("/",))
    if "\0" in path or ".." in path.split("/"):
        with pytest.raises(ValueError, match="working directory"):
            allowed.check(f"/{path}")
    else:
        assert allowed.check(f"/{path}").startswith("/")


def test_without_any_no_directory_is_taken():
    with pytest.raises(ValueError, match="the type takes no working directory"):
        AllowedDirectories().check("/tmp")
