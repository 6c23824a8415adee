"""What a client may choose of a job's surroundings: variables of its environment, its directory.

An operator lets clients give variables by name, or by how their names begin. Names by which a
program decides which code it runs are let through only where each stands by itself: a pattern that
was written for something else must not let a client run what it likes.
"""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

from meshnode.arguments import quoted

WILDCARD: Final = "*"

OWN_PREFIX: Final = "MESHNODE_UNIT_"
"""Begins the variables that say to a command which unit it is; nobody else sets them."""

SENSITIVE_PREFIXES: Final = ("LD_", "MESHNODE_", "BASH_FUNC_", "PYTHON", "PERL5", "RUBY")
"""How names begin that change which code the system's loader, a shell or an interpreter runs."""

SENSITIVE_NAMES: Final = frozenset(
    {
        *("PATH", "HOME", "SHELL", "USER", "LOGNAME", "IFS", "ENV", "BASH_ENV", "SHELLOPTS"),
        *("BASHOPTS", "PS4", "PROMPT_COMMAND", "CDPATH", "GCONV_PATH", "GLIBC_TUNABLES"),
        *("LOCPATH", "NLSPATH", "HOSTALIASES", "RES_OPTIONS", "PERLLIB", "NODE_OPTIONS"),
        *("NODE_PATH", "CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"),
        *("EDITOR", "VISUAL", "PAGER", "TMPDIR"),
    }
)
"""Names that do so, or that say where a program finds its configuration."""

MAX_NAMES: Final = 256
"""Names and patterns of one type of work."""

MAX_CWD: Final = 4095
"""Bytes of a path that Linux takes (PATH_MAX without its NUL)."""

_NAME: Final = re.compile(r"[^\s=*]+")


@dataclass(frozen=True, slots=True)
class AllowedNames:
    """The variables that clients may give; made by :meth:`parse`. Without any, none."""

    texts: tuple[str, ...] = ()
    """As they were written: names, and beginnings of names with a ``*`` behind."""
    _names: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    _prefixes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Return what an operator's texts allow.

        Raises:
            ValueError: one of them allows nothing, or what nobody may have; the text names it.
        """
        texts = tuple(texts)
        for text in texts:
            _check_allowed(text)
        names = frozenset(text for text in texts if not text.endswith(WILDCARD))
        prefixes = tuple(text[:-1] for text in texts if text.endswith(WILDCARD))
        return cls(texts, names, prefixes)

    def allows(self, name: str) -> bool:
        """Whether a client may give the variable of that name."""
        if name in self._names:
            return True
        return name.startswith(self._prefixes) and not is_sensitive(name)

    def check(self, name: str, value: str) -> None:
        """Return if a client may give this variable this value.

        Raises:
            ValueError: it may not, or no program can be given that.
        """
        if not (_NAME.fullmatch(name) and name.isprintable()):
            raise ValueError(f"{quoted(name)} cannot name an environment variable")
        if not self.allows(name):
            raise ValueError(self._refusal(name))
        if "\0" in value:
            raise ValueError(f"variable {name} has a NUL character, which no program can be given")

    def _refusal(self, name: str) -> str:
        if not self.texts:
            return "the type takes no environment variables"
        if is_sensitive(name) and name.startswith(self._prefixes):
            return f"variable {name} is not allowed: only its full name in allowruntimeenv lets it"
        return f"variable {quoted(name)} is not allowed; the type takes {', '.join(self.texts)}"


NO_NAMES: Final = AllowedNames()


def is_sensitive(name: str) -> bool:
    """Whether a variable may change which code a command runs."""
    return name in SENSITIVE_NAMES or name.startswith(SENSITIVE_PREFIXES)


def _check_allowed(text: str) -> None:
    name = text.removesuffix(WILDCARD)
    if (name or not text) and not (_NAME.fullmatch(name) and name.isprintable()):
        raise ValueError(
            f"{quoted(text)} is neither the name of a variable nor the beginning of names with a "
            "* behind it"
        )
    if name.startswith(OWN_PREFIX):
        raise ValueError(f"{quoted(text)} cannot be given by clients: the node sets {OWN_PREFIX}*")
    if text != name and name.startswith(SENSITIVE_PREFIXES):
        raise ValueError(
            f"{quoted(text)} is too wide: such variables change which code runs; list each by its "
            "full name"
        )


# --- The working directory ----------------------------------------------------------------------

ROOT: Final = "/"


@dataclass(frozen=True, slots=True)
class AllowedDirectories:
    """The directories that clients may have their work start in: these, and all below them."""

    roots: tuple[str, ...] = ()

    def check(self, path: str) -> str:
        """Return the directory that a client's path means.

        Symbolic links are followed by the system, when the work starts.

        Raises:
            ValueError: it is none, or not one of these; the text says so.
        """
        if not self.roots:
            raise ValueError("the type takes no working directory")
        if not path.startswith(ROOT) or "\0" in path:
            raise ValueError(f"working directory {quoted(path)} is not an absolute path")
        if len(path.encode(errors="surrogatepass")) > MAX_CWD:
            raise ValueError(f"the working directory has more than {MAX_CWD} bytes")
        if ".." in path.split("/"):
            raise ValueError(f"working directory {quoted(path)} has .. in it; write it without")
        # normpath leaves two slashes at the beginning as they are.
        normal = posixpath.normpath("/" + path.lstrip("/"))
        if not any(_is_within(normal, root) for root in self.roots):
            roots = ", ".join(self.roots)
            raise ValueError(f"working directory {quoted(path)} is not in {roots}")
        return normal


NO_DIRECTORIES: Final = AllowedDirectories()


def _is_within(path: str, root: str) -> bool:
    return path == root or path.startswith(root if root == ROOT else f"{root}/")
