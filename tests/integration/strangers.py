"""Acts as a local user who is not the node's; the tests must run as root for that."""

import os
import traceback
from collections.abc import Callable

STRANGER = 4242
"""A user who owns nothing on any machine."""


def as_stranger(act: Callable[[], bool | None]) -> bool:
    """Do something as another user; return whether it was possible (and did not return False)."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            code = int(act() is False)
        except OSError:
            code = 1
        except Exception:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, 1}
    return code == 0
