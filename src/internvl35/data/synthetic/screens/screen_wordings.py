"""Ways to ask about drawn screens.

Answers are left to :mod:`internvl35.data.synthetic.screens.screens`. No counterpart in the paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.drawing import Pool, wordings
from internvl35.data.synthetic.screens.screen_words import ICON_USES

CLICK_WORDINGS = wordings(
    "Click on {name}.",
    "Click {name}.",
    "Where should I click to use {name}?",
    "Please click on {name}.",
    "Please click {name}.",
    "Where do I click for {name}?",
    "Click on {name}, please.",
    "Click at {name}.",
    "Tap on {name}.",
    "Where do I have to click for {name}?",
    "Move to {name} and click.",
    "Tap {name}.",
    "Which action clicks on {name}?",
    "Give me the click on {name}.",
    "Press {name} with a click.",
    "Where should I click for {name}?",
)
"""Ways to ask for a click on something; ``{name}`` is what it is called."""

_USE_WORDINGS = wordings(
    "Where should I click to {use}?",
    "Click to {use}.",
    "I want to {use}. Where do I click?",
    "Where do I click to {use}?",
    "Click where I can {use}.",
    "Please click to {use}.",
    "Which click do I need to {use}?",
    "Click on what I need to {use}.",
    "I would like to {use}. Click for me.",
    "Where must I click to {use}?",
    "To {use}, where do I have to click?",
    "Please click so that I can {use}.",
)
"""Ways to ask for a click that does something."""

_ORDER = "{use}."
"""An order alone, which is how benchmarks ask."""

_BOX_USE_WORDINGS = wordings(
    "Locate the icon to {use}.",
    "Please provide the bounding box coordinate of the region this sentence describes: "
    "<ref>{use}</ref>",
    "Give the bounding box of the icon to {use}.",
    "Please locate the icon to {use}.",
    "Where is the icon to {use}? Give its bounding box.",
    "Find the box of the icon to {use}.",
    "Draw a box around the icon to {use}.",
    "What is the bounding box of the icon to {use}?",
    "Please give the bounding box of the icon to {use}.",
    "Detect the icon to {use}.",
    "Find the icon to {use} and give its box.",
    "Please give the bounding box of the region this sentence describes: <ref>{use}</ref>",
)


def _of_uses(asked: Pool[str], icon: str) -> Pool[str]:
    """Every wording with every use of an icon, kept for the test if one of both is."""
    *seen, kept = ICON_USES[icon]
    return Pool(
        asked.name,
        tuple(text.replace("{use}", use) for text in asked.seen for use in seen),
        (
            *(text.replace("{use}", use) for text in asked.kept for use in (*seen, kept)),
            *(text.replace("{use}", kept) for text in asked.seen),
        ),
    )


def _orders(icon: str) -> Pool[str]:
    orders = [_ORDER.format(use=use[0].upper() + use[1:]) for use in ICON_USES[icon]]
    return Pool("wording", tuple(orders[:3]), tuple(orders[3:]))


USE_WORDINGS: dict[str, Pool[str]] = {icon: _of_uses(_USE_WORDINGS, icon) for icon in ICON_USES}
"""Ways to ask for a click on what does something, by icon."""

ORDER_WORDINGS: dict[str, Pool[str]] = {icon: _orders(icon) for icon in ICON_USES}
"""Orders that a click on an icon carries out, by icon."""

BOX_USE_WORDINGS: dict[str, Pool[str]] = {
    icon: _of_uses(_BOX_USE_WORDINGS, icon) for icon in ICON_USES
}
"""Ways to ask for the box of what does something, by icon."""

BOX_WORDINGS = wordings(
    "Locate {name}.",
    "Please provide the bounding box coordinate of the region this sentence describes: "
    "<ref>{bare}</ref>",
    "Give the bounding box of {name}.",
    "Please locate {name}.",
    "Please provide the bounding box of the region this sentence describes: <ref>{bare}</ref>",
    "Where is {name}? Give its bounding box.",
    "Find the box of {name}.",
    "Please give the bounding box coordinates of {name}.",
    "Draw a box around {name}.",
    "What is the bounding box of {name}?",
    "Detect {name}.",
    "Find {name} and give its box.",
)
"""Ways to ask for a box; ``{bare}`` is the name without quotation marks and article."""

TEXT_WORDINGS = wordings(
    "What does the {thing} say?",
    "What is written on the {thing}?",
    "Read the {thing}.",
    "Which text is on the {thing}?",
    "What is the label of the {thing}?",
    "Tell me what the {thing} says.",
    "What text does the {thing} have?",
    "Please read the {thing}.",
    "What can I read on the {thing}?",
    "Which word is on the {thing}?",
    "What is the text of the {thing}?",
    "Give the label of the {thing}.",
)
"""Ways to ask what something says; ``{thing}`` tells which one by its place."""

VALUE_WORDINGS = wordings(
    'What is typed into the field "{label}"?',
    'What does the field "{label}" contain?',
    'What is entered in the field "{label}"?',
    'Read the field "{label}".',
    'What stands in the field "{label}"?',
    'Which text is in the field "{label}"?',
    'What is the content of the field "{label}"?',
    'What has been typed into "{label}"?',
    'What is the value of "{label}"?',
    'Tell me what the field "{label}" contains.',
    'What did the user enter as "{label}"?',
    'Which value does the field "{label}" have?',
)
"""Ways to ask what is typed into a field."""

ELEMENT_WORDINGS = wordings(
    'What kind of element is "{label}"?',
    'Which kind of element is "{label}"?',
    'What sort of control is "{label}"?',
    'What kind of widget is "{label}"?',
    'What type of element is "{label}"?',
    'Which type of control is "{label}"?',
    'What is "{label}": a button, a link or something else?',
    'Name the kind of element that "{label}" is.',
    'What is the type of the element "{label}"?',
    'Tell me the kind of the element "{label}".',
    'What kind of control is "{label}"?',
    'As what kind of element is "{label}" shown?',
)
"""Ways to ask what kind of thing something is."""

TICKED_WORDINGS = wordings(
    'Is the box "{label}" ticked?',
    'Is the box "{label}" checked?',
    'Is "{label}" ticked?',
    'Has the box "{label}" been ticked?',
    'Is the checkbox "{label}" on?',
    'Is "{label}" switched on?',
    'Is there a tick in the box "{label}"?',
    'Is "{label}" checked?',
    'Is the checkbox for "{label}" ticked?',
    'Is the check box "{label}" checked?',
    'Does the box "{label}" have a tick?',
    'Is the checkbox "{label}" ticked?',
)
"""Ways to ask for the state of a checkbox."""

CHOSEN_WORDINGS = wordings(
    'Is "{label}" selected?',
    'Is the {kind} "{label}" selected?',
    'Has "{label}" been selected?',
    'Is "{label}" the selected {kind}?',
    'Is the {kind} "{label}" the selected one?',
    'Is the {kind} called "{label}" active?',
    'Is "{label}" active?',
    'Is the {kind} "{label}" active?',
    'Is "{label}" the active {kind}?',
    'Is the selected {kind} "{label}"?',
    'Is the active {kind} "{label}"?',
    'Is the {kind} that is selected "{label}"?',
)
"""Ways to ask whether a radio button or a tab is the chosen one."""

SELECTED_WORDINGS = wordings(
    "Which {kind} is selected?",
    "Which {kind} is active?",
    "What is the selected {kind}?",
    "Name the selected {kind}.",
    "What is the active {kind}?",
    "Tell me which {kind} is selected.",
    "Which {kind} has been selected?",
    "Which is the selected {kind}?",
    "Read the label of the selected {kind}.",
    "What does the selected {kind} say?",
    "Which {kind} has the user selected?",
    "Which one is the active {kind}?",
)
"""Ways to ask which of several is chosen."""

EXISTS_WORDINGS = wordings(
    "Is there {name}?",
    "Is there {name} on the screen?",
    "Can you see {name}?",
    "Does the screen show {name}?",
    "Do you see {name}?",
    "Does the screen have {name}?",
    "Is {name} visible?",
    "Is {name} shown?",
    "Is there {name} in the picture?",
    "Can you find {name}?",
    "Does this screen contain {name}?",
    "Do you see {name} on the screen?",
)
"""Ways to ask whether something is there; ``{name}`` has an indefinite article."""

COUNT_WORDINGS = wordings(
    "How many {things} are there?",
    "Count the {things}.",
    "How many {things} do you see?",
    "How many {things} are on the screen?",
    "How many {things} does the screen have?",
    "What is the number of {things}?",
    "How many {things} can you see?",
    "Say how many {things} there are.",
    "Give the number of {things}.",
    "How many {things} are shown?",
    "How many {things} does this screen show?",
    "Please count the {things}.",
)
"""Ways to ask how many there are."""

ICON_WORDINGS = wordings(
    "What does the {thing} show?",
    "What is the {thing}?",
    "Name the {thing}.",
    "What is shown by the {thing}?",
    "What does the {thing} look like?",
    "What can be seen on the {thing}?",
    "What picture is the {thing}?",
    "Which symbol is the {thing}?",
    "What does the {thing} depict?",
    "What symbol does the {thing} show?",
    "Which symbol does the {thing} show?",
    "Tell me what the {thing} shows.",
)
"""Ways to ask what an icon shows."""

TITLE_WORDINGS = wordings(
    "What is the title of the screen?",
    "What is the title?",
    "What does the title bar say?",
    "Which title does the screen have?",
    "Read the title.",
    "What is written in the title bar?",
    "What is the window called?",
    "Tell me the title of the screen.",
    "What is the title of the window?",
    "Which title is shown at the top?",
    "Read the title bar.",
    "What does the title say?",
)
"""Ways to ask what the title says."""
