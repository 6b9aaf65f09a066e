"""Labels that mark what stands where in a drawn picture, for dense lessons of a vision tower.

Which patch carries which label is left to :mod:`internvl35.data.synthetic.patch_labels`.
"""

from __future__ import annotations

from dataclasses import dataclass

GLYPHS = (
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    ".,:;!?'\"()[]{}+-*/=<>%$&#@_^|\\~"
)
"""Characters that are printed."""

COLOUR_NAMES = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey",
)  # fmt: skip
"""Colours that have a name."""

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "rectangle", "heart")
"""Shapes that have a name."""

PARTS = (
    "window", "title", "button", "field", "checkbox", "radio", "slider", "tab", "link", "icon",
    "menu", "bar", "point", "slice", "axis", "legend", "wall", "door", "furniture", "person",
    "symbol", "line", "photo",
)  # fmt: skip
"""Other things that pictures are made of."""

ICONS = (
    "house", "gear", "magnifier", "heart", "star", "envelope", "bell", "bin", "plus", "minus",
    "cross", "check", "play", "pause", "person", "cart", "lock", "camera", "clock", "flag",
    "pencil", "cloud", "sun", "moon", "arrow left", "arrow right", "arrow up", "arrow down",
)  # fmt: skip
"""Icons that have a name."""

FURNITURE = (
    "table", "chair", "bed", "sofa", "lamp", "plant", "desk", "shelf", "sink", "bath", "stove",
    "fridge", "door", "window", "tv", "rug",
)  # fmt: skip
"""Things in a room that have a name."""

MARK_LABELS: tuple[str, ...] = (
    *(f"glyph:{glyph}" for glyph in GLYPHS),
    *(f"colour:{colour}" for colour in COLOUR_NAMES),
    *(f"shape:{shape}" for shape in SHAPES),
    *(f"part:{part}" for part in PARTS),
    *(f"icon:{icon}" for icon in ICONS),
    *(f"furniture:{thing}" for thing in FURNITURE),
)
"""Every label a mark can carry; the order is fixed, as trained heads depend on it."""

_KNOWN = frozenset(MARK_LABELS)


@dataclass(frozen=True)
class Mark:
    """What stands where in a picture."""

    label: str
    """One of ``MARK_LABELS``."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the picture; right and bottom are exclusive."""

    def __post_init__(self) -> None:
        """Refuse a label that no head is trained for."""
        assert self.label in _KNOWN, f"no label {self.label}"
