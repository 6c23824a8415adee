"""How bash, zsh and fish ask for completions at TAB, and how they are answered.

click finds what can stand at the cursor; what runs in the shell, and what goes there and back, is
here. click's own scripts fall short of what meshctl and meshnode need: they split words as bash
does, at ``=`` and ``:``, so that ``NAME=VALUE`` and ``tcp://HOST:PORT`` come in pieces; they insert
values that mean something else to a shell as they are, and nodes choose names freely; they cut a
description at its first comma.

A script sets ``_PROGRAM_COMPLETE=SHELL_complete``, and ``COMP_LINE`` to the command line up to the
cursor. Each line that comes back is a kind, a value and a description with tabs between them. Kinds
are ``plain``; ``part``, which no blank follows; ``file`` and ``dir``, which the shell finds itself.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import ClassVar

import click
from click.shell_completion import CompletionItem, ShellComplete, split_arg_string

SHELLS = ("bash", "zsh", "fish")
"""Shells that there is a script for."""

CURSOR = "|"
"""Stands at the end of a line that is split, so that a last word is there, an empty one too."""

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
"""``NAME=VALUE`` before the command itself, which fish leaves in the line."""

_SPECIAL = re.compile(r"[^\w@%+=:,./-]")
"""A character that may mean something to a shell outside of quotes."""

_SPECIAL_IN_QUOTES = re.compile(r'["$`\\]')
"""A character that means something between double quotes."""


Find = Callable[[list[str], str], Iterable[CompletionItem]]
"""Finds what can go on a word: given the words before it, and what is typed of it."""


def completion_variable(program: str) -> str:
    """Return the name of the variable by which a script asks a program for completions."""
    return f"_{program.upper()}_COMPLETE"


def script(program: str, shell: str) -> str:
    """Return what a shell has to evaluate, once a session, to complete a program's arguments."""
    names = {"prog_name": program, "complete_var": completion_variable(program)}
    return _SHELLS[shell].script % names


def of_click(cli: click.Command, program: str) -> Find:
    """Return what finds completions for a command line of click's."""
    return ShellComplete(cli, {}, program, completion_variable(program)).get_completions


def words_of(line: str) -> tuple[list[str], str]:
    """Return the words of a line behind the command's, and the last one as far as it is typed."""
    words = split_arg_string(line + CURSOR)
    while words and _ASSIGNMENT.fullmatch(words[0]):
        del words[0]
    *before, last = words[1:] or [CURSOR]
    return before, last.removesuffix(CURSOR)


class Shell:
    """What the three shells have in common: what the lines for their scripts say."""

    script: ClassVar[str]

    def lines(self, line: str, find: Find) -> Iterator[str]:
        """Yield the lines that answer for a command line; of values those that have room in one."""
        before, incomplete = words_of(line)
        # What precedes a value in its word: the shell replaces the whole word.
        option, equals, _ = incomplete.partition("=")
        ahead = option + equals if equals and option.startswith("-") else ""
        for item in find(before, incomplete):
            start = ahead + str(item.before or "")
            value = start + str(item.value)
            if item.type in {"file", "dir"}:
                yield self.path_line(item.type, start, incomplete[len(start) :])
            elif value.isprintable():
                yield from self.value_line(value, item.help or "", incomplete)

    def path_line(self, kind: str, before: str, path: str) -> str:
        """Return the line that has the shell complete the path behind ``before`` in its word."""
        raise NotImplementedError

    def value_line(self, value: str, description: str, incomplete: str) -> Iterable[str]:
        """Return the line of one value; none where it cannot be written as the word was begun."""
        kind = "part" if value.endswith("=") else "plain"
        said = " ".join(description.split())
        return [f"{kind}\t{value}\t{''.join(c for c in said if c.isprintable())}"]


_BASH = """\
_%(prog_name)s_completion() {
    local program=${1/#\\~/$HOME} line kind value IFS=$'\\n'
    type -P -- "$program" >/dev/null || program=%(prog_name)s
    COMPREPLY=()
    while IFS= read -r line; do
        kind=${line%%%%$'\\t'*} value=${line#*$'\\t'}
        value=${value%%$'\\t'*}
        case $kind in
            file)
                compopt -o default
                # Readline takes "@" for the beginning of a host's name.
                [[ $2 == @* ]] && compopt -o filenames && COMPREPLY=($(compgen -P @ -f -- "${2:1}"))
                ;;
            dir) compopt -o dirnames ;;
            part) compopt -o nospace ;;&
            part|plain) COMPREPLY+=("$value") ;;
        esac
    done <<< "$(%(complete_var)s=bash_complete COMP_LINE="${COMP_LINE:0:COMP_POINT}" \\
        COMP_WORD="${COMP_WORDS[COMP_CWORD]}" COMP_REPLACED="$2" "$program" 2>/dev/null)"
}
complete -o nosort -F _%(prog_name)s_completion %(prog_name)s 2>/dev/null ||
    complete -F _%(prog_name)s_completion %(prog_name)s
"""
"""Before bash 4.4 there is no ``nosort``."""


class Bash(Shell):
    """Bash: shows no descriptions, breaks words, and inserts values as they are given."""

    script: ClassVar[str] = _BASH

    def path_line(self, kind: str, before: str, path: str) -> str:
        """Bash knows of the breaks itself."""
        return f"{kind}\t\t"

    def value_line(self, value: str, description: str, incomplete: str) -> Iterable[str]:
        """Quote the part of a value that bash replaces: that behind the last break."""
        opening = os.environ.get("COMP_WORD", "")[:1]
        replaced = os.environ.get("COMP_REPLACED", "")
        if opening not in {"'", '"'}:
            replaced = split_arg_string(replaced + CURSOR)[-1].removesuffix(CURSOR)
        kept = len(incomplete) - len(replaced) if incomplete.endswith(replaced) else 0
        quoted = _quoted(value[kept:], opening)
        return [] if quoted is None else super().value_line(quoted, "", incomplete)


def _quoted(value: str, opening: str) -> str | None:
    """Return a value as bash has to read it behind an opening quote, or behind none."""
    if opening == "'":
        return None if "'" in value else value
    if opening == '"':
        # Nothing keeps "!" from being the history between double quotes.
        return None if "!" in value else _SPECIAL_IN_QUOTES.sub(r"\\\g<0>", value)
    return _SPECIAL.sub(r"\\\g<0>", value)


_ZSH = """\
#compdef %(prog_name)s

_%(prog_name)s() {
    local program=${~words[1]} line typed
    local -a fields plain part
    whence -p -- "$program" >/dev/null || program=%(prog_name)s
    typed="${(j: :)words[1,CURRENT-1]} $IPREFIX$QIPREFIX$PREFIX"
    for line in "${(@f)$(%(complete_var)s=zsh_complete COMP_LINE=$typed "$program" 2>/dev/null)}"
    do
        fields=("${(@ps:\\t:)line}")
        case $fields[1] in
            file) compset -p $#fields[2]; _files ;;
            dir) compset -p $#fields[2]; _files -/ ;;
            part) part+=("$fields[2]") ;;
            plain) plain+=("$fields[2]") ;;
        esac
    done
    (( $#plain )) && _describe -V '' plain -U
    (( $#part )) && _describe -V '' part -U -S ''
}

if [[ $funcstack[1] == _%(prog_name)s ]]; then
    _%(prog_name)s "$@"
else
    compdef _%(prog_name)s %(prog_name)s
fi
"""
"""A file of fpath is the body of the function of its name at first, and replaces that by the one
that it defines; an eval registers the function for later."""


class Zsh(Shell):
    """Zsh: shows descriptions, and quotes what it inserts."""

    script: ClassVar[str] = _ZSH

    def path_line(self, kind: str, before: str, path: str) -> str:
        """Say what of the word is no part of the path."""
        return f"{kind}\t{before}\t"

    def value_line(self, value: str, description: str, incomplete: str) -> Iterable[str]:
        """Put value and description together as zsh's ``_describe`` takes them apart."""
        for line in super().value_line(value, description, incomplete):
            kind, value, said = line.split("\t")
            value = value.replace("\\", "\\\\").replace(":", "\\:")
            yield f"{kind}\t{value}:{said}\t" if said else f"{kind}\t{value}\t"


_FISH = """\
function _%(prog_name)s_completion
    set -l program (commandline -po)[1]
    type -q -- $program; or set program %(prog_name)s
    for line in (env %(complete_var)s=fish_complete COMP_LINE=(commandline -cp | string join ' ') \\
            $program 2>/dev/null)
        set -l fields (string split \\t -- $line)
        switch $fields[1]
            case file
                printf '%%s\\n' $fields[3](__fish_complete_path $fields[2])
            case dir
                printf '%%s\\n' $fields[3](__fish_complete_directories $fields[2])
            case '*'
                printf '%%s\\t%%s\\n' $fields[2] $fields[3]
        end
    end
end

complete --no-files --keep-order --command %(prog_name)s --arguments '(_%(prog_name)s_completion)'
"""


class Fish(Shell):
    """Fish: shows descriptions, and quotes what it inserts."""

    script: ClassVar[str] = _FISH

    def path_line(self, kind: str, before: str, path: str) -> str:
        """Say what path is to be completed, and what stands before it in the word."""
        return f"{kind}\t{path}\t{before}"


_SHELLS: Mapping[str, Shell] = {"bash": Bash(), "zsh": Zsh(), "fish": Fish()}


def answer(instruction: str, program: str, find: Find) -> int:
    """Write what the script of a shell asks for to standard output; return the exit code.

    Args:
        instruction: The value of the variable: ``bash_complete``, or ``bash_source``, by which
            programs with click give the script.
        program: The name of the program.
        find: Finds what its arguments may be.
    """
    shell, _, action = instruction.partition("_")
    if shell not in _SHELLS or action not in {"complete", "source"}:
        return 1
    text = script(program, shell) if action == "source" else ""
    if action == "complete":
        # What stands before the cursor may be wrong: there is nothing to go on with then.
        with suppress(click.ClickException):
            text = "\n".join(_SHELLS[shell].lines(os.environ.get("COMP_LINE", ""), find))
    # In bytes: words of the command line come along, and need be no text.
    sys.stdout.buffer.write(os.fsencode(f"{text}\n"))
    sys.stdout.buffer.flush()
    return 0
