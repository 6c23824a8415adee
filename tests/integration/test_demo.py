"""The demo that ``make demo`` runs, for real."""

import subprocess
import sys

from shell_examples import ROOT


def test_the_demo_shows_all_to_be_as_the_guide_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("demo: all as the guide says")
