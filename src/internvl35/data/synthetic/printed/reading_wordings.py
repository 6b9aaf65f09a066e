"""Ways to ask for printed words and numbers.

What is printed where is left to :mod:`internvl35.data.synthetic.printed.reading`. No counterpart in
the paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.drawing import wordings

TEXT_WORDINGS = wordings(
    "What does it say?",
    "What does the picture say?",
    "What is written here?",
    "What is written in the picture?",
    "What text is in the image?",
    "Read the text.",
    "Please read the text.",
    "Read this.",
    "What is printed here?",
    "Which text do you see?",
    "Write down the text in the picture.",
    "Tell me what is written here.",
    "Transcribe the text. Answer with the text only.",
    "What can you read in this image?",
    "Can you read this? Give the text.",
    "Copy the text shown in the image.",
)
"""Ways to ask for any text."""

WORD_WORDINGS = wordings(
    "Read the word.",
    "Which word is printed?",
    "What word is this?",
    "What word do you see?",
    "What is the word in the picture?",
    "Please read the word.",
    "Which word is written here?",
    "Tell me the word.",
    "What is the word in the image? Answer with a single word.",
    "Write down the word.",
    "Which word does the image show?",
    "Spell out the printed word as it stands there.",
    "What is this word?",
)
"""Ways to ask for letters only."""

NUMBER_WORDINGS = wordings(
    "What number is printed?",
    "Read the number.",
    "Which number is this?",
    "What number do you see?",
    "What is the number in the picture?",
    "Please read the number.",
    "Which number is written here?",
    "Tell me the number.",
    "What is the number in the image? Answer with the number only.",
    "Write down the number.",
    "Which number does the image show?",
    "What is this number?",
    "Give the number that is printed here.",
)
"""Ways to ask for a number."""

FIRST_WORDINGS = wordings(
    "What is the first character?",
    "Which character comes first?",
    "What does it start with?",
    "Tell me the first character.",
    "Name the first character.",
    "With which character does it begin?",
    "Which is the first character?",
    "Read only the first character.",
    "What is the first character of the text?",
    "Give the first character of what is printed.",
    "Which character does the text start with?",
    "What character is at the beginning?",
)
"""Ways to ask for the first character."""

LAST_WORDINGS = wordings(
    "What is the last character?",
    "Which character comes last?",
    "What does it end with?",
    "Tell me the last character.",
    "Name the last character.",
    "With which character does it end?",
    "Which is the last character?",
    "Read only the last character.",
    "What is the last character of the text?",
    "Give the last character of what is printed.",
    "Which character does the text end with?",
    "What character is at the end?",
)
"""Ways to ask for the last character."""

LENGTH_WORDINGS = wordings(
    "How many characters does it have?",
    "How many characters are printed?",
    "How long is the text?",
    "Count the characters.",
    "How many characters long is it?",
    "What is the number of characters?",
    "How many characters can you see?",
    "Tell me how many characters there are.",
    "How many characters does the text have?",
    "What is the length of the text in characters?",
    "Count the printed characters. Answer with a number.",
    "How many characters make up the text?",
)
"""Ways to ask for the length."""

COLOURED_WORDINGS = wordings(
    "What is the {colour} {noun}?",
    "Read the {colour} {noun}.",
    "Which {noun} is {colour}?",
    "Which {noun} is printed in {colour}?",
    "What does the {colour} {noun} say?",
    "Please read the {colour} {noun}.",
    "Tell me the {colour} {noun}.",
    "Which {noun} is written in {colour}?",
    "What is the {noun} in {colour}?",
    "Read the {noun} that is {colour}.",
    "What {noun} is printed in {colour} letters?",
    "Give the {noun} that is {colour}.",
    "Write down the {colour} {noun}.",
)
"""Ways to ask for the one of a colour; ``{noun}`` is word or number."""

PLACED_WORDINGS = wordings(
    "Which {noun} is {place}?",
    "What is the {noun} {place}?",
    "Read the {noun} {place}.",
    "What {noun} can you read {place}?",
    "Please read the {noun} {place}.",
    "Tell me the {noun} {place}.",
    "Which {noun} stands {place}?",
    "Which {noun} do you see {place}?",
    "Read only the {noun} {place}.",
    "Give the {noun} {place}.",
    "Write down the {noun} {place}.",
    "What {noun} is printed {place} of the picture?",
    "What {noun} is {place} of the image?",
)
"""Ways to ask for the one at a place; ``{place}`` is "at the top" or the like."""

LARGEST_WORDINGS = wordings(
    "Which {noun} is printed largest?",
    "What is the {noun} in the largest print?",
    "Read the {noun} that is printed largest.",
    "Read the {noun} in the largest print.",
    "Which {noun} has the biggest characters?",
    "Which {noun} is in the biggest print?",
    "What is the {noun} in large print?",
    "Tell me the {noun} in the biggest print.",
    "Please read the {noun} in the biggest print.",
    "What does the {noun} in the biggest print say?",
    "Which {noun} is set in the largest size?",
    "Give the {noun} that is printed largest.",
)
"""Ways to ask for the one in the largest print; "the largest number" would mean another."""

INK_WORDINGS = wordings(
    "What colour is the {noun} {text}?",
    "What color is the {noun} {text}?",
    "Which colour does the {noun} {text} have?",
    "Which color is {text}?",
    "In which colour is {text} printed?",
    "In which color is {text} printed?",
    "Name the colour of {text}.",
    "Name the color of the {noun} {text}.",
    "Tell me the colour of {text}.",
    "What is the color of {text}?",
    "What is the colour of the {noun} {text}?",
    "{text} is printed in which color?",
)
"""Ways to ask for the colour of one."""
