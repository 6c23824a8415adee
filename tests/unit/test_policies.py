"""Names are compared with patterns as receptor compares them."""

import pytest

from meshnode.policies import NamePattern

MATCHES = [
    ("foo", "foo", True),
    ("foo", "Foo", False),
    ("foo", "foobar", False),
    ("f.o", "foo", False),
    ("/f.o/", "foo", True),
    ("/f.o/", "xfoo", False),
    ("/f.o/", "foox", False),
    ("/f.o/", "foo\n", False),
    ("/a.*b/", "adfb", True),
    ("/a.*b/", "AdfB", False),
    ("/(?i)a.*b/", "AdfB", True),
    ("/[[:alpha:]]+/", "abc", True),
    ("/[[:alpha:]]+/", "a1", False),
    (r"/node\d/", "node7", True),
    (r"/node\d/", "node٣", False),
    ("/größe/", "größe", True),
    ("//", "", True),
    ("//", "a", False),
    ("/a/b/", "a/b", True),
    # Each half has one anchor, as receptor's users know or will find out.
    ("/foo|bar/", "foobaz", True),
    ("/foo|bar/", "xbar", True),
    ("/(foo|bar)/", "foobaz", False),
    ("/(foo|bar)/", "bar", True),
]


@pytest.mark.parametrize(("text", "name", "expected"), MATCHES)
def test_a_name_matches_as_it_does_for_receptor(text: str, name: str, expected: bool) -> None:
    assert NamePattern.parse(text).matches(name) is expected


@pytest.mark.parametrize("text", ["/", "/foo", "/foo/i"])
def test_an_expression_has_two_slashes(text: str) -> None:
    with pytest.raises(ValueError, match="begins with / and does not end with it"):
        NamePattern.parse(text)


@pytest.mark.parametrize("text", ["/(/", "/a**/", r"/(a)\1/", "/(?=a)/", r"/\q/", "/a{9999}/"])
def test_what_is_no_expression_of_the_engine_is_refused_with_its_reason(
    text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"is not a regular expression of RE2: \S+"):
        NamePattern.parse(text)
    assert capfd.readouterr().err == ""


def test_an_expression_that_is_not_text_is_refused() -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        NamePattern.parse("/\ud800/")


def test_an_expression_that_would_blow_up_does_not() -> None:
    # Python's own engine would be at this for ever; the test run's time-out would notice.
    assert not NamePattern.parse("/(a+)+(a|aa)+/").matches("a" * 254 + "b")


def test_patterns_of_the_same_text_are_equal() -> None:
    assert NamePattern.parse("/a.*/") == NamePattern.parse("/a.*/") != NamePattern.parse("/a./")
