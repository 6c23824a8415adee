"""Two builds can be told apart by what they say of themselves, and a release says its number."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

import meshctl.version
import meshnode.version
from meshnode import __version__
from meshnode.version import COMMIT_FILE, VERSION, commit_of, version_of

ROOT = Path(__file__).parents[2]
COMMIT = "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d"
OURS = f"{__version__}+g{COMMIT[:7]}"
NEEDS_GIT = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory like ours, whose HEAD is on a branch."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "meshnode"\n')
    (tmp_path / "meshnode").mkdir()
    write(tmp_path / ".git" / "HEAD", "ref: refs/heads/a/b\n")
    write(tmp_path / ".git" / "refs" / "heads" / "a" / "b", f"{COMMIT}\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def version_in(checkout: Path) -> str:
    return version_of(checkout / "meshnode")


def test_a_branch_is_its_commit(checkout):
    assert version_in(checkout) == OURS


def test_a_branch_that_git_has_packed_is_its_commit(checkout):
    (checkout / ".git" / "refs" / "heads" / "a" / "b").unlink()
    assert version_in(checkout) == __version__
    packed = f"# pack-refs with: peeled\n{'0' * 40} refs/heads/a\n{COMMIT} refs/heads/a/b\n"
    write(checkout / ".git" / "packed-refs", packed)
    assert version_in(checkout) == OURS


def test_a_checkout_without_a_branch_is_its_commit(checkout):
    write(checkout / ".git" / "HEAD", f"{COMMIT}\n")
    assert version_in(checkout) == OURS


@pytest.mark.parametrize("absolute", [True, False])
def test_a_further_work_tree_has_a_commit_of_its_own(checkout, tmp_path, absolute):
    tree = tmp_path / "tree"
    (tree / "meshnode").mkdir(parents=True)
    shutil.copy(checkout / "pyproject.toml", tree)
    directory = checkout / ".git" / "worktrees" / "tree"
    where = directory if absolute else os.path.relpath(directory, tree)
    write(tree / ".git", f"gitdir: {where}\n")
    write(directory / "HEAD", "ref: refs/heads/a/b\n")
    write(directory / "commondir", "../..\n")
    assert version_in(tree) == OURS


def test_what_a_build_has_left_is_told_and_nothing_else(checkout):
    write(checkout / "meshnode" / COMMIT_FILE, "ffffffff\n")
    assert version_in(checkout) == f"{__version__}+gfffffff"


def test_a_release_is_called_by_its_number(checkout):
    shutil.rmtree(checkout / ".git")
    assert version_in(checkout) == __version__


def test_the_checkout_of_another_project_is_not_ours(checkout):
    (checkout / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert commit_of(checkout) == ""


@given(st.binary(max_size=60), st.sampled_from(["HEAD", "refs/heads/main", "packed-refs"]))
def test_whatever_stands_in_the_files_of_git_there_is_a_version(
    tmp_path_factory, content: bytes, name: str
):
    directory = tmp_path_factory.getbasetemp() / "odd"
    shutil.rmtree(directory, ignore_errors=True)
    write(directory / "pyproject.toml", 'name = "meshnode"')
    write(directory / ".git" / "HEAD", "ref: refs/heads/main")
    (directory / ".git" / "refs" / "heads").mkdir(parents=True)
    (directory / ".git" / name).write_bytes(content)
    assert version_in(directory).startswith(__version__)


def test_both_programs_say_the_same():
    assert meshctl.version.VERSION == VERSION
    ours, theirs = (Path(module.__file__) for module in (meshnode.version, meshctl.version))
    assert theirs.read_text() == ours.read_text().replace("meshnode import", "meshctl import")


# --- builds --------------------------------------------------------------------------------------


def git(directory: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ("git", *identity, "-C", str(directory), *words)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def setup(directory: Path, *words: str | Path) -> None:
    pytest.importorskip("setuptools")
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "setup.py", "-q", *words]
    subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True)


def said_by(build: Path) -> list[str]:
    """Return what the two programs of a build call themselves."""
    path = f"import sys; sys.path.insert(0, {str(build)!r})"
    code = "import meshnode.version as n, meshctl.version as c; print(n.VERSION, c.VERSION)"
    command = [sys.executable, "-I", "-c", f"{path}; {code}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of what we build."""
    copy = tmp_path / "sources"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("meshnode", "meshctl"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, copy)
    return copy


@NEEDS_GIT
def test_what_is_built_from_a_checkout_knows_its_commit_without_it(sources, tmp_path):
    git(sources, "init", "-q")
    git(sources, "add", ".")
    git(sources, "commit", "-q", "-m", "all")
    expected = f"{__version__}+g{git(sources, 'rev-parse', 'HEAD')[:7]}"
    assert said_by(sources) == [expected, expected]
    setup(sources, "build", "--build-lib", tmp_path / "built")
    setup(sources, "sdist", "--dist-dir", tmp_path)
    assert list(sources.rglob(COMMIT_FILE)) == []
    shutil.rmtree(sources)
    assert said_by(tmp_path / "built") == [expected, expected]
    archive = tmp_path / f"meshnode-{expected}.tar.gz"
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    setup(tmp_path / f"meshnode-{expected}", "build", "--build-lib", tmp_path / "again")
    assert said_by(tmp_path / "again") == [expected, expected]


def test_what_is_built_from_a_release_has_only_its_number(sources, tmp_path):
    setup(sources, "build", "--build-lib", tmp_path / "built")
    assert said_by(tmp_path / "built") == [__version__, __version__]
