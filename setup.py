"""Leaves the commit of a build in its packages; everything else is in pyproject.toml.

See meshnode/version.py. A source distribution is a build, too: what is built from it later, without
the checkout, has the commit from there.
"""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

# What builds runs this file without its directory on the path.
sys.path.insert(0, str(Path(__file__).parent))

from meshnode.version import COMMIT_FILE, VERSION

PACKAGES = ("meshnode", "meshctl")


def leave_commit(root: str) -> None:
    """Write the commit into the packages below a directory, unless there is none."""
    _, _, commit = VERSION.partition("+g")
    for package in PACKAGES if commit else ():
        (Path(root) / package / COMMIT_FILE).write_text(f"{commit}\n")


class Build(build_py):
    """A build of the packages."""

    def run(self) -> None:
        """Build, and leave the commit; an editable install has the checkout to ask."""
        super().run()
        if not self.editable_mode:
            leave_commit(self.build_lib)


class SourceDistribution(sdist):
    """An archive of the sources."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Gather the sources, and leave the commit in them."""
        super().make_release_tree(base_dir, files)
        leave_commit(base_dir)


setup(version=VERSION, cmdclass={"build_py": Build, "sdist": SourceDistribution})
