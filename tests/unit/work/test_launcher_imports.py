"""The launcher's memory is shared with every supervisor: what it imports, each unit carries."""

import subprocess
import sys
from pathlib import Path

import meshnode

HEAVY = {"asyncio", "dataclasses", "inspect", "logging", "socket", "subprocess", "threading"}
HEAVY |= {"tempfile", "traceback", "trio", "typing", "pathlib"}


def test_the_launcher_imports_nothing_of_weight() -> None:
    root = Path(meshnode.__file__).parent.parent
    code = (
        f"import sys; sys.path.append({str(root)!r}); import meshnode.work.local.launcher.main; "
        "print(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    modules = set(result.stdout.split())
    assert modules & HEAVY == set()
    ours = {name for name in modules if name.startswith("meshnode.")}
    launcher = {name for name in ours if name.startswith("meshnode.work.local.launcher")}
    assert ours - launcher == {"meshnode.work", "meshnode.work.local", "meshnode.files"}
