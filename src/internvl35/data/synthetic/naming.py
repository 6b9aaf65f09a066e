"""Names of drawn things in sentences: articles, plurals, ordinals.

What things are called is left to :mod:`internvl35.data.synthetic.labels` and the families. No
counterpart in the paper.
"""

from __future__ import annotations

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
"""What comes at which place, from 0."""


def with_article(name: str) -> str:
    """A name after "a" or "an"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(name: str) -> str:
    """Name of several things of one kind."""
    return name + ("es" if name.endswith(("s", "x")) else "s")
