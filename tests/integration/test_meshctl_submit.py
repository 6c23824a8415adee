"""meshctl submits to real nodes what a person has typed."""

import json
import sys

from harness import Cluster, free_port

WORDS = ["echo one; exit 3", "", "it's", '"', "#", "a\\", "*", "$HOME", "two\nlines", "ä", "-x"]

SHOW = {
    "command": sys.executable,
    "params": "-c \"import json, sys; print(json.dumps(sys.argv[1:]), end='')\"",
    "allowruntimeparams": True,
}


def test_each_word_of_the_command_line_is_one_argument_of_the_command(cluster: Cluster) -> None:
    port = free_port()
    cluster.node("bar", listen=port, work={"show": SHOW})
    foo = cluster.node("foo", peers=[port], work={"show": SHOW})
    foo.wait_service("bar")
    for node in ("foo", "bar"):
        submission = ["work", "submit", "show", "--node", node, "-n", "-f"]
        assert json.loads(foo.meshctl(*submission, "--", *WORDS)) == WORDS
        # What receptorctl's users know as params is one text of several words.
        printed = foo.meshctl(*submission, "-a", "params=one 'two three'", "four five")
        assert json.loads(printed) == ["one", "two three", "four five"]


def test_a_script_is_one_word_and_its_exit_code_is_passed_on(cluster: Cluster) -> None:
    bashc = {"command": "bash", "params": "-c", "allowruntimeparams": True}
    foo = cluster.node("foo", work={"bashc": bashc})
    submission = ["work", "submit", "bashc", "-n", "-f", "--propagate", "--", "echo one; exit 3"]
    done = cluster.run("meshctl", "--socket", foo.socket, *submission, check=False)
    assert (done.returncode, done.stdout) == (3, b"one\n")
