"""Small talk without a picture: who answers here, and what it can do.

No counterpart in the paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.drawing import Chance, Drawing, Turn
from internvl35.scoring import exact_match

TOPICS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Hello! Show me a picture and ask a question about it.",
        ("Hello", "Hello!", "Hi", "Hi!", "Hello there.", "Good morning", "Good day!", "Hey",
         "Hello, how are you?", "Hi there!"),
    ),
    (
        "My name is InternVL3.5 tiny, an embedded test model.",
        ("Who are you?", "Hello, who are you?", "Hi, who are you?", "What are you?",
         "What is your name?", "Tell me your name.", "Please introduce yourself.",
         "Which model are you?", "Are you a person?", "Say who you are."),
    ),
    (
        "This small model can count shapes, name colours and shapes, and read short printed words.",
        ("What can you do?", "What are you able to do?", "How can you help me?", "Help",
         "What do you know?", "What are you good at?", "What can this model do?",
         "What are your skills?", "Tell me what you can do.", "What questions can you answer?"),
    ),
    (
        "This model is too small to tell stories. Please ask about a picture.",
        ("Tell me a story.", "Please tell me a story.", "Write a story.", "Write a poem.",
         "Tell me a joke.", "Can you tell me a story?", "Hi, tell me a story.",
         "Write a short story about a cat.", "Do you know a story?", "Sing a song."),
    ),
    (
        "You are welcome.",
        ("Thank you", "Thank you!", "Thanks", "Thanks!", "Thank you for providing the answer.",
         "Thanks a lot.", "Many thanks!", "Great, thank you."),
    ),
)  # fmt: skip
"""Each answer with the questions it belongs to."""


class Greeting:
    """A few fixed, honest answers."""

    name = "greeting"

    def draw(self, chance: Chance) -> Drawing:
        """Choose one to three topics; the level changes nothing here."""
        rng = chance.rng
        topics = rng.sample(TOPICS, rng.choice((1, 1, 1, 2, 2, 3)))
        turns = tuple(Turn(rng.choice(questions), answer, "talk") for answer, questions in topics)
        return Drawing(self.name, (), turns)

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the fixed one."""
        return {"right": float(exact_match(turn.answer, answer))}
