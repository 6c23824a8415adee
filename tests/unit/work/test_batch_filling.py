"""What a member is given has its own index and line in it, whatever these hold."""

import json
import shlex

from hypothesis import given
from hypothesis import strategies as st
from test_batches import run_commands, submit_lines

from meshctl.commands.params import quoted
from meshnode.protocol.control import ARGUMENTS_KEY, ENV_KEY
from meshnode.work.batches.filling import filled
from meshnode.work.local.worktypes import CommandType, split_words

TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from("'\"\\ ")
)
WORDS = st.lists(
    st.lists(TEXT | st.sampled_from(["{line}", "{index}"]), max_size=3).map("".join),
    min_size=1,
    max_size=3,
)


def replaced(word: str, line: str) -> str:
    """Return what a word is to be; neither text has the other's place in it."""
    return "7".join(part.replace("{line}", line) for part in word.split("{index}"))


def double(word: str) -> str:
    """Return a word between double quotes, as a person may write it."""
    parts = (part.replace("\\", "\\\\").replace('"', '\\"') for part in word.split("{line}"))
    return '"' + "{line}".join(parts) + '"'


@given(WORDS, TEXT.filter(lambda text: "{" not in text), st.sampled_from([quoted, None]))
def test_a_quoted_word_stays_one_whatever_the_line_holds(words, line, quote):
    text = quote(words) if quote else " ".join(map(double, words))
    told = filled({"params": text}, {"index": "7", "line": line})["params"]
    expected = [replaced(word, line) for word in words]
    assert list(split_words(told)) == expected
    assert shlex.split(told) == expected


@given(TEXT.filter(lambda text: "{" not in text))
def test_outside_of_quotes_and_in_no_shells_text_a_line_stands_as_it_is(line):
    words = {"index": "7", "line": line}
    for text in ("--all {line} {index}", "say it's {line}", "\\'{line}\\'", "'a'{line}\"b\""):
        assert filled({"params": text}, words)["params"] == replaced(text, line)


@given(TEXT, WORDS)
def test_what_is_json_stays_json_and_other_texts_are_not_quoted(line, values):
    words = {"index": "7", "line": line}
    given = {str(number): value for number, value in enumerate(values)}
    fields = {ENV_KEY: json.dumps(given), ARGUMENTS_KEY: json.dumps(given), "host": "'{line}'"}
    told = filled(fields, words)
    if "{" not in line:
        expected = {name: replaced(value, line) for name, value in given.items()}
        assert json.loads(told[ENV_KEY]) == json.loads(told[ARGUMENTS_KEY]) == expected
    assert told["host"] == f"'{line}'"


async def test_a_line_with_quotes_is_one_argument_of_its_command(foo, autojump_clock):
    foo.work_types = {"wait": CommandType("wait", allow_runtime_params=True)}
    lines = ["it's", 'a "b" c', "x' 'y", "\\", "", "$HOME", "\u00fc \n'"]
    async with foo.running():
        _, told = await submit_lines(
            *(foo, [{"line": line} for line in lines]),
            **{"node": "foo", "worktype": "wait", "params": quoted(["-x", "<{line}>"])},
        )
        await run_commands(foo, json.loads(told)["batch"])
        ran = sorted(words[-1] for words in foo.launcher.started)
    assert ran == sorted(f"<{line}>" for line in lines)
