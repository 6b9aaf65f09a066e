"""What drawn screens say: labels of their elements, and what their icons are for.

Which words stand where is left to :mod:`internvl35.data.synthetic.screens.screen_layouts`. No
counterpart in the paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.drawing import Chance
from internvl35.data.synthetic.printed.words import HELD_BACK, WORDS, choose_english

LABELS: dict[str, tuple[str, ...]] = {
    kind: tuple(label.replace("_", " ") for label in text.split() if label.lower() not in HELD_BACK)
    for kind, text in {
        "button": (
            "Save Cancel OK Apply Submit Reset Print Share Copy Paste Retry Skip Start Stop Accept "
            "Deny Import Export Undo Redo Finish Install Join Follow Reply Done Yes No Log_in "
            "Sign_up Connect Refresh Load Create_it Publish Convert Pay_now Order Book Try_it"
        ),
        "field": (
            "Name Email Phone City Street Age Date User Code Country State Amount Price Note Size "
            "Width Height Subject Company Weight Login Year Month Postcode Zip Street_no"
        ),
        "checkbox": (
            "Wifi Sound Music Bold Italic Sync Cookies News Grid Caps Loop Shadow GPS Autosave "
            "Updates Offers Captions Vibrate Airplane Hidden Rulers Private Spelling"
        ),
        "radio": (
            "Small Medium Large Daily Weekly Monthly Visa Cash Low High Fast Slow A4 Letter First "
            "Last Public Guest Metric Euro Dollar Single Double"
        ),
        "tab": (
            "General View Audio Video Users Network Tools Files Layout Colours Fonts Log Chart "
            "Table Today Week Posts Groups Maps"
        ),
        "link": (
            "Help Terms About Imprint Contact More Details FAQ Blog Careers Press Guide Forum "
            "Privacy Sitemap Status Docs"
        ),
        "menu": "File View Tools Insert Format Help Window Select Image Filter Layer Build Run",
        "row": (
            "Anna Ben Clara David Emma Felix Grace Henry Berlin Paris Oslo Tokyo Lima Report "
            "Invoice Budget Recipe Draft Holiday Monday Friday Bluetooth Display Keyboard Storage"
        ),
        "slider": "Volume Speed Contrast Opacity Bass Treble Blur Radius Level Scale",
        "title": (
            "Player Notes Options Shop Editor Report Form Welcome Order Tasks Device Album Hotel "
            "Survey Project Library Wizard Weather Console Planner"
        ),
    }.items()
}
"""Labels that suit one kind of element, without words that are kept for the test."""

_SUITING = frozenset(label.lower() for labels in LABELS.values() for label in labels)
_COMMON = frozenset(word for pool in WORDS.values() for word in pool.seen) | HELD_BACK

ICON_USES: dict[str, tuple[str, str, str, str]] = {
    "house": ("go home", "go to the home page", "return to the home screen", "get back home"),
    "gear": ("open the settings", "change the settings", "adjust the settings", "see the settings"),
    "magnifier": ("search", "start a search", "search for something", "run a search"),
    "heart": ("like this", "say that I like it", "give this a like", "like it"),
    "star": (
        "add this to the favourites", "mark this as a favorite", "make this a favourite",
        "save this as a favorite",
    ),
    "envelope": ("read my mail", "open the mail", "write a mail", "check the mail"),
    "bell": (
        "see the notifications", "open the notifications", "read my notifications",
        "check the notifications",
    ),
    "bin": ("delete this", "delete the item", "delete something", "delete it"),
    "plus": ("add something", "add a new item", "add one more", "add an item"),
    "minus": ("minimise the window", "minimize this window", "minimize it", "minimise this"),
    "cross": ("close this", "close the window", "close the screen", "close it"),
    "check": ("confirm this", "confirm the choice", "confirm my choice", "confirm it"),
    "play": ("play the video", "start to play it", "play the song", "play this"),
    "pause": ("pause the video", "pause it", "pause the song", "pause this"),
    "person": ("open my profile", "see my profile", "edit my profile", "go to my profile"),
    "cart": (
        "see the shopping cart", "open the shopping cart", "go to my shopping cart",
        "look into the shopping cart",
    ),
    "lock": ("lock the screen", "lock this", "lock the device", "lock it"),
    "camera": ("take a photo", "take a picture", "shoot a photo", "take a new photo"),
    "clock": ("set an alarm", "see the time", "check the time", "look at the time"),
    "flag": ("report this", "report a problem", "report the post", "report it"),
    "pencil": ("edit this", "edit the text", "edit the page", "edit it"),
    "cloud": (
        "upload it to the cloud", "save this in the cloud", "open the cloud",
        "put it into the cloud",
    ),
    "sun": (
        "turn on the light mode", "switch to light mode", "use the light theme",
        "choose light mode",
    ),
    "moon": (
        "turn on the dark mode", "switch to dark mode", "use the dark theme", "choose dark mode",
    ),
    "arrow left": ("go back", "go one page back", "turn back a page", "move back"),
    "arrow right": (
        "go forward", "go one page forward", "turn forward a page", "move forward",
    ),
    "arrow up": ("scroll up", "go up", "scroll up the page", "move up"),
    "arrow down": ("scroll down", "go down", "scroll down the page", "move down"),
}  # fmt: skip
"""What one wants who clicks on an icon, after "to"; the fourth of each is kept for the test."""

APP_LABELS: dict[str, str] = {
    "house": "Home", "gear": "Setup", "magnifier": "Find", "heart": "Health", "star": "Starred",
    "envelope": "Mail", "bell": "Alerts", "bin": "Trash", "play": "Videos", "person": "Me",
    "cart": "Store", "lock": "Safe", "camera": "Camera", "clock": "Clock", "flag": "Places",
    "pencil": "Notes", "cloud": "Cloud", "sun": "Sunny", "moon": "Sleep",
}  # fmt: skip
"""What stands below an icon that starts a program."""

TAKEN_WORDS: frozenset[str] = frozenset(
    {word for uses in ICON_USES.values() for use in uses for word in use.split() if len(word) > 3}
    | {label.lower() for label in APP_LABELS.values()}
    | {"find", "back", "next", "house", "star", "sun", "moon", "lock", "play", "user", "store"}
    | {"title", "field", "box", "button", "menu", "icon", "tab", "link", "list", "item", "slider"}
    | {"radio", "checkbox"}
)
"""Words that name what an icon is for, or kinds of elements; no label is one, lest two be meant."""


def choose_label(chance: Chance) -> str:
    """Choose a word of three to eight letters that any element may bear."""
    word = choose_english(chance, chance.rng.choices(range(3, 9), (3, 5, 5, 4, 2, 1))[0])
    return word.capitalize()


def is_telling(label: str) -> bool:
    """Whether a label suggests what kind of element bears it."""
    return label.lower() not in _COMMON or label.lower() in _SUITING
