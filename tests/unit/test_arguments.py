"""What a client's text becomes: one whole value of its type, or a refusal that says why."""

import shlex
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.arguments import Argument, ArgumentType, Pattern, fill, usage
from meshnode.templates import Template

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ANY_TEXT = st.text()
TYPES = st.sampled_from(ArgumentType)


def make(name: str = "a", kind: str = "str", **more) -> Argument:
    return Argument(name, ArgumentType(kind), **more)


def refusal(call: Callable[..., object], *args: object) -> str:
    """Return why something is refused, empty if it is not; it is always one line."""
    try:
        call(*args)
    except ValueError as error:
        text = str(error)
    else:
        return ""
    assert text
    assert text.isprintable()
    return text


def expand(params: str, given: dict[str, str], *arguments: Argument) -> tuple[str, ...]:
    return Template.parse(shlex.split(params), arguments).expand(given)


@given(TEXT, TEXT)
def test_any_text_is_one_whole_word_or_one_whole_part_of_one(one, two):
    arguments = (make("a"), make("b", required=True))
    words = expand("x {a} --b={b} {a:-a}", {"a": one, "b": two}, *arguments)
    assert words == ("x", one, f"--b={two}", "-a", one)


@given(st.sampled_from([*ArgumentType]), ANY_TEXT)
def test_any_text_is_a_value_without_nul_or_refused(kind, text):
    argument = Argument("a", kind, choices=("x", "y"))
    if not refusal(argument.value, text):
        value = argument.value(text)
        assert "\0" not in value
        # What is a value is one again: a default is checked once, and given as it is.
        assert argument.value(value) == value


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_any_number_of_18_digits_reaches_the_command_as_it_is(number):
    assert make(kind="int").value(str(number)) == str(number)
    assert make(kind="int").value(f"{number:+d}") == str(number)


@given(st.integers(-99, 99), st.integers(-50, 0), st.integers(0, 50))
def test_a_number_outside_of_its_range_is_refused(number, least, most):
    argument = make(kind="int", least=least, most=most)
    if least <= number <= most:
        assert argument.value(str(number)) == str(number)
    else:
        with pytest.raises(ValueError, match=f"{number} is (less|more) than "):
            argument.value(str(number))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_finite_number_is_one(number):
    assert float(make(kind="float").value(repr(number))) == number


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(
            ("int", text)
            for text in ["", "x", "1.0", "010", "0x1", "1_0", "٣", " 1", "1\n", "9" * 19]
        ),
        *(("float", text) for text in ["", "nan", "inf", "1e999", "1_0.0", "٣.0", "1,5", "1\n"]),
        *(("bool", text) for text in ["", "2", "maybe", "tru e"]),
        *(("choice", text) for text in ["", "X", "x ", "z"]),
        *(("path", text) for text in ["", "-rf", "..", "/a/../b", "a/.."]),
        *((kind, "a\0b") for kind in ["str", "path", "choice"]),
    ],
)
def test_what_is_none_of_its_type_is_refused(kind, text):
    assert refusal(Argument("a", ArgumentType(kind), choices=("x", "y")).value, text)


@pytest.mark.parametrize("word", ["true", "YES", "On", "1", "t", "Y"])
def test_truth_reaches_the_command_in_one_form(word):
    assert make(kind="bool").value(word) == "true"


def test_a_pattern_is_about_all_of_a_value():
    argument = make(pattern=Pattern.parse("[a-z]+|x.y"))
    assert argument.value("abc") == "abc"
    assert argument.value("x\ny") == "x\ny"
    for text in ["abc1", "1abc", "abc\n", "", "\ud800"]:
        with pytest.raises(ValueError, match="does not match"):
            argument.value(text)


# --- All of them ---------------------------------------------------------------------------------

SOME = (
    make("position", "int", required=True, least=1, most=1000),
    make("mode", "choice", choices=("fast", "slow"), default="fast"),
    make("out", "path"),
)


def test_what_is_not_given_has_its_default_or_no_value():
    assert fill(SOME, {"position": "3"}) == {"position": "3", "mode": "fast"}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "argument position is missing"),
        ({"position": "x"}, 'argument position: "x" is not a whole number of at most 18 digits'),
        ({"position": "0"}, "argument position: 0 is less than 1"),
        ({"positon": "3"}, 'there is no argument "positon"; did you mean position?'),
        ({"position": "3", "mode": "slo"}, 'argument mode: "slo" is not one of fast, slow'),
        ({"position": "3", "Mode": "x"}, 'there is no argument "Mode"; did you mean mode?'),
    ],
)
def test_what_is_missing_unknown_or_wrong_is_named(given, text):
    assert refusal(fill, SOME, given) == text


def test_a_type_without_arguments_says_so():
    with pytest.raises(ValueError, match='no argument "a": the type takes none'):
        fill((), {"a": "1"})


@given(st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=3))
def test_whatever_is_given_there_is_a_value_for_all_that_must_have_one_or_one_line_why_not(given):
    if not refusal(fill, SOME, given):
        values = fill(SOME, given)
        assert {"position", "mode"} <= values.keys() <= {"position", "mode", "out"}


def test_the_usage_has_first_what_must_be_given():
    arguments = (make("z", "bool"), *SOME, make("n", "float"), make("t", required=True))
    assert usage("fib", arguments) == (
        "meshctl work submit fib --arg position=INT --arg t=TEXT [--arg z=true|false] "
        "[--arg mode=fast|slow] [--arg out=PATH] [--arg n=NUMBER]"
    )


# --- Where values go -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "given", "words"),
    [
        ("{a}", {"a": "1"}, ("1",)),
        ("{a}", {}, ()),
        ("x --a={a} y", {"a": ""}, ("x", "--a=", "y")),
        ("x --a={a} y", {}, ("x", "y")),
        ("{a:-a} y", {"a": "-b"}, ("-a", "-b", "y")),
        ("{a:-a} y", {}, ("y",)),
        ("-- {a}", {}, ("--",)),
        ("--x=1 {a}", {}, ("--x=1",)),
        ("{{a}} {a}", {"a": "1"}, ("{a}", "1")),
        ("{{{a}}} '' {a}", {"a": "{a}"}, ("{{a}}", "", "{a}")),
    ],
)
def test_a_value_goes_where_its_name_stands_and_without_one_the_word_goes(params, given, words):
    assert expand(params, given, make("a")) == words


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"v": "true"}, ("-v", "true", "--is=true")),
        ({"v": "no"}, ("false", "--is=false")),
        ({}, ()),
    ],
)
def test_a_bool_is_a_flag_where_its_word_says_so(given, words):
    assert expand("{v:-v} {v} --is={v}", given, make("v", "bool")) == words


@given(TEXT)
def test_braces_are_written_twice(text):
    word = text.replace("{", "{{").replace("}", "}}")
    assert Template.parse(["{a}", word], [make()]).expand({}) == (text,)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ("{a} {b}", '{b}: there is no argument "b"; write {{b}} for the text itself'),
        ("{a} {A}", '{A}: there is no argument "A"'),
        ("{a} {", "has a single {; write {{ for a brace"),
        ("{a} }", "has a single }; write }} for a brace"),
        ("{a} {}", '{}: there is no argument ""'),
        ("{a} '{\"x\": 1}'", "write {{"),
        ("x{a:-a}", "must be a word of its own"),
        ("{a:}", "names no option"),
        ("x", "has no {a}, so the argument would have no effect"),
        ("-n {a}", 'has -n, which would stay without a value where a has none: write "{a:-n}"'),
        ("-n x{a}", "has -n, which would stay without a value"),
        ("{a}{a}", "may have no value: give it a default, or a word of its own"),
    ],
)
def test_words_that_could_mean_two_things_are_refused(params, text):
    assert text in refusal(Template.parse, shlex.split(params), [make("a")])


def test_with_a_value_in_any_case_words_are_clear():
    for argument in (make("a", default="1"), make("a", required=True)):
        assert expand("-n {a} {a}{a}", {"a": "1"}, argument) == ("-n", "1", "11")


@given(st.lists(st.text(), max_size=4), st.lists(TYPES, max_size=3))
def test_any_words_are_a_template_or_one_line_why_not(words, types):
    arguments = [Argument(f"a{n}", kind, choices=("x",)) for n, kind in enumerate(types)]
    refusal(Template.parse, words, arguments)
