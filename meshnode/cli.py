"""The command line of ``meshnode``: start a node, check a file, show help.

Help and checks import nothing of the network: what they need is in config/.
"""

import enum
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshnode.config import NodeConfig, check_environment, load_arguments, load_file, load_task
from meshnode.config.check import (
    cleaned_datadir,
    exposures,
    open_https,
    plain_controls,
    replaceable_audit_log,
)
from meshnode.config.directives import IGNORED_DIRECTIVES, all_directives
from meshnode.config.faults import (
    COMMAND_LINE,
    ConfigFaults,
    Fault,
    Unavailable,
    in_order,
    printable,
    quote,
    suggestion,
)
from meshnode.errors import ConfigError, MeshnodeError
from meshnode.security import keyfiles
from meshnode.security.access import AccessRules
from meshnode.security.tlsstore import read_settings
from meshnode.version import VERSION

if TYPE_CHECKING:
    from meshnode.config.cert_directives import CertDirective
    from meshnode.work.local.keptlimits import KeptLimits


class ExitCode(enum.IntEnum):
    """How ``meshnode`` ends; scripts and service managers may rely on it."""

    OK = 0
    """Stopped as asked, or the check or help was done."""

    FAILED = 1
    """The node had to end, or could not have now what it needs: another node uses its ID, a port.

    Another start may go well. Of ``check --may``: it may not be done.
    """

    CONFIGURATION = 2
    """The configuration or the command line is wrong; nothing was started, and never will be."""


USAGE = """\
usage: meshnode -c FILE [--DIRECTIVE [PARAMETER=VALUE ...] ...]
       meshnode --DIRECTIVE [PARAMETER=VALUE ...] ...
       meshnode check [--convert] FILE
       meshnode check --may 'WHO VERB [WHAT ...]' FILE
       meshnode cert COMMAND [OPTIONS]
       meshnode completion bash|zsh|fish
       meshnode --help [DIRECTIVE]
       meshnode --version

Joins this machine into a mesh of nodes and runs units of work on it. Directives
come from a YAML file (-c, --config), from the command line, or from both.
"""

EXAMPLES = """\
Examples:

  meshnode -c foo.yml
  meshnode -c foo.yml --log-level debug
  meshnode --node id=foo \\
      --tcp-listener port=2222 bindaddr=127.0.0.1 \\
      --control-service filename=/tmp/foo.sock \\
      --work-command worktype=echo command=echo params=hi
  meshnode --help tcp-listener
  meshnode cert mesh --node foo --node bar --out mesh

Signals: SIGTERM and SIGINT stop the node, and running units go on. SIGHUP has
it take its changed configuration over, as "meshctl reload" does.

  meshnode check --may 'uid=1000 submit echo params=hi' foo.yml

Exit codes: 0 stopped as asked; 1 the node failed, or a port, socket or datadir
is in use, or check --may found what may not be done; 2 wrong configuration.
"""

COMMANDS = ("check", "cert", "help", "completion", "version")
"""The first words that are no options."""

CONVERT = "--convert"
"""The option of ``meshnode check`` that prints the file as a list of directives."""

MAY = "--may"
"""The option of ``meshnode check`` that asks the access rules of a file."""

HELP_WORDS = frozenset({"--help", "-h"})


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments (``sys.argv`` by default) ask for and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except ConfigError as error:
        _complain(str(error))
        _say_as_receptor(error)
        passing = isinstance(error, Unavailable)
        return ExitCode.FAILED if passing else ExitCode.CONFIGURATION
    except MeshnodeError as error:
        _complain(f"meshnode: {error}")
        return ExitCode.FAILED


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        raise ConfigError(
            f"{COMMAND_LINE}: nothing to do; give --config FILE or directives, or see --help"
        )
    if arguments[0] == "cert":
        return _cert(arguments[1:])
    if arguments[0] == "completion":
        return _completion(arguments[1:])
    if HELP_WORDS.intersection(arguments) or arguments[0] == "help":
        return _help(arguments)
    if "--version" in arguments or arguments == ["version"]:
        _say(f"meshnode {VERSION}")
        return ExitCode.OK
    if arguments[0] == "check":
        return _check(arguments[1:])
    first = arguments[0]
    if not first.startswith("-") and (hint := suggestion(first, COMMANDS, otherwise="")):
        raise ConfigError(f"{COMMAND_LINE}: {quote(first)} is not a command; {hint}")
    task = load_task(arguments)
    if not isinstance(task, NodeConfig):
        return _make_certificates(task)
    check_environment(task)
    return _start(task, arguments)


def _cert(arguments: list[str]) -> int:
    # Imported here: nodes need none of it.
    from meshnode.certs import commands  # noqa: PLC0415

    return commands.run(arguments, _say, _warn)


def _completion(arguments: list[str]) -> int:
    # Imported here: nothing else needs it.
    from meshctl.shells import SHELLS, script  # noqa: PLC0415
    from meshnode.completion import HELP, PROGRAM  # noqa: PLC0415

    if HELP_WORDS.intersection(arguments):
        _say(HELP.rstrip())
        return ExitCode.OK
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise ConfigError(f"{COMMAND_LINE}: completion: takes one of {', '.join(SHELLS)}")
    _say(script(PROGRAM, arguments[0]).rstrip())
    return ExitCode.OK


def _make_certificates(errands: "Sequence[CertDirective]") -> int:
    """Do what directives of certificates ask for, as receptor does; no node is started."""
    from meshnode.certs.tasks import Desk, run_all  # noqa: PLC0415

    run_all(errands, Desk.at_terminal(_say, _warn))
    return ExitCode.OK


def _start(config: NodeConfig, arguments: list[str]) -> int:
    # Imported here: help and checks need none of the network's libraries.
    from meshnode import node  # noqa: PLC0415

    try:
        return node.run(config, lambda: load_arguments(arguments, for_reload=True))
    except ExceptionGroup as group:
        # An error of a task arrives in the exception groups of the nurseries that it passed.
        expected, rest = group.split(MeshnodeError)
        if rest is not None or expected is None:
            raise
        raise _first(expected) from None


def _first(group: ExceptionGroup[MeshnodeError]) -> MeshnodeError:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, ExceptionGroup) else found


def _check(arguments: list[str]) -> int:
    if MAY in arguments:
        return _ask_rules(arguments)
    files = [word for word in arguments if word != CONVERT]
    if len(files) != 1 or files[0].startswith("-"):
        raise ConfigError(f"{COMMAND_LINE}: check: takes the name of one file")
    if CONVERT in arguments:
        return _convert(files[0])
    config = load_task(["--config", files[0]])
    if not isinstance(config, NodeConfig):
        _say(f"{printable(files[0])}: ok (no node: makes certificates)")
        return ExitCode.OK
    check_environment(config)
    _check_keys(config)
    _check_tokens(config)
    _check_isolation(config)
    kept = _kept_limits(config)
    doubts = [*read_settings(config).doubts, *keyfiles.doubts(keyfiles.key_files(config))]
    unkept = () if kept is None else kept.warnings
    for warning in in_order([*_warnings(config), *doubts, *unkept]):
        _complain(warning.as_warning())
    if kept is not None:
        _say(f"{printable(files[0])}: limits of units are kept by {kept.in_words}")
    _say(f"{printable(files[0])}: ok ({config.summary()})")
    return ExitCode.OK


def _ask_rules(arguments: list[str]) -> int:
    """Say what the access rules of a file decide; it may be meant for another machine."""
    from meshnode.security.questions import parse_question  # noqa: PLC0415

    words, questions = list(arguments), []
    while MAY in words[:-1]:
        at = words.index(MAY)
        questions.append(parse_question(words[at + 1]))
        del words[at : at + 2]
    if len(words) != 1 or words[0].startswith("-"):
        raise ConfigError(f"{COMMAND_LINE}: check {MAY}: takes a question and the name of one file")
    config = load_file(words[0])
    rules = AccessRules(config.rules)
    _bound_by_tokens(config, rules)
    decisions = [question.decide(rules.asked, config.node.id) for question in questions]
    for decision in decisions:
        _say(f"{'yes' if decision.allowed else 'no'}: {decision.reason}")
    return ExitCode.OK if all(one.allowed for one in decisions) else ExitCode.FAILED


def _bound_by_tokens(config: NodeConfig, rules: AccessRules) -> None:
    """Have the rules know the verbs of tokens, as far as their files can be read here."""
    if any(service.tokens for service in config.http_services):
        # Imported here: most files have none.
        from meshnode.security.bearer import TokenStore, read_all  # noqa: PLC0415

        try:
            TokenStore(rules).apply(read_all(config))
        except ConfigFaults as error:
            for fault in error.faults:
                _complain(f"{fault}; verbs of tokens are left out of the answer")


def _warnings(config: NodeConfig) -> list[Fault]:
    # Imported here: a start needs none of it.
    from meshnode.work.missing import missing  # noqa: PLC0415

    exposed = exposures(config)
    told = {fault.place for fault in exposed}
    exposed += [fault for fault in plain_controls(config) if fault.place not in told]
    exposed += open_https(config)
    doubts = [*cleaned_datadir(config.node), *replaceable_audit_log(config)]
    return [*config.warnings, *doubts, *exposed, *missing(config)]


def _kept_limits(config: NodeConfig) -> "KeptLimits | None":
    """Return what this machine keeps of limits, None if none are wanted. Raises ConfigFaults."""
    if not any(one.limits for one in config.work_types):
        return None
    # Imported here: most files have no limits.
    from meshnode.work.local.keptlimits import kept_limits  # noqa: PLC0415

    return kept_limits(config)


def _convert(file: str) -> int:
    """Print a file in the list form. It may be meant for another machine: only it is checked."""
    from meshnode.config.convert import list_form  # noqa: PLC0415

    load_task(["--config", file])
    _say(list_form(file).removesuffix("\n"))
    return ExitCode.OK


def _check_isolation(config: NodeConfig) -> None:
    """Try out the isolation of work as a start would. Raises ConfigFaults."""
    if not any(one.is_isolated for one in config.work_types):
        return
    # Imported here: most files isolate nothing.
    from meshnode.work.local.isolation import isolation_plans  # noqa: PLC0415

    isolation_plans(config)


def _check_keys(config: NodeConfig) -> None:
    """Read the keys as a start would. Raises ConfigFaults."""
    if config.work_signing or config.work_verifications:
        # Imported here: a file without keys needs none of the libraries that read them.
        from meshnode.security.tokens import make_signer, make_verifier  # noqa: PLC0415

        make_signer(config)
        make_verifier(config)


def _check_tokens(config: NodeConfig) -> None:
    """Read the tokens of HTTP services as a start would. Raises ConfigFaults."""
    if any(service.tokens for service in config.http_services):
        # Imported here: most files have none.
        from meshnode.security.bearer import read_all  # noqa: PLC0415

        read_all(config)


def _help(arguments: list[str]) -> int:
    """Show the directive that is named among the arguments, wherever, or the overview."""
    from meshnode.config.help import directive_help, directive_list  # noqa: PLC0415

    words = [word.lower().removeprefix("--") for word in arguments if word not in HELP_WORDS]
    words = words[1:] if words[:1] == ["help"] else words
    if words[:1] == ["cert"]:
        return _cert([*words[1:], "--help"])
    if words[:1] == ["completion"]:
        return _completion(["--help"])
    topics = [cls.INFO for cls in all_directives() if cls.INFO.name in words]
    if topics:
        _say("\n\n".join(directive_help(info) for info in topics))
    elif words and words != ["check"]:
        raise ConfigError(f"{COMMAND_LINE}: {_no_help(words[0])}")
    else:
        _say(f"{USAGE}\n{directive_list()}\n\n{EXAMPLES}".rstrip())
    return ExitCode.OK


def _no_help(word: str) -> str:
    if word in IGNORED_DIRECTIVES:
        return f"{word}: has no effect here; {IGNORED_DIRECTIVES[word]}"
    names = [cls.INFO.name for cls in all_directives()]
    hint = suggestion(word, names, otherwise="meshnode --help lists all directives")
    return f"--help: there is no directive {quote(word)}; {hint}"


def _say(text: str) -> None:
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # `meshnode --help | head`: the reader has left, and the flush at exit must not raise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_as_receptor(error: ConfigError) -> None:
    """Say on stdout what receptor says there, for tools that look for it."""
    faults = error.faults if isinstance(error, ConfigFaults) else ()
    for words in dict.fromkeys(fault.receptors_words for fault in faults if fault.receptors_words):
        _say(f"Error: {words}")


def _warn(text: str) -> None:
    _complain(f"warning: {text}")


def _complain(text: str) -> None:
    sys.stderr.write(text + "\n")
