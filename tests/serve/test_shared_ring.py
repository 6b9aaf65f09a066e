from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl35.serve import shared_ring
from internvl35.serve.shared_ring import SharedRing, forget_name, make_ring, open_ring

HALF = 64


@pytest.fixture
def pair() -> Iterator[tuple[str, SharedRing, SharedRing]]:
    made = make_ring(HALF)
    assert made is not None
    name, own = made
    other = open_ring(name, HALF)
    assert other is not None
    yield name, own, other
    own.close()
    other.close()
    forget_name(name)


@given(st.lists(st.integers(1, HALF + 1) | st.none(), max_size=60))
def test_no_tensor_is_overwritten_before_it_is_freed(steps: list[int | None]) -> None:
    """A number writes a tensor of that many bytes, None reads and frees the oldest."""
    made = make_ring(HALF)
    assert made is not None
    name, own = made
    other = open_ring(name, HALF)
    forget_name(name)
    assert other is not None
    waiting: deque[tuple[int, bytes]] = deque()
    for number, size in enumerate([*steps, *[None] * len(steps)]):
        if size is not None:
            payload = bytes([number]) * size
            start = own.put(payload)
            assert start is not None or waiting or size > HALF
            if start is not None:
                waiting.append((start, payload))
        elif waiting:
            start, payload = waiting.popleft()
            target = bytearray(len(payload))
            other.take(start, memoryview(target))
            assert target == payload
            own.free(len(payload))
        assert own.num_used_bytes == sum(len(payload) for _, payload in waiting)
    assert own.put(bytes(HALF)) == 0
    own.close()
    other.close()


def test_each_side_writes_into_its_own_half(pair: tuple[str, SharedRing, SharedRing]) -> None:
    _, own, other = pair
    target = bytearray(1)
    assert own.put(b"a") == other.put(b"b") == 0
    own.take(0, memoryview(target))
    assert target == b"b"
    other.take(0, memoryview(target))
    assert target == b"a"


def test_what_a_peer_says_about_the_memory_is_checked(
    pair: tuple[str, SharedRing, SharedRing],
) -> None:
    _, own, _ = pair
    own.put(b"four")
    for start, size in ((HALF, 1), (HALF - 3, 4), (2**63, 1)):
        with pytest.raises(ValueError, match="over the end"):
            own.take(start, memoryview(bytearray(size)))
    for wrong in (3, 5, 0, -4):
        with pytest.raises(ValueError, match="another size"):
            own.free(wrong)
    own.free(4)
    with pytest.raises(ValueError, match="another size"):
        own.free(4)


def test_only_memory_of_ours_under_a_name_of_ours_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_ring, "FOLDER", tmp_path)
    name = "internvl35-" + "0" * 32
    file = tmp_path / name
    for other in ("../secret", "internvl35-" + "0" * 31, "internvl35-" + "g" * 32, name + "\n"):
        assert open_ring(other, HALF) is None
    assert open_ring(name, HALF) is None
    (tmp_path / "secret").write_bytes(bytes(2 * HALF))
    file.symlink_to(tmp_path / "secret")
    assert open_ring(name, HALF) is None
    file.unlink()
    file.write_bytes(bytes(2 * HALF))
    file.chmod(0o640)
    assert open_ring(name, HALF) is None
    file.chmod(0o600)
    assert open_ring(name, HALF + 1) is None
    assert open_ring(name, 0) is None
    ring = open_ring(name, HALF)
    assert ring is not None
    ring.close()
    file.unlink()
    os.mkfifo(file)
    assert open_ring(name, HALF) is None


def test_names_cannot_be_guessed_and_files_are_ours_alone() -> None:
    names = set()
    for _ in range(20):
        made = make_ring(HALF)
        assert made is not None
        name, ring = made
        assert (shared_ring.FOLDER / name).stat().st_mode & 0o777 == 0o600
        forget_name(name)
        assert not (shared_ring.FOLDER / name).exists()
        assert ring.put(b"it works without a name") == 0
        ring.close()
        names.add(name)
    assert len(names) == 20
    assert min(map(len, names)) == len("internvl35-") + 32


def test_a_host_without_such_memory_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_ring, "FOLDER", Path("/nowhere"))
    assert make_ring(HALF) is None
