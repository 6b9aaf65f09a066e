"""Short stories by theme, and how people ask for one.

Everything else that is said without a picture is left to
:mod:`internvl35.data.synthetic.talk.talk`. No counterpart in the paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.drawing import wordings

STORIES: dict[str, str] = {
    "cat": (
        "A small cat sat by the door. It was cold. A girl let it in and gave it warm milk. "
        "The cat slept all day."
    ),
    "dog": (
        "A dog lost its ball in the park. It looked under every tree. "
        "A boy found the ball. Now they play each day."
    ),
    "rain": (
        "It rained all day. Mia put on her red boots. She jumped in every puddle. "
        "Then the sun came out."
    ),
    "boat": (
        "Tom made a boat out of paper. He put it on the river. It sailed to the sea. "
        "A fish waved at it."
    ),
    "bird": (
        "A young bird was afraid to fly. Its mother sang a song. "
        "The bird closed its eyes and jumped. It flew."
    ),
    "robot": (
        "A robot could only count to five. It met a star with five points. "
        "It counted them all. The robot was happy."
    ),
    "star": (
        "A star fell into a garden. A child kept it in a box. At night it was sad. "
        "So the child let it go home."
    ),
    "moon": (
        "The moon was lonely in the sky. It asked the stars to dance. "
        "They danced until morning. Then all went to sleep."
    ),
    "tree": (
        "An old tree stood on a hill. Birds lived in it. One day a storm came. "
        "The tree held on and kept them safe."
    ),
    "fish": (
        "A fish wanted to see the sky. It jumped out of the water. It saw a blue bird. "
        "The bird said hello."
    ),
    "mouse": (
        "A mouse found a big cheese. It was too big for one mouse. It called its friends. "
        "They ate it all."
    ),
    "snow": (
        "In the night the snow came. In the morning all was white. "
        "Ben built a man of snow. He gave it his hat."
    ),
    "train": (
        "A little train had to climb a hill. It was slow. It did not stop. "
        "At the top it blew its horn for joy."
    ),
    "flower": (
        "A flower grew between two stones. No one saw it. A bee came and stayed. "
        "Soon there were many flowers."
    ),
    "horse": (
        "A horse ran faster than the wind. The wind asked for a race. "
        "They ran to the sea. Both of them won."
    ),
    "bear": (
        "A bear woke up too early. It was still winter. It ate some honey. "
        "Then it went back to bed until spring."
    ),
    "dragon": (
        "A dragon could not make fire. It made warm soup with pepper. It had to sneeze. "
        "Now it cooks for the whole town."
    ),
    "king": (
        "A king had a chair of gold. It was cold and hard. "
        "He gave it away and sat on the grass. There he was happy."
    ),
}  # fmt: skip
"""What is told about each theme: three to five short sentences."""

ANY_THEME = "cat"
"""Theme of the story that is told when none is named."""

THEME_WORDINGS = wordings(
    "Tell me a story about {theme}.",
    "Please tell me a story about {theme}.",
    "Write a story about {theme}.",
    "Can you tell me a story about {theme}?",
    "Write a short story about {theme}.",
    "Tell a story about {theme}.",
    "Tell me a short story about {theme}, please.",
    "Do you know a story about {theme}?",
    "I want to hear a story about {theme}.",
    "Make up a story about {theme}.",
    "Tell me a bedtime story about {theme}.",
    "I would like a story about {theme}.",
    "Tell me something about {theme}.",
    "A story about {theme}, please.",
    "Hi, tell me a story about {theme}.",
    "Could you tell me a short story about {theme}?",
)
"""Ways to ask for the story of a theme."""

ANY_WORDINGS = wordings(
    "Tell me a story.",
    "Can you tell me a story?",
    "Please tell me a story.",
    "Tell a story.",
    "Write a story.",
    "Hi, tell me a story.",
    "Do you know a story?",
    "Tell me a short story.",
    "I want to hear a story.",
    "Write a short story.",
    "Hello, tell me a story.",
    "Could you tell me a story?",
    "Tell me a bedtime story.",
    "Tell me any story.",
    "Make up a story.",
    "A story, please.",
)
"""Ways to ask for a story of any theme."""

_WITHOUT_ARTICLE = frozenset({"rain", "snow"})


def name_theme(theme: str) -> str:
    """A theme as it stands behind "a story about".

    Args:
        theme: key of ``STORIES``.
    """
    if theme in _WITHOUT_ARTICLE:
        return theme
    return f"the {theme}" if theme == "moon" else f"a {theme}"
