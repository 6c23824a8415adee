import pytest
import trio
from work_fakes import FakeMesh, FakeNode, inline_run_sync

# A test that may wait for time must ask for autojump_clock itself: pytest-trio looks no further.


@pytest.fixture
def inline_threads(monkeypatch):
    monkeypatch.setattr(trio.to_thread, "run_sync", inline_run_sync)


@pytest.fixture
def mesh(inline_threads):
    return FakeMesh()


@pytest.fixture
def foo(mesh, tmp_path):
    return FakeNode(mesh, "foo", tmp_path)


@pytest.fixture
def bar(mesh, tmp_path):
    return FakeNode(mesh, "bar", tmp_path)
