"""Questions to a file's access rules in words, and what ``meshnode check --may`` answers."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.cli import ExitCode, main
from meshnode.errors import ConfigError
from meshnode.permissions import Verb, Way
from meshnode.security.access import Asker, Target
from meshnode.security.identity import (
    CertificateNames,
    MeshClient,
    TcpClient,
    TokenClient,
    UnixClient,
)
from meshnode.security.questions import UNKNOWN, Question, parse_question

ANN = UnixClient(1000, UNKNOWN, 0)
FOO = MeshClient("foo")
CARD = CertificateNames("CN=ann, really", ("foo",))

QUESTIONS = {
    "uid=1000 submit echo params=x": Question(
        Asker(ANN, Way.SOCKET),
        Verb.SUBMIT,
        Target(work_type="echo", params={"params": "x"}, owner=ANN),
    ),
    "uid=1000 gid=7 cancel echo tonode=bar": Question(
        Asker(UnixClient(1000, 7, 0), Way.SOCKET),
        Verb.CANCEL,
        Target(node="bar", work_type="echo", owner=UnixClient(1000, 7, 0)),
    ),
    "node=foo key=ops results echo units=all": Question(
        Asker(FOO, Way.MESH, "ops"), Verb.RESULTS, Target(work_type="echo")
    ),
    "'subject=CN=ann, really' certnode=foo connect bar control": Question(
        Asker(TcpClient("a TCP client", CARD), Way.TCP),
        Verb.CONNECT,
        Target(node="bar", service="control", owner=TcpClient("a TCP client", CARD)),
    ),
    "token=ci ping bar": Question(
        Asker(TokenClient("ci", "an HTTP client"), Way.TCP),
        Verb.PING,
        Target(node="bar", owner=TokenClient("ci", "an HTTP client")),
    ),
    "uid=1000 submit echo 'params=a  b' other=": Question(
        Asker(ANN, Way.SOCKET),
        Verb.SUBMIT,
        Target(work_type="echo", params={"params": "a  b", "other": ""}, owner=ANN),
    ),
    "uid=1000 reload": Question(Asker(ANN, Way.SOCKET), Verb.RELOAD, Target(owner=ANN)),
}


@pytest.mark.parametrize(("text", "question"), QUESTIONS.items(), ids=QUESTIONS)
def test_a_question_has_the_words_of_rules(text: str, question: Question) -> None:
    assert parse_question(text) == question


WRONG = {
    "": "nothing that can be asked for",
    "uid=1": "nothing that can be asked for",
    "uid=1 explode": "nothing that can be asked for",
    "submit echo": "say from where: from=mesh or from=socket or from=tcp",
    "key=ops submit echo": "say from where: from=mesh or from=tcp",
    "uid=ann submit echo": "is not the number of a user or group",
    "uid=1 node=foo submit echo": "no client has both",
    "uid=1 from=mesh submit echo": 'does not come from "mesh"',
    "uid=1 from=moon submit echo": 'does not come from "moon"',
    "uid=1 ping bar baz": "ping takes tonode=",
    "uid=1 reload now": "reload takes nothing",
    "uid=1 cancel params=x": "cancel takes tonode=, units=, worktype=",
    "uid=1 cancel units=mine": "own is a unit of the client's",
    "uid=1 submit 'echo": "cannot be split into words",
}


@pytest.mark.parametrize(("text", "problem"), WRONG.items(), ids=WRONG)
def test_what_is_no_question_is_refused_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_question(text)
    assert problem in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@given(st.text())
def test_any_text_is_a_question_or_refused(text: str) -> None:
    with suppress(ConfigError):
        assert parse_question(text).verb in Verb


FILE = """\
- local-only
- node: foo
- access-rule: {action: deny, who: any, do: submit, tonode: foo, params: /.*bad.*/, name: bad}
- access-rule: {action: allow, who: uid=1000, do: [submit, cancel], units: own}
"""

ANSWERS = {
    "uid=1000 submit echo": (True, "allowed by rule {f}:4"),
    "uid=1000 submit echo params=bad": (False, 'denied by rule "bad" ({f}:3)'),
    "uid=1000 submit echo params=bad tonode=localhost": (False, 'denied by rule "bad" ({f}:3)'),
    "uid=1000 submit echo params=bad tonode=bar": (True, "allowed by rule {f}:4"),
    "uid=1000 cancel echo": (True, "allowed by rule {f}:4"),
    "uid=1000 cancel echo units=all": (False, "no rule allows it"),
    "uid=1001 cancel echo": (False, "no rule allows it"),
}


@pytest.mark.parametrize(("text", "answer"), ANSWERS.items(), ids=ANSWERS)
def test_check_says_whether_something_may_be_done_and_which_rule_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, answer: tuple[bool, str]
) -> None:
    file = tmp_path / "foo.yml"
    file.write_text(FILE)
    allowed, reason = answer
    code = main(["check", "--may", text, str(file)])
    assert code == (ExitCode.OK if allowed else ExitCode.FAILED)
    said = f"{'yes' if allowed else 'no'}: {reason.format(f=file)}\n"
    assert capsys.readouterr() == (said, "")


def test_of_several_questions_all_must_be_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "foo.yml"
    file.write_text(FILE)
    asked = ["--may", "uid=1000 submit a", "--may", "uid=1 submit a"]
    assert main(["check", *asked, str(file)]) == ExitCode.FAILED
    assert [line[:3] for line in capsys.readouterr().out.splitlines()] == ["yes", "no:"]


@pytest.mark.parametrize("arguments", [["--may"], ["--may", "uid=1 reload"], ["a", "--may", "b"]])
def test_a_question_without_a_file_or_words_is_wrong(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *arguments]) == ExitCode.CONFIGURATION
    assert len(capsys.readouterr().err.splitlines()) == 1


@given(st.text(), st.sampled_from([question.split(" ") for question in QUESTIONS]), st.data())
def test_whatever_is_asked_the_answer_is_one_printable_line(text, words, data):
    place = data.draw(st.integers(0, len(words) - 1))
    asked = " ".join([*words[:place], words[place] + text, *words[place + 1 :]])
    try:
        answer = str(parse_question(asked).decide((), "foo"))
    except ConfigError as error:
        answer = str(error)
    assert answer.isprintable()


@pytest.mark.parametrize(("mode", "answer"), [(0o600, "no"), (0o644, "yes")])
def test_verbs_of_tokens_are_in_the_answer_as_far_as_they_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int, answer: str
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"- {{name: ci, token: '{'7' * 32}', verbs: [ping]}}\n")
    tokens.chmod(mode)
    file = tmp_path / "foo.yml"
    file.write_text(f"- local-only\n- http-service: {{port: 8043, tokens: {tokens}}}\n")
    main(["check", "--may", "token=ci reload", "--may", "token=ci ping bar", str(file)])
    told = capsys.readouterr()
    assert [line.partition(":")[0] for line in told.out.splitlines()] == [answer, "yes"]
    assert ("can be read by other users" in told.err) == (answer == "yes")
