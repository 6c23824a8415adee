"""``meshctl auth can``: what is asked, and how the answer ends."""

import json

import pytest

CAN = '{"command": "auth"'


@pytest.fixture
def asked(node):
    """Questions that the node got; it answers with ``node.answer``."""
    questions = []
    node.answer = {"Allowed": True, "Here": True}

    def answer(session, line):
        questions.append(json.loads(line))
        session.send(node.answer)
        return True

    node.handlers[CAN] = answer
    return questions


QUESTIONS = {
    "submit echo": {"verb": "submit", "worktype": "echo"},
    "submit echo --node bar --signwork --tls-client t": {
        "verb": "submit",
        "worktype": "echo",
        "node": "bar",
        "signwork": "true",
        "tlsclient": "t",
    },
    "submit echo -a key=value -- a b": {
        "verb": "submit",
        "worktype": "echo",
        "params": {"key": "value", "params": "a b"},
    },
    "cancel abcdefgh": {"verb": "cancel", "unitid": "abcdefgh"},
    "list": {"verb": "list"},
    "adopt abcdefgh --node bar": {"verb": "adopt", "unitid": "abcdefgh", "node": "bar"},
    "connect bar echo": {"verb": "connect", "node": "bar", "service": "echo"},
    "ping bar": {"verb": "ping", "node": "bar"},
    "reload": {"verb": "reload"},
    "mesh-status": {"verb": "mesh-status"},
}


@pytest.mark.parametrize(("words", "question"), QUESTIONS.items(), ids=QUESTIONS)
def test_what_is_meant_is_asked_and_nothing_done(meshctl, node, asked, words, question):
    result = meshctl("auth", "can", *words.split())
    assert (result.exit_code, result.stdout, result.stderr) == (0, "yes\n", "")
    assert asked == [{"command": "auth", "subcommand": "can", **question}]
    assert len(node.lines) == 1


ANSWERS = {
    "yes": ({"Allowed": True, "Here": True}, 0, "yes\n"),
    "no": ({"Allowed": False, "Reason": "permission denied: x"}, 1, "no: permission denied: x\n"),
    "unknown": ({"Allowed": None, "Reason": "bar is away"}, 102, "unknown: bar is away\n"),
    "something else": ({"Allowed": "yes"}, 102, "unknown\n"),
    "nothing": ({}, 102, "unknown\n"),
}


@pytest.mark.parametrize(("answer", "code", "said"), ANSWERS.values(), ids=ANSWERS)
def test_the_answer_is_the_exit_code(meshctl, node, asked, answer, code, said):
    node.answer = answer
    result = meshctl("auth", "can", "reload")
    assert (result.exit_code, result.stdout, result.stderr) == (code, said, "")
    result = meshctl("auth", "can", "reload", "--json")
    assert (result.exit_code, json.loads(result.stdout), result.stderr) == (code, answer, "")


WRONG = {
    "submit": "auth can submit needs worktype.",
    "connect bar": "auth can connect needs node service.",
    "ping bar baz": "auth can ping takes node.",
    "reload now": "auth can reload takes nothing.",
    "adopt abcdefgh": "auth can adopt needs --node: ",
    "cancel abcdefgh --signwork": "--signwork and --param are of submit and adopt.",
    "explode": "'explode' is not one of 'submit', ",
}


@pytest.mark.parametrize(("words", "problem"), WRONG.items(), ids=WRONG)
def test_what_is_no_question_is_wrong_usage(meshctl, node, asked, words, problem):
    result = meshctl("auth", "can", *words.split())
    assert result.exit_code == 103
    assert problem in result.stderr
    assert asked == []


def test_a_node_without_access_rules_is_named(meshctl, node):
    result = meshctl("auth", "can", "reload")
    assert result.exit_code == 104
    assert "node foo has no access rules" in result.stderr
