"""The targets ``yaml`` and ``rules``: files of configuration, and who is let in by their rules."""

import itertools
import json
import random
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hostile.forge import Raw, to_json

from fuzz import mutate
from fuzz.engine import Target
from fuzz.functions import FunctionWorld, check_line, must
from meshnode.config import ConfigFaults, NodeConfig, load_file
from meshnode.config.check import exposures, plain_controls
from meshnode.errors import ConfigError
from meshnode.permissions import Verb, Way
from meshnode.security import access, questions
from meshnode.security.identity import (
    CertificateNames,
    Identity,
    MeshClient,
    TcpClient,
    UnixClient,
    UnknownClient,
)

GOOD = """\
---
- node: &foo {id: foo, datadir: /tmp/x, firewallrules: [{action: accept, fromnode: "/b.*/"}]}
- log-level: debug
- tcp-listener: {port: 2222, bindaddr: 127.0.0.1, tls: s, allowedpeers: [bar], nodecost: {bar: 2.5}}
- ws-peer: {address: "wss://bar.example:443/mesh", tls: c, redial: true}
- tls-server: {name: s, cert: s.crt, key: s.key, requireclientcert: true, clientcas: ca.crt,
    pinnedclientcert: ["AA:%s"], mintls13: false}
- tls-client:
    name: c
    rootcas: ca.crt
    insecureskipverify: no
- control-service: {service: control, filename: /tmp/foo.sock, permissions: 0660}
- control-service: {service: other, tcplisten: "[::1]:1", tcptls: s}
- work-command: {worktype: echo, command: bash, params: "-c 'echo hi'", timeout: 90s,
    env: {A: "1"}}
- work-verification: {publickey: a.pem}
- work-verification: {publickey: b.pem, name: ops}
- access-rule: {action: allow, who: [uid=0, node=/b.*/ and key=ops], do: submit, worktype: echo}
- tcp-server: {port: 1, remotenode: bar, remoteservice: web, tlsclient: c}
""" % ":".join(["0B"] * 31)  # noqa: UP031 - braces stand for themselves
"""A file with most kinds of values. Nothing it names is opened."""

PIECES = (
    *("- ", "  ", "\t", ": ", "{", "}", "[", "]", "|\n", ">\n", "? ", "!!python/object:os.system "),
    *("&a ", "*a", "*foo", "<<: *foo", "<<: [*foo, *foo]", "---\n", "...\n", "#", "%YAML 9.9\n"),
    *("!!binary ", "!!int ", "!!set ", "\u0085", "\u2028", "\0", "\ufeff", "\ud800", '"\\xff"'),
    *("0o777", "0777", "1_000", "1:30", ".inf", ".nan", "~", "yes", "2001-01-01", "0x1F", "1e9"),
    *('"\\ud800"', "{{", "- - - -", "null: null", "[" * 3000, "{a: " * 1500, "? [a]: b"),
)
"""What means something in YAML."""


@dataclass(frozen=True, slots=True)
class Text:
    """A file."""

    data: bytes


class YamlWorld(FunctionWorld):
    """Somebody who starts a node with a file, or checks it."""

    def prepare(self, stack: AsyncExitStack) -> None:
        """Make a place for the file."""
        place = Path(stack.enter_context(TemporaryDirectory(prefix="mn-fuzz-")))
        self._file = place / "foo.yml"

    def load(self, data: bytes) -> NodeConfig | None:
        """Return the configuration in a file, None if it is refused. Raises Harm."""
        self._file.write_bytes(data)
        try:
            return load_file(str(self._file))
        except ConfigFaults as error:
            must(bool(error.faults), "refused without a fault")
            for fault in error.faults:
                check_line(str(fault)[:4000])
            return None

    def call(self, item: object) -> None:
        """Read a file, and say what is to be said of it."""
        assert isinstance(item, Text)
        config = self.load(item.data)
        if config is not None:
            check_line(config.summary())
            for fault in (*config.warnings, *exposures(config), *plain_controls(config)):
                check_line(str(fault))
            for rule in config.rules:
                must(bool(rule.who and rule.verbs), "a rule about nobody or nothing was taken")

    def try_good(self) -> None:
        """Read a good file."""
        must(self.load(GOOD.encode()) is not None, "a good file was refused")


class Yaml(Target):
    """See the module."""

    name = "yaml"
    about = "files of configuration"

    def make(self, chance: random.Random) -> Text:
        """Return one file."""
        lines = GOOD.splitlines(keepends=True)
        for _ in range(chance.choice([1, 1, 2, 5])):
            place = chance.randrange(len(lines))
            match chance.randrange(5):
                case 0:
                    line = lines[place]
                    cut = chance.randrange(len(line) + 1)
                    lines[place] = line[:cut] + chance.choice(PIECES) + line[cut:]
                case 1:
                    words = lines[place].split(" ")
                    words[chance.randrange(len(words))] = json.dumps(mutate.text(chance))
                    lines[place] = " ".join(words)
                case 2:
                    words = lines[place].split(" ")
                    words[chance.randrange(len(words))] = chance.choice(
                        [*mutate.NUMBERS, *mutate.STRUCTURES]
                    )
                    lines[place] = " ".join(words)
                case 3:
                    del lines[place]
                    lines = lines or ["\n"]
                case _:
                    lines.insert(place, chance.choice(lines))
        data = "".join(lines).encode(errors="surrogatepass")
        return Text(mutate.damaged(data, chance) if chance.random() < 0.2 else data)

    def world(self) -> AbstractAsyncContextManager[YamlWorld]:
        """Open a world without a mesh."""
        return YamlWorld.open()


# --- Rules


@dataclass(frozen=True, slots=True)
class Rules:
    """A file with these rules, a text that clients use, and a question of an operator."""

    data: bytes
    text: str
    question: str
    denies: bool
    """Whether every rule in it denies."""


WHO = ("any", "uid=0", "gid=7", "node=bar", "key=ops", "subject=CN=x", "certnode=bar", "token=ci")
PATTERNS = (
    "/.*/",
    "/a|b/",
    "/(/",
    "/",
    "//",
    "/x",
    "/[[:alpha:]]+/",
    "/(a+)+$/",
    "/.{1000}{1000}/",
)
QUESTIONS = (
    "uid=0 submit echo params=x",
    "node=bar key=ops cancel echo units=all",
    "from=tcp ping bar",
)


class RulesWorld(YamlWorld):
    """A node whose rules are asked about clients of every kind."""

    def call(self, item: object) -> None:
        """Read rules and ask them; whoever writes one must not have let everybody in."""
        assert isinstance(item, Rules)
        try:
            check_line(str(questions.parse_question(item.question).decide((), "foo")))
        except ConfigError as error:
            check_line(str(error))
        config = self.load(item.data)
        if config is None:
            return
        rules = config.rules
        must(bool(rules), "a file with rules was read as one without")
        for asker, verb, target in _requests(item.text):
            decision = access.decide(rules, asker, verb, target)
            check_line(str(decision))
            must(not (item.denies and decision.allowed), "allowed, and each rule denies")

    def try_good(self) -> None:
        """Ask a good rule."""
        super().try_good()
        config = self.load(GOOD.encode())
        assert config is not None
        asker = access.Asker(UnixClient(0, 0, 1), Way.SOCKET)
        echo, other = (access.Target(node="foo", work_type=name) for name in ("echo", "other"))
        must(access.decide(config.rules, asker, Verb.SUBMIT, echo).allowed, "a good rule")
        must(not access.decide(config.rules, asker, Verb.SUBMIT, other).allowed, "a good rule")


def _requests(text: str) -> "itertools.product[Any]":
    shown = CertificateNames(text, (text,))
    askers: tuple[tuple[Identity, Way], ...] = (
        (UnixClient(0, 7, 1), Way.SOCKET),
        (TcpClient("127.0.0.1:1", shown), Way.TCP),
        (MeshClient(text, "x", certificate=shown), Way.MESH),
        (UnknownClient(), Way.SOCKET),
    )
    target = access.Target(node=text, work_type=text, service=text, params={"params": text})
    found = [access.Asker(identity, way, "ops") for identity, way in askers]
    return itertools.product(found, Verb, (None, target))


class RulesTarget(Target):
    """See the module."""

    name = "rules"
    about = "access rules with any values, and who asks"

    def make(self, chance: random.Random) -> Rules:
        """Return a file with one to four rules."""
        rules = [self._rule(chance) for _ in range(chance.choice([1, 1, 2, 4]))]
        denies = chance.random() < 0.3
        for rule in rules:
            if denies or chance.random() < 0.9:
                rule["action"] = "deny" if denies else chance.choice(["allow", "deny"])
        listed = [{"node": {"id": "foo"}}, {"local-only": None}]
        written = [json.dumps(one).encode() for one in listed]
        written += [b'{"access-rule":' + to_json(rule) + b"}" for rule in rules]
        data = b"[" + b",".join(written) + b"]"
        words = chance.choice(QUESTIONS).split(" ")
        words[chance.randrange(len(words))] += mutate.text(chance)[:2000]
        return Rules(data, mutate.text(chance), " ".join(words), denies)

    def _rule(self, chance: random.Random) -> dict[str, Any]:
        good: dict[str, Any] = {"action": "allow", "who": self._who(chance), "units": "own"}
        good["do"] = chance.sample([*Verb, "any"], chance.choice([1, 1, 3]))
        for name in ("worktype", "tonode", "toservice", "params", "from", "name"):
            if chance.random() < 0.2:
                good[name] = chance.choice([mutate.text(chance), *PATTERNS])
        if chance.random() < 0.6:
            return good
        return mutate.fields(good, chance, most=2)

    def _who(self, chance: random.Random) -> Any:
        found = []
        for _ in range(chance.choice([1, 1, 2])):
            who = " and ".join(chance.sample(WHO, chance.choice([1, 1, 2])))
            if chance.random() < 0.3:
                who = who.partition("=")[0] + "=" + chance.choice([mutate.text(chance), *PATTERNS])
            found.append(who)
        return found if chance.random() < 0.8 else Raw(json.dumps(found[0]))

    def world(self) -> AbstractAsyncContextManager[RulesWorld]:
        """Open a world without a mesh."""
        return RulesWorld.open()
