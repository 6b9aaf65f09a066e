"""Memory that two processes of one host share, so that tensors need not go through a socket.

One side makes a file in memory under a name that nobody can guess, the other opens it, and the name
is gone before the first tensor: nothing remains if both are killed. Each direction has half of it
and uses it as a ring. ``multiprocessing.shared_memory`` would do, but before Python 3.13 its
tracker removes memory that another process made. Where there is no ``/dev/shm``, tensors go through
the socket. Who writes when is left to :mod:`internvl35.serve.link`. No counterpart in the paper.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import stat
from collections import deque
from pathlib import Path

FOLDER = Path("/dev/shm")
_NAME = re.compile(r"internvl35-[0-9a-f]{32}")


class SharedRing:
    """Both halves of the memory, as one side sees them.

    Args:
        file: descriptor of the file; is closed.
        half_bytes: of one direction.
        is_maker: whether this side made it, whose half is the first.
    """

    def __init__(self, file: int, half_bytes: int, *, is_maker: bool) -> None:
        """Map the file."""
        try:
            self._map = mmap.mmap(file, 2 * half_bytes)
        finally:
            os.close(file)
        whole = memoryview(self._map)
        first, second = whole[:half_bytes], whole[half_bytes:]
        self._own, self._theirs = (first, second) if is_maker else (second, first)
        whole.release()
        self._used: deque[tuple[int, int]] = deque()  # bytes and start, oldest first
        self._end = 0

    @property
    def num_used_bytes(self) -> int:
        """Bytes of our half that the peer has not read."""
        return sum(size for size, _ in self._used)

    def put(self, payload: bytes | bytearray | memoryview) -> int | None:
        """Write a tensor into our half.

        Args:
            payload: not empty.

        Returns:
            Where it begins; None if there is no room in one piece.
        """
        data = memoryview(payload).cast("B")
        start = self._find(len(data))
        if start is None:
            return None
        self._own[start : start + len(data)] = data
        self._used.append((len(data), start))
        self._end = start + len(data)
        return start

    def _find(self, size: int) -> int | None:
        """Look for room: behind the newest tensor, or else in front of the oldest."""
        if not self._used:
            return 0 if size <= len(self._own) else None
        oldest = self._used[0][1]
        if self._end > oldest:
            if size <= len(self._own) - self._end:
                return self._end
            return 0 if size < oldest else None
        return self._end if size < oldest - self._end else None

    def free(self, num_bytes: int) -> None:
        """Give room back that the peer has read.

        Args:
            num_bytes: the length of the oldest tensor.

        Raises:
            ValueError: if it is not.
        """
        if not self._used or self._used[0][0] != num_bytes:
            raise ValueError(
                f"{num_bytes} bytes are given back; the oldest tensor has another size"
            )
        self._used.popleft()

    def take(self, start: int, target: memoryview) -> None:
        """Copy a tensor out of the peer's half.

        Args:
            start: where it begins.
            target: as long as it is.

        Raises:
            ValueError: if it does not lie in that half.
        """
        if start + len(target) > len(self._theirs):
            raise ValueError("a tensor reaches over the end of the shared memory")
        target[:] = self._theirs[start : start + len(target)]

    def close(self) -> None:
        """Give the memory back; a second call is harmless."""
        self._own.release()
        self._theirs.release()
        self._map.close()


def make_ring(half_bytes: int) -> tuple[str, SharedRing] | None:
    """Make memory to be shared.

    Args:
        half_bytes: of one direction.

    Returns:
        Its name, to be removed by :func:`forget_name`, and the memory; None if the host has none.
    """
    name = f"internvl35-{secrets.token_hex(16)}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file = os.open(FOLDER / name, flags, 0o600)
    except OSError:
        return None
    try:
        os.posix_fallocate(file, 0, 2 * half_bytes)  # a hole would end the process when written
    except OSError:
        os.close(file)
        forget_name(name)
        return None
    return name, SharedRing(file, half_bytes, is_maker=True)


def open_ring(name: str, half_bytes: int) -> SharedRing | None:
    """Open memory that a peer made.

    Args:
        name: as the peer says.
        half_bytes: of one direction, as the peer says.

    Returns:
        The memory; None if it is not there, not ours, or of another size.
    """
    if not _NAME.fullmatch(name) or half_bytes < 1:
        return None
    try:
        file = os.open(FOLDER / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    found = os.fstat(file)
    is_right = (
        stat.S_ISREG(found.st_mode)
        and found.st_uid == os.getuid()
        and not found.st_mode & 0o077
        and found.st_size == 2 * half_bytes
    )
    if not is_right:
        os.close(file)
        return None
    return SharedRing(file, half_bytes, is_maker=False)


def forget_name(name: str) -> None:
    """Remove a name; the memory lives on as long as somebody has it open."""
    (FOLDER / name).unlink(missing_ok=True)
