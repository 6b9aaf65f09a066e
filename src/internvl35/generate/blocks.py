"""Who holds which block of the key-value cache, and which blocks may be used again.

A block holds the keys and values of a fixed number of tokens. Sequences that begin alike hold the
same blocks; a block that nobody holds any more keeps its content until its place is needed, longest
unused first. What a block's content is called is left to :mod:`internvl35.generate.prefix`, the
tensors to :mod:`internvl35.generate.paged_attention`. No counterpart in the paper.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence


class BlockPool:
    """Blocks by their numbers, counted by who holds them.

    Args:
        num_blocks: blocks in all.

    Raises:
        ValueError: if there are none.
    """

    def __init__(self, num_blocks: int) -> None:
        """Begin with all blocks free."""
        if num_blocks < 1:
            raise ValueError(f"num_blocks is {num_blocks}; needed: at least 1")
        self.num_blocks = num_blocks
        self._num_holders = [0] * num_blocks
        self._names: list[bytes | None] = [None] * num_blocks
        self._named: dict[bytes, int] = {}
        self._empty: deque[int] = deque(range(num_blocks))
        self._idle: OrderedDict[int, None] = OrderedDict()  # named, held by nobody, oldest first

    @property
    def num_available(self) -> int:
        """Blocks that nobody holds."""
        return len(self._empty) + len(self._idle)

    def find(self, names: Iterable[bytes]) -> list[int]:
        """Find the longest run of blocks with given contents.

        Args:
            names: of the contents, from a sequence's beginning on.

        Returns:
            The blocks of the first names, as far as they are known. They are not held yet.
        """
        found: list[int] = []
        for name in names:
            block = self._named.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def num_idle(self, blocks: Iterable[int]) -> int:
        """Count the blocks among some that nobody holds."""
        return sum(not self._num_holders[block] for block in blocks)

    def hold(self, blocks: Iterable[int]) -> None:
        """Add a holder to blocks that :meth:`find` found."""
        for block in blocks:
            self._num_holders[block] += 1
            self._idle.pop(block, None)

    def take(self, count: int) -> list[int]:
        """Hand out blocks to write into; contents that are longest unused are given up.

        Args:
            count: at most ``num_available``.

        Returns:
            Blocks with one holder.

        Raises:
            ValueError: if there are fewer; nothing is taken then.
        """
        if count > self.num_available:
            raise ValueError(f"{count} blocks are wanted but {self.num_available} are available")
        taken = [self._take() for _ in range(count)]
        for block in taken:
            self._num_holders[block] = 1
        return taken

    def _take(self) -> int:
        if self._empty:
            return self._empty.popleft()
        block, _ = self._idle.popitem(last=False)
        name = self._names[block]
        assert name is not None
        del self._named[name]
        self._names[block] = None
        return block

    def name(self, block: int, name: bytes) -> None:
        """Tell what a block holds, so that others can find it.

        Args:
            block: held and full; it is not written to from now on.
            name: of its content and of everything in front of it. If another block has the same
                content already, that one is found and this one stays nameless.
        """
        assert self._num_holders[block]
        assert self._names[block] is None
        if name not in self._named:
            self._named[name] = block
            self._names[block] = name

    def release(self, blocks: Sequence[int]) -> None:
        """Take a holder away from the blocks of a sequence.

        Args:
            blocks: in the sequence's order. Its end is given up first, since a beginning is found
                more often.
        """
        for block in reversed(blocks):
            assert self._num_holders[block] > 0, f"block {block} is held by nobody"
            self._num_holders[block] -= 1
            if self._num_holders[block]:
                continue
            if self._names[block] is None:
                self._empty.append(block)
            else:
                self._idle[block] = None

    def forget(self) -> None:
        """Give up all contents, as after the weights have changed; held blocks stay held."""
        for block in self._idle:
            self._empty.append(block)
        self._idle.clear()
        self._named.clear()
        self._names = [None] * self.num_blocks

    def check(self, held: Iterable[Sequence[int]]) -> None:
        """Compare the books with what sequences say they hold.

        Args:
            held: blocks of every sequence.

        Raises:
            AssertionError: if a block is lost, doubled or miscounted.
        """
        counts = Counter(block for blocks in held for block in blocks)
        for block, found in enumerate(self._num_holders):
            assert found == counts[block], f"block {block}: {found} holders, {counts[block]} users"
        free = [*self._empty, *self._idle]
        assert len(set(free)) == len(free), "a block is free twice"
        assert not set(free) & set(counts), "a block is free and held"
        assert len(free) + len(counts) == self.num_blocks, "a block is lost"
        assert all(self._names[block] == name for name, block in self._named.items())
        named = {block for block, name in enumerate(self._names) if name is not None}
        assert named == set(self._named.values()), "a name is lost"
        assert set(self._idle) <= named
        assert not set(self._empty) & named
