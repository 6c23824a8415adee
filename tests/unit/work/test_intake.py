"""Payloads on their way to disk: whole or not at all, whatever their length and their end."""

import errno
import hashlib
import os

import pytest
import trio

from meshnode.work.units.intake import WRITE, Input, UnitFile, WrongInput, take_input

SIZES = [0, 1, WRITE - 1, WRITE, WRITE + 1, 3 * WRITE + 17, 9 * WRITE + 1]


@pytest.fixture
def file(tmp_path):
    unit_file = UnitFile(tmp_path / "stdin", append=False)
    yield unit_file
    unit_file.close()


def client(data, end=b""):
    """Return what receives ``data`` in odd pieces and then an end: bytes, or what is raised."""
    rest = memoryview(data)

    async def receive(most):
        nonlocal rest
        await trio.lowlevel.checkpoint()
        piece, rest = rest[: most - 7], rest[most - 7 :]
        if piece:
            return bytes(piece)
        if isinstance(end, Exception):
            raise end
        return end

    return receive


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("size", SIZES)
async def test_a_payload_of_any_length_is_stored_as_it_came(size, keep, file, tmp_path):
    data = os.urandom(size)
    received = await take_input(client(data), file, Input(), keep=keep)
    assert (tmp_path / "stdin").read_bytes() == data
    assert received.size == size
    assert received.sha256 == (hashlib.sha256(data).hexdigest() if keep else "")


@pytest.mark.parametrize("size", SIZES)
async def test_a_client_that_is_lost_is_told_whatever_was_written(size, file):
    lost = trio.BrokenResourceError("gone")
    with pytest.raises(trio.BrokenResourceError, match="gone"):
        await take_input(client(bytes(size), lost), file, Input())


@pytest.mark.parametrize("size", [1, WRITE, 3 * WRITE])
async def test_more_than_announced_is_refused(size, file):
    with pytest.raises(WrongInput, match="more than"):
        await take_input(client(bytes(size)), file, Input(size=size - 1))


@pytest.mark.parametrize("size", [1, WRITE, 3 * WRITE])
async def test_another_payload_than_announced_is_refused(size, file):
    with pytest.raises(WrongInput, match="SHA-256"):
        await take_input(client(bytes(size)), file, Input(sha256=hashlib.sha256().hexdigest()))


@pytest.mark.parametrize("size", [1, WRITE, 5 * WRITE])
async def test_a_disk_that_refuses_ends_the_intake(size, file):
    def refuse(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file.write = refuse
    with pytest.raises(OSError, match="No space left"):
        await take_input(client(bytes(size)), file, Input())
