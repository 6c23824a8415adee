"""Limits of units: what is read, what is refused with which words, and that nothing raises them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config.limit_values import LIMITS, JobLimits, limit_name
from meshnode.config.names import Wrong

MIB = 1024 * 1024

NUMBERS = st.fixed_dictionaries(
    {},
    optional={
        "cpu": st.integers(1, 6_000).map(lambda number: number / 100),
        "memory": st.integers(MIB, 2**45),
        "pids": st.integers(1, 4_194_304),
        "io-read": st.integers(1, 2**45),
        "io-write": st.integers(1, 2**45),
        "files": st.integers(8, 1_000_000),
        "core": st.integers(0, 2**45),
    },
)


@given(NUMBERS)
def test_what_is_shown_is_what_is_read(values: dict[str, float]) -> None:
    limits = JobLimits(values)
    assert JobLimits.read(limits.shown()) == limits


@given(NUMBERS, NUMBERS)
def test_a_lowered_limit_is_never_above_its_types(
    own: dict[str, float], wanted: dict[str, float]
) -> None:
    raises = any(value > own.get(name, value) for name, value in wanted.items())
    adds = not wanted.keys() <= own.keys() | {"files", "core"}
    if raises or adds:
        with pytest.raises(Wrong):
            JobLimits(own).lowered(JobLimits(wanted))
    else:
        assert JobLimits(own).lowered(JobLimits(wanted)).values == {**own, **wanted}


@given(st.dictionaries(st.text(max_size=8) | st.sampled_from([*LIMITS]), st.text(max_size=12)))
def test_any_texts_are_limits_or_wrong(given_texts: dict[str, str]) -> None:
    with contextlib.suppress(Wrong):
        assert JobLimits.read(given_texts).values.keys() <= LIMITS.keys()


@pytest.mark.parametrize("text", ["io-read", "IO_READ", "IoRead", "ioread"])
def test_names_are_taken_in_any_case_with_or_without_the_dash(text: str) -> None:
    assert limit_name(text) == "io-read"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("cpu", "1.5", 1.5),
        ("memory", "256MiB", 256 * MIB),
        ("swap", "0", 0),
        ("io-read", "10MiB/s", 10 * MIB),
        ("io-write", "10 MB / s", 10_000_000),
        ("io-write", "4096", 4096),
        ("core", "0", 0),
    ],
)
def test_each_value_is_written_as_people_do(name: str, text: str, value: float) -> None:
    given_texts = {name: text, **({"memory": "1MiB"} if name == "swap" else {})}
    assert JobLimits.read(given_texts).values[name] == value


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"memry": "1MiB"}, 'did you mean "memory"?'),
        ({"memory": "1KiB"}, 'memory: "1KiB" is too small; it must be at least 1MiB'),
        ({"cpu": "0"}, "is not a number of processors from 0.01"),
        ({"cpu": "nan"}, "is not a number of processors"),
        ({"pids": "0"}, "is not a whole number from 1"),
        ({"files": "3"}, "is not a whole number from 8"),
        ({"swap": "0"}, "swap: is beside the memory; give memory, too"),
        ({"pids": "5", "PIDs": "6"}, "pids is given twice"),
    ],
)
def test_a_wrong_one_is_named_with_what_is_right(texts: dict[str, str], words: str) -> None:
    with pytest.raises(Wrong) as caught:
        JobLimits.read(texts)
    assert words in str(caught.value)


def test_swap_that_is_not_named_is_none_and_cannot_be_raised() -> None:
    with pytest.raises(Wrong, match="swap: 1MiB is more than the 0 of its type"):
        JobLimits({"memory": MIB}).lowered(JobLimits({"memory": MIB, "swap": MIB}))


def test_without_memory_there_is_no_swap() -> None:
    assert JobLimits({"memory": MIB, "swap": 0, "pids": 3}).without("memory").values == {"pids": 3}
