"""Pointing at the elements of a drawn screen, and telling what they are.

Drawing the screen is left to :mod:`internvl35.data.synthetic.screens.screen_layouts`. The answers
have the forms of the released models: a click in parts of the sides, a box in thousandths. No
counterpart in the paper, which evaluates grounding on ScreenSpot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from internvl35.data.grounding import (
    is_inside,
    middle_of,
    overlap,
    read_place,
    write_box,
    write_click,
)
from internvl35.data.synthetic.drawing import Box, Chance, Drawing, Pool, Turn
from internvl35.data.synthetic.naming import plural, with_article
from internvl35.data.synthetic.screens.icons import ICON_NAMES
from internvl35.data.synthetic.screens.screen_layouts import compose_screen
from internvl35.data.synthetic.screens.screen_places import tell_apart
from internvl35.data.synthetic.screens.screen_wordings import (
    BOX_USE_WORDINGS,
    BOX_WORDINGS,
    CHOSEN_WORDINGS,
    CLICK_WORDINGS,
    COUNT_WORDINGS,
    ELEMENT_WORDINGS,
    EXISTS_WORDINGS,
    ICON_WORDINGS,
    ORDER_WORDINGS,
    SELECTED_WORDINGS,
    TEXT_WORDINGS,
    TICKED_WORDINGS,
    TITLE_WORDINGS,
    USE_WORDINGS,
    VALUE_WORDINGS,
)
from internvl35.data.synthetic.screens.screen_words import LABELS, choose_label, is_telling
from internvl35.data.synthetic.screens.widgets import Screen, Widget
from internvl35.scoring import exact_match

NOUNS = {
    "button": "button", "field": "field", "checkbox": "checkbox", "radio": "radio button",
    "slider": "slider", "tab": "tab", "link": "link", "menu": "menu", "row": "list item",
}  # fmt: skip
"""What the kinds of elements are called in questions and answers."""

STEP = 5
"""Boxes are given in thousandths that are multiples of this; finer ones no small model can see."""

_KINDS: dict[str, float] = {
    "point text": 5, "point icon": 4, "box text": 3, "box icon": 2.5, "text": 2, "element": 1.2,
    "state": 1.5, "selected": 1, "exists": 1.2, "count": 1.5, "icon name": 1.8,
}  # fmt: skip
"""How often each kind is asked where it can be."""


class Screens:
    """A screen with buttons, fields, icons and the like; most answers point at one of them."""

    name = "screens"

    def draw(self, chance: Chance) -> Drawing:
        """Draw a screen and ask three to five things about it."""
        rng = chance.rng
        screen = compose_screen(chance)
        asker = _Asker(chance, screen)
        kinds = dict(_KINDS)
        turns: list[Turn] = []
        wanted = rng.randint(3, 5)
        while kinds and len(turns) < wanted:
            kind = rng.choices(list(kinds), list(kinds.values()))[0]
            turn = asker.ask(kind)
            kinds[kind] /= 4
            if turn is None:
                del kinds[kind]
            elif all(turn.question != other.question for other in turns):
                turns.append(turn)
            elif kinds[kind] < 0.01:
                del kinds[kind]
        rng.shuffle(turns)
        return Drawing(
            self.name,
            (screen.image,),
            tuple(turns),
            (tuple(screen.marks),),
            unseen=chance.unseen,
        )

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """A place is right if it, or its middle, lies in the target; a box also has its ``iou``."""
        if turn.box is None:
            return {"right": float(exact_match(turn.answer, answer))}
        place = read_place(answer)
        right = float(place is not None and is_inside(middle_of(place), turn.box))
        if not turn.kind.startswith("box"):
            return {"right": right}
        return {"right": right, "iou": 0.0 if place is None else overlap(place, turn.box)}


class _Asker:
    """Questions about one screen."""

    def __init__(self, chance: Chance, screen: Screen) -> None:
        self.chance, self.rng, self.screen = chance, chance.rng, screen
        self.labelled = [widget for widget in screen.widgets if widget.label]
        self.icons = [widget for widget in screen.widgets if widget.icon]

    def ask(self, kind: str) -> Turn | None:
        """Ask one thing; None if the screen has nothing to be asked so."""
        makers: dict[str, Callable[[], Turn | None]] = {
            "point text": lambda: self._point_text(is_box=False),
            "box text": lambda: self._point_text(is_box=True),
            "point icon": lambda: self._point_icon(is_box=False),
            "box icon": lambda: self._point_icon(is_box=True),
            "text": self._text,
            "element": self._element,
            "state": self._state,
            "selected": self._selected,
            "exists": self._exists,
            "count": self._count,
            "icon name": self._icon_name,
        }
        return makers[kind]()

    def _share(self, widget: Widget) -> Box:
        width, height = self.screen.image.size
        left, top, right, bottom = widget.box
        return left / width, top / height, right / width, bottom / height

    def _shares(self, widgets: Sequence[Widget]) -> list[Box]:
        return [self._share(widget) for widget in widgets]

    def _place(self, widget: Widget, name: str, *, is_box: bool) -> str:
        box = self._share(widget)
        if not is_box:
            return write_click(middle_of(box))
        steps = 1000 // STEP
        return write_box(name, tuple(round(side * steps) / steps for side in box))

    def _point_text(self, *, is_box: bool) -> Turn | None:
        if not self.labelled:
            return None
        rng, widget = self.rng, self.rng.choice(self.labelled)
        label, noun = widget.label, NOUNS.get(widget.kind, "icon")
        name, bare = rng.choice(
            (
                (f'"{label}"', label),
                (f'"{label}"', label),
                (f"the {label} {noun}", f"{label} {noun}"),
                (f'the "{label}" {noun}', f"{label} {noun}"),
                (f'the {noun} "{label}"', f"{label} {noun}"),
            )
        )
        return self.chance.turn(
            BOX_WORDINGS if is_box else CLICK_WORDINGS,
            self._place(widget, bare, is_box=is_box),
            "box text" if is_box else "point text",
            parts={"name": name, "bare": bare},
            box=self._share(widget),
        )

    def _choose_icon(self, icons: Sequence[Widget]) -> Widget:
        """One of some icons, seldom the one that closes the window: it always stands there."""
        weights = [0.2 if widget.icon == "cross" else 1.0 for widget in icons]
        return self.rng.choices(icons, weights)[0]

    def _point_icon(self, *, is_box: bool) -> Turn | None:
        if not self.icons:
            return None
        rng, widget = self.rng, self._choose_icon(self.icons)
        kind, icon = "box icon" if is_box else "point icon", widget.icon
        is_program = bool(widget.label)
        box = self._share(widget)
        if is_program or rng.random() < (0.6 if is_box else 0.4):
            bare = f"{icon} icon"
            asked = BOX_WORDINGS if is_box else CLICK_WORDINGS
            answer = self._place(widget, bare, is_box=is_box)
            return self.chance.turn(
                asked, answer, kind, parts={"name": f"the {bare}", "bare": bare}, box=box
            )
        if not is_box:
            asked = (ORDER_WORDINGS if rng.random() < 0.35 else USE_WORDINGS)[icon]
            return self.chance.turn(asked, self._place(widget, "", is_box=False), kind, box=box)
        answer = self._place(widget, f"{icon} icon", is_box=True)
        return self.chance.turn(BOX_USE_WORDINGS[icon], answer, kind, box=box)

    def _text(self) -> Turn | None:
        rng = self.rng
        options: list[tuple[Pool[str], str, dict[str, object]]] = []
        if self.screen.title:
            options.append((TITLE_WORDINGS, self.screen.title, {}))
        filled = [widget for widget in self.labelled if widget.text]
        if filled:
            widget = rng.choice(filled)
            options.append((VALUE_WORDINGS, widget.text, {"label": widget.label}))
        for kind in ("button", "link", "tab", "row"):
            group = [widget for widget in self.labelled if widget.kind == kind]
            for place, thing in tell_apart(rng, self._shares(group), NOUNS[kind]):
                parts: dict[str, object] = {"thing": thing}
                options += 2 * [(TEXT_WORDINGS, group[place].label, parts)]
        if not options:
            return None
        asked, answer, told = rng.choice(options)
        return self.chance.turn(asked, answer, "text", parts=told)

    def _icon_name(self) -> Turn | None:
        named = tell_apart(self.rng, self._shares(self.icons), "icon")
        if not named:
            return None
        chosen = self._choose_icon([self.icons[place] for place, _ in named])
        thing = self.rng.choice([words for place, words in named if self.icons[place] is chosen])
        return self.chance.turn(ICON_WORDINGS, chosen.icon, "icon name", parts={"thing": thing})

    def _element(self) -> Turn | None:
        options = [
            widget
            for widget in self.labelled
            if widget.kind in NOUNS and not is_telling(widget.label)
        ]
        if not options:
            return None
        kind = self.rng.choice(sorted({widget.kind for widget in options}))
        widget = self.rng.choice([widget for widget in options if widget.kind == kind])
        parts = {"label": widget.label}
        return self.chance.turn(ELEMENT_WORDINGS, NOUNS[kind], "element", parts=parts)

    def _state(self) -> Turn | None:
        rng = self.rng
        groups = [
            [widget for widget in self.labelled if widget.kind == kind]
            for kind in ("checkbox", "radio", "tab")
        ]
        groups = [group for group in groups if group]
        if not groups:
            return None
        group = rng.choice(groups)
        kind = group[0].kind
        widget = rng.choice(group)
        if kind != "checkbox":  # one of the group is on: ask for it half the time
            is_on = rng.random() < 0.5
            options = [widget for widget in group if widget.is_on == is_on]
            if not options:
                return None
            widget = rng.choice(options)
        return self.chance.turn(
            TICKED_WORDINGS if kind == "checkbox" else CHOSEN_WORDINGS,
            "yes" if widget.is_on else "no",
            "state",
            parts={"label": widget.label, "kind": NOUNS[kind]},
        )

    def _selected(self) -> Turn | None:
        options = [
            widget for widget in self.labelled if widget.kind in ("radio", "tab") and widget.is_on
        ]
        if not options:
            return None
        widget = self.rng.choice(options)
        parts = {"kind": NOUNS[widget.kind]}
        return self.chance.turn(SELECTED_WORDINGS, widget.label, "selected", parts=parts)

    def _exists(self) -> Turn | None:
        rng = self.rng
        is_there = rng.random() < 0.5
        if self.icons and rng.random() < 0.5:
            shown = {widget.icon for widget in self.icons}
            icons = [icon for icon in ICON_NAMES if (icon in shown) == is_there]
            icon = rng.choice(icons)
            name = with_article(f"{icon} icon")
        else:
            options = [widget for widget in self.labelled if widget.kind in NOUNS]
            if not options:
                return None
            widget = rng.choice(options)
            label = widget.label if is_there else self._absent_label(widget)
            name = f'a {NOUNS[widget.kind]} "{label}"'
        answer = "yes" if is_there else "no"
        return self.chance.turn(EXISTS_WORDINGS, answer, "exists", parts={"name": name})

    def _absent_label(self, like: Widget) -> str:
        """A label of the same sort that nothing on the screen bears, in the same case."""
        shown = {widget.label.lower() for widget in self.labelled} | {self.screen.title.lower()}
        while True:
            if is_telling(like.label):
                label = self.rng.choice(LABELS[like.kind])
            else:
                label = choose_label(self.chance)
            if label.lower() not in shown:
                break
        if like.label.isupper():
            return label.upper()
        return label.lower() if like.label.islower() else label

    def _count(self) -> Turn | None:
        widgets = self.screen.widgets
        kinds = sorted({widget.kind for widget in widgets} - {"slider", "menu"})
        if not kinds:
            return None
        kind = self.rng.choice(kinds)
        if self.rng.random() < 0.12:
            kind = self.rng.choice(("checkbox", "field", "radio", "tab", "link"))
        things = plural(NOUNS.get(kind, "icon"))
        group = [widget for widget in widgets if widget.kind == kind]
        if kind == "checkbox" and group and self.rng.random() < 0.4:
            things = self.rng.choice(("ticked boxes", "checked boxes"))
            group = [widget for widget in group if widget.is_on]
        if kind == "button" and (self.icons or any(widget.kind == "radio" for widget in widgets)):
            things = "buttons with text"
        return self.chance.turn(COUNT_WORDINGS, str(len(group)), "count", parts={"things": things})
