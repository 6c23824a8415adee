"""The top group: how a command line of meshctl ends, whatever comes of it."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from meshctl.api.errors import CannotReach, ControlError
from meshctl.commands.completion import offered
from meshctl.commands.exits import code_of
from meshctl.commands.grammar import StrictGroup, unknown_option
from meshctl.commands.hints import hint
from meshctl.commands.options import Invocation
from meshctl.render.output import ExitCode, Failure, discard_stdout, print_error, sentence

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

BOOLEAN_WORDS = {"true", "false", "t", "f", "yes", "no", "y", "n", "on", "off", "1", "0"}
"""What click takes as the value of a boolean option."""

TEXTS = ("socket", "config", "tls_client", "rootcas", "key", "cert", "token_file")
"""The global options whose values are texts."""


class MeshctlGroup(StrictGroup):
    """The top group: every way to fail ends in one line on stderr and a named exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line; ends the process with its exit code, as click does."""
        code = self._run(args, prog_name or "meshctl", complete_var, extra)
        if standalone_mode:
            sys.exit(code)
        return code

    def _run(
        self,
        args: Sequence[str] | None,
        prog_name: str,
        complete_var: str | None,
        extra: dict[str, Any],
    ) -> int:
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return ExitCode.WRONG_USAGE
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else prog_name
            text = error.format_message()
            if isinstance(error, click.NoSuchOption):
                text = unknown_option(error)
            print_error(f"{sentence(text)} See: {path} --help")
            return ExitCode.WRONG_USAGE
        except click.ClickException as error:
            if error.message:
                print_error(error.format_message())
            return error.exit_code
        except click.Abort:
            return ExitCode.INTERRUPTED
        return code if isinstance(code, int) else ExitCode.OK

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; foreign errors become failures here, before click sees them."""
        try:
            return super().invoke(ctx)
        except ControlError as error:
            raise Failure(f"{error}{_instead(ctx, error)}", code_of(error)) from error
        except KeyboardInterrupt as error:
            raise Failure("", ExitCode.INTERRUPTED) from error
        except BrokenPipeError as error:
            discard_stdout()
            raise Failure("", ExitCode.OUTPUT_CLOSED) from error
        except OSError as error:
            # Every other OSError has its own handler: what is left is our output.
            discard_stdout()
            text = f"cannot write the output: {error.strerror or error}"
            raise Failure(text, ExitCode.LOCAL_IO) from error

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let ``--insecureskipverify`` stand alone, as people write it, or with a value.

        receptorctl's takes a value, and scripts give one.
        """
        for i, word in enumerate(args):
            if word in self.commands:
                break
            if word == "--insecureskipverify":
                following = args[i + 1].lower() if i + 1 < len(args) else ""
                if following not in BOOLEAN_WORDS:
                    args = [*args[:i], "--insecureskipverify=true", *args[i + 1 :]]
                break
        rest = super().parse_args(ctx, args)
        if ctx.resilient_parsing:
            # At TAB no command runs that would make it: whom to ask stands in the options so far.
            options = {field: ctx.params.get(field) or "" for field in TEXTS}
            insecure = bool(ctx.params.get("insecureskipverify"))
            ctx.obj = Invocation(**options, insecureskipverify=insecure)
        return rest


def value_or_command(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """Complete what follows --insecureskipverify: a value, or the command where there is none."""
    return [
        *offered((("true", ""), ("false", "")), incomplete),
        *ctx.command.shell_complete(ctx, incomplete),
    ]


def _instead(ctx: click.Context, error: ControlError) -> str:
    """Which node a mistyped ``--node`` may have meant."""
    if not isinstance(error, CannotReach) or not isinstance(ctx.obj, Invocation):
        return ""
    with ctx.obj.client() as client:
        return hint(client, str(error), error.address.removeprefix("node "), "")
