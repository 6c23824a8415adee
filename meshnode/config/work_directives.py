"""The directives of work: the types of work that a node offers, with their limits."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import yaml

from meshnode.arguments import Argument
from meshnode.config import names
from meshnode.config.faults import quote
from meshnode.config.isolation_directives import IsolatedDirective
from meshnode.config.job_arguments import argument_list, directories, line_of_help, variable_names
from meshnode.config.kinds import (
    FALSE,
    TRUE,
    Kind,
    boolean,
    choice,
    duration,
    list_of,
    map_of,
    shell_words,
    size,
    text,
    whole,
)
from meshnode.config.limit_values import JobLimits, job_limits
from meshnode.config.names import Wrong
from meshnode.config.schema import Directive, directive, parameter
from meshnode.surroundings import (
    NO_DIRECTORIES,
    NO_NAMES,
    AllowedDirectories,
    AllowedNames,
)


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


def plain_map() -> Kind[Mapping[str, Any]]:
    """Return the kind of a map of anything that JSON can carry."""
    label = "map"

    def read(node: yaml.Node) -> Mapping[str, Any]:
        if isinstance(node, yaml.ScalarNode):
            value = _load_json(node.value)
        else:
            # The node came from SafeLoader, so only plain values can be in it.
            loader = yaml.SafeLoader("")
            try:
                value = loader.construct_document(node)
                json.dumps(value, allow_nan=False)
            except (yaml.YAMLError, TypeError, ValueError):
                raise Wrong("has values that JSON cannot carry, such as dates") from None
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise Wrong(f"is not a {label} of names to values")
        return MappingProxyType(value)

    return Kind(label, read, lambda value: json.dumps(dict(value)))


def _load_json(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise Wrong(f"{quote(value)} is not a map") from None


def left_processes() -> Kind[bool | tuple[str, ...] | None]:
    """Return the kind of what is left running after a unit's end; None is nothing."""
    label = "true, false or a list of names of programs"
    patterns = list_of(text("name of a program", _check_pattern), label)

    def read(node: yaml.Node) -> bool | tuple[str, ...] | None:
        if isinstance(node, yaml.ScalarNode) and str(node.value).lower() in TRUE | FALSE:
            return str(node.value).lower() in TRUE or None
        return patterns.read(node)

    return Kind(label, read, repeatable=True)


def _check_pattern(value: str) -> str:
    if not value.strip("*?"):
        raise Wrong(f"{quote(value)} matches every process; to leave all of them, write true")
    if value.startswith("/"):
        name = value.rpartition("/")[2]
        raise Wrong(f"{quote(value)} has a directory; programs are named without: {quote(name)}")
    return value


MOST_AT_ONCE: Final = 1_000_000
"""Units that may run at once at most; no machine runs as many."""

WORK_TYPE: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({"work type": ("worktype",)})
"""No two directives may offer the same type of work."""

NAME_OF_TYPE = text("name without spaces", names.check_work_type)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class WorkDirective(IsolatedDirective):
    """What every type of work has: its name, who may ask, what it gets, what it may not exceed."""

    RELOADABLE = True

    worktype: str = parameter(NAME_OF_TYPE, "name by which clients ask for it")
    help: str = parameter(
        line_of_help(), "what it does, for those who ask", default="", default_text="none"
    )
    verifysignature: bool = parameter(
        boolean(), "run only signed work, except from the unix socket", default=False
    )
    env: Mapping[str, str] = parameter(
        map_of(text("name", names.check_variable), text(), "map of name to value"),
        "environment variables that it gets beside the node's own",
        default_factory=_empty,
        default_text="none",
    )
    cleanenv: bool = parameter(
        boolean(),
        "of the node's own environment give it PATH, HOME, USER, LOGNAME, SHELL, LANG, LC_ALL and "
        "TZ only",
        default=False,
    )
    cwd: str = parameter(
        text("absolute path", names.check_absolute, on_disk="dir"),
        "directory that it starts in",
        default="",
        default_text="the node's own",
    )
    allowruntimeenv: AllowedNames = parameter(  # a frozen value
        variable_names(),
        "environment variables that clients may add",
        default=NO_NAMES,
        default_text="none",
    )
    allowruntimecwd: AllowedDirectories = parameter(  # as above
        directories(),
        "directories in which clients may have it start, with all below them",
        default=NO_DIRECTORIES,
        default_text="none",
    )
    timeout: float | None = parameter(
        duration(0.001, "1ms"),
        "end it, as failed, when it has run for so long",
        default=None,
        default_text="never",
    )
    maxoutput: int | None = parameter(
        size(),
        "end it, as failed, when it has printed more than that, errors included",
        default=None,
        default_text="no limit",
    )
    stderr: str = parameter(
        choice(("merge", "separate")),
        "where its errors go: to its stdout, or to a file of their own",
        default="merge",
    )
    timestamps: bool = parameter(boolean(), "keep when each line of its output came", default=False)
    maxconcurrent: int | None = parameter(
        whole(1, MOST_AT_ONCE),
        "run at most so many of its units at once; the others wait, by priority and then in the "
        "order in which they came",
        default=None,
        default_text="any number",
    )
    limits: JobLimits | None = parameter(
        job_limits(),
        "what the processes of each unit may have, all together: see docs/limits.md",
        default=None,
        default_text="none",
    )
    limits_optional: bool = parameter(
        boolean(),
        "start, with a warning, where this machine cannot keep these limits",
        default=False,
        name="limits-optional",
    )
    grace: float = parameter(
        duration(0, "0s"),
        "time until SIGKILL when it is canceled or exceeds a limit: it gets SIGINT first, and "
        "SIGTERM when its timeout is over",
        default=10.0,
    )


@directive(
    "work-command",
    "Offer a type of work that runs a command.",
    section="Work",
    example=(("worktype", "echo"), ("command", "bash"), ("params", '-c "echo hi"')),
    claims=WORK_TYPE,
    ignored=("allowruntimeenvvars",),
)
class WorkCommand(WorkDirective):
    """A command that clients may run, and its first arguments."""

    command: str = parameter(
        text(least=1, on_disk="file"), "program to run, by path or as found in PATH"
    )
    params: tuple[str, ...] = parameter(
        shell_words(), "its arguments; no shell runs them", default=(), default_text="none"
    )
    arguments: tuple[Argument, ...] = parameter(
        argument_list(),
        "what clients give it by name, and where in params as {name}: docs/typed-jobs.md",
        default=(),
        default_text="none",
    )
    allowruntimeparams: bool = parameter(
        boolean(), "let clients add arguments of their own", default=False
    )
    allowscripts: bool = parameter(
        boolean(),
        "let clients send scripts, which it runs as the word after params: docs/files.md",
        default=False,
    )
    leave_processes: bool | tuple[str, ...] | None = parameter(
        left_processes(),
        "what goes on after the end of a unit: all that its command leaves, or processes of these "
        "names, with `*` as in a shell; see docs/containers.md",
        default=None,
        default_text="false",
        name="leave-processes",
    )


@directive(
    "work-python",
    "Offer a type of work that calls a Python function of an installed plugin.",
    section="Work",
    example=(("worktype", "greet"), ("plugin", "greeter"), ("function", "greet")),
    claims=WORK_TYPE,
)
class WorkPython(WorkDirective):
    """A function that clients may call; see docs/plugins.md."""

    plugin: str = parameter(
        text(least=1), "name of an entry point of group meshnode.worker or receptor.worker"
    )
    function: str = parameter(text(least=1), "function of it that is marked with plugin_export")
    config: Mapping[str, Any] = parameter(
        plain_map(),
        "what the function gets as its config",
        default_factory=_empty,
        default_text="none",
    )


@directive(
    "work-kubernetes",
    "Declare a type of work that runs in Kubernetes. A node cannot run it yet: it is not "
    "advertised, and submissions of it are refused.",
    section="Work",
    example=(("worktype", "kubeit"), ("authmethod", "incluster"), ("namespace", "work")),
    claims=WORK_TYPE,
    ignored=("allowruntimeenvvars",),
)
class WorkKubernetes(Directive):
    """What receptor's directive has, so that a configuration with it is checked and starts."""

    RELOADABLE = True

    worktype: str = parameter(NAME_OF_TYPE, "name by which clients ask for it")
    namespace: str = parameter(
        text(), "Kubernetes namespace to create pods in", default="", default_text="none"
    )
    image: str = parameter(
        text(), "image of the container that works", default="", default_text="none"
    )
    command: str = parameter(
        text(), "command of the container", default="", default_text="the image's"
    )
    params: str = parameter(text(), "arguments of the command", default="", default_text="none")
    authmethod: str = parameter(
        choice(("incluster", "kubeconfig", "runtime")),
        "where access to the cluster comes from",
        default="incluster",
    )
    kubeconfig: str = parameter(
        text("file", on_disk="file"), "file of access data", default="", default_text="none"
    )
    pod: str = parameter(
        text("file", on_disk="file"),
        "file of a pod's definition, as JSON or YAML",
        default="",
        default_text="none",
    )
    allowruntimeauth: bool = parameter(boolean(), "let clients give access data", default=False)
    allowruntimecommand: bool = parameter(
        boolean(), "let clients choose image and command", default=False
    )
    allowruntimeparams: bool = parameter(
        boolean(), "let clients add arguments of their own", default=False
    )
    allowruntimepod: bool = parameter(
        boolean(), "let clients give a pod's definition", default=False
    )
    deletepodonrestart: bool = parameter(
        boolean(), "delete a pod that is still pending when the node starts", default=True
    )
    streammethod: str = parameter(
        choice(("logger", "tcp")), "how payload and results reach the pod", default="logger"
    )
    verifysignature: bool = parameter(
        boolean(), "run only signed work, except from the unix socket", default=False
    )


WORK_DIRECTIVES: Final[tuple[type[WorkDirective | WorkKubernetes], ...]] = (
    WorkCommand,
    WorkPython,
    WorkKubernetes,
)
