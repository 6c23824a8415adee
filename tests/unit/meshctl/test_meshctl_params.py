"""Words on meshctl's command line are words of the command, on nodes of either kind."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meshctl.commands.params import KNOWN, collect_params
from meshctl.render.output import ExitCode, Failure
from meshnode.work.local.worktypes import CommandType


def receptors_words(text):
    """What receptor makes of ``params``: a model of github.com/google/shlex, state by state."""
    words, value, state = [], "", "start"
    for rune in text:
        match state:
            case "start" | "word":
                if rune in " \t\r\n":
                    if state == "word":
                        words.append(value)
                        value = ""
                    state = "start"
                elif rune == "#" and state == "start":
                    state = "comment"
                elif rune in "\"'\\":
                    state = {'"': "double", "'": "single", "\\": "escape"}[rune]
                else:
                    value, state = value + rune, "word"
            case "escape":
                value, state = value + rune, "word"
            case "double":
                if rune == '"':
                    state = "word"
                elif rune == "\\":
                    state = "double escape"
                else:
                    value += rune
            case "double escape":
                value, state = value + rune, "double"
            case "single":
                if rune == "'":
                    state = "word"
                else:
                    value += rune
            case "comment" if rune == "\n":
                state = "start"
    if state == "word":
        words.append(value)
    elif state not in {"start", "comment"}:
        raise ValueError("EOF found when expecting more")
    return tuple(words)


def our_words(text):
    return CommandType("bash", allow_runtime_params=True).argv(text)[1:]


argument = st.text(
    st.one_of(
        st.sampled_from("'\"\\# \n\t\r$`;&|*~=-@ab"),
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    ),
    max_size=12,
)


@given(st.lists(argument, min_size=1, max_size=6))
@example(["echo one; exit 3"])
@example([""])
@example(["#", "a#b", "it's", 'say "hi"', "back\\slash", "end\\", "new\nline"])
def test_each_word_reaches_the_command_as_it_is(words):
    text = collect_params((), words)["params"]
    assert our_words(text) == tuple(words)
    assert receptors_words(text) == tuple(words)


@given(st.lists(argument, min_size=1, max_size=4), st.lists(argument, min_size=1, max_size=4))
def test_words_follow_the_text_of_params_and_leave_its_words_alone(before, words):
    text = collect_params((), before)["params"]
    both = collect_params([f"params=@{text}" if text.startswith("@") else f"params={text}"], words)
    assert our_words(both["params"]) == (*before, *words)
    assert receptors_words(both["params"]) == (*before, *words)


@given(argument, st.lists(argument, min_size=1, max_size=4))
def test_words_never_become_a_part_of_the_text_before_them(text, words):
    try:
        both = collect_params([f"params={text.replace('@', '')}"], words)["params"]
    except Failure:
        return
    for split in (our_words, receptors_words):
        assert split(both)[-len(words) :] == tuple(words)


@given(argument)
def test_the_text_of_params_is_sent_as_it_stands(text):
    given_text = f"@{text}" if text.startswith("@") else text
    assert collect_params([f"params={given_text}"], ()) == {"params": text}


@given(words=st.lists(argument, min_size=1, max_size=4))
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_words_are_kept_all_the_way_to_the_node(meshctl, node, words):
    result = meshctl("work", "submit", "bashc", "-n", "--", *words)
    assert result.exit_code == 0
    assert our_words(node.submissions[-1]["params"]) == tuple(words)


@pytest.mark.parametrize("text", ["it's", '"', "end\\"])
def test_words_behind_a_text_that_is_not_whole_are_refused(meshctl, node, text):
    result = meshctl("work", "submit", "ls", "-n", "-a", f"params={text}", "word")
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert f"--param params={text}: " in result.stderr
    assert node.sessions == 0


def test_a_parameter_that_no_work_type_has_is_warned_of_with_the_nearest_one(meshctl, node):
    result = meshctl("work", "submit", "ls", "-n", "-a", "parms=-la", "-a", "x=y")
    assert result.exit_code == 0
    assert result.stderr == (
        "Warning: --param parms: no work type has this parameter; did you mean params?\n"
        "Warning: --param x: no work type has this parameter\n"
    )
    known = [option for name in (*KNOWN, "secret_other") for option in ("-a", f"{name}=1")]
    assert meshctl("work", "submit", "ls", "-n", *known).stderr == ""


def test_a_parameter_with_two_values_is_refused(meshctl, node):
    result = meshctl("work", "submit", "ls", "-n", "-a", "params=a", "-a", "params=b")
    assert result.exit_code == ExitCode.WRONG_USAGE
    assert "--param params is given twice" in result.stderr
    assert node.sessions == 0
    assert meshctl("work", "submit", "ls", "-n", *["-a", "params=a"] * 2).exit_code == 0
