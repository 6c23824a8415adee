"""The program that runs one Python function as a unit: ``python -I pluginmain.py``.

It is a command like any other to the launcher: the payload is its stdin, and what the function puts
into its queue goes to stdout, a line of JSON an item. Why it failed goes to stderr, which is the
unit's stdout too.

The interpreter is isolated (``-I``): modules never come from the working directory, which may be
anybody's. :func:`trusted_places` are added behind the standard library, so a file ``queue.py``
there does not take the library's place.
"""

import importlib.metadata
import json
import os
import queue
import site
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def trusted_places(environment: Mapping[str, str]) -> list[str]:
    """Return where modules may come from beside the interpreter's own places.

    That is where meshnode lies, the absolute directories of PYTHONPATH, and the packages of the
    user, if that is whose node this is. A relative or empty entry of PYTHONPATH means the working
    directory and is left out.
    """
    listed = environment.get("PYTHONPATH", "").split(os.pathsep)
    places = [str(Path(__file__).resolve().parents[3]), *filter(os.path.isabs, listed)]
    if "PYTHONNOUSERSITE" not in environment and site.check_enableusersite() is not None:
        places.append(site.getusersitepackages())
    return [place for place in dict.fromkeys(places) if place not in sys.path]


if sys.flags.isolated:
    sys.path.extend(trusted_places(os.environ))

from meshnode import plugins  # noqa: E402  # found only now, where meshnode is not installed

GROUPS = ("meshnode.worker", "receptor.worker")
"""Entry point groups in which plugins are looked for, in this order."""

FAILED = 1
USAGE = 2

UNIT_DIR_VARIABLE = "MESHNODE_UNIT_DIR"
"""Set by the supervisor for every command."""

Results = queue.Queue[Any]


class PluginError(Exception):
    """The plugin or its function cannot be called; the text says why."""


class _End:
    """Put into the queue after the function's last result."""


def find_function(plugin: str, name: str) -> Callable[..., Any]:
    """Return the exported function of an installed plugin.

    Raises:
        PluginError: there is no such plugin or function, or clients may not call it.
    """
    found = [
        e for group in GROUPS for e in importlib.metadata.entry_points(group=group, name=plugin)
    ]
    if not found:
        raise PluginError(f"no plugin {plugin} is installed (entry point group {GROUPS[0]})")
    function: Callable[..., Any] | None = getattr(found[0].load(), name, None)
    if function is None or not callable(function):
        raise PluginError(f"plugin {plugin} has no function {name}")
    if not getattr(function, "receptor_export", False):
        raise PluginError(f"function {name} of plugin {plugin} is not marked with plugin_export")
    return function


def payload_for(function: Callable[..., Any]) -> object:
    """Return the unit's input in the form that the function asks for.

    Raises:
        PluginError: it asks for none that there is.
    """
    kind = getattr(function, "payload_type", plugins.BYTES_PAYLOAD)
    if kind == plugins.BYTES_PAYLOAD:
        return sys.stdin.buffer.read()
    if kind == plugins.BUFFER_PAYLOAD:
        return sys.stdin.buffer
    if kind == plugins.FILE_PAYLOAD:
        return str(Path(os.environ[UNIT_DIR_VARIABLE]) / "stdin")
    raise PluginError(f"payload_type {kind!r} is none of bytes, buffer and file")


def call(function: Callable[..., Any], config: dict[str, Any]) -> None:
    """Call the function; write its results as they come, and all of them before returning."""
    results: Results = queue.Queue()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            function(payload_for(function), config, results)
        except BaseException as error:  # noqa: BLE001 - raised again where it can be told
            failure.append(error)
        finally:
            results.put(_End)

    # The function may run for hours and the main thread is the one that signals interrupt, so the
    # main thread writes and the other one, which may be left behind, works.
    threading.Thread(target=work, daemon=True).start()
    while (item := results.get()) is not _End:
        sys.stdout.write(json.dumps(item) + "\n")
        sys.stdout.flush()
        # receptor's plugins may wait on their queue with join().
        results.task_done()
    if failure:
        raise failure[0]


def main(argv: list[str] | None = None) -> int:
    """Run ``PLUGIN FUNCTION CONFIG`` and return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 3:
        sys.stderr.write("usage: python -I pluginmain.py PLUGIN FUNCTION CONFIG\n")
        return USAGE
    plugin, name, config = arguments
    # Plugins written for receptor import its helper module by this name.
    sys.modules.setdefault("receptor", plugins)
    message = "cannot load worker"
    try:
        function = find_function(plugin, name)
        message = "worker failed"
        call(function, json.loads(config))
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises is the unit's failure
        sys.stdout.flush()
        text = str(error) if isinstance(error, PluginError) else repr(error)
        sys.stderr.write(f"{message}: {text}\n")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
