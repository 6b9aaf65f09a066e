"""Ways to ask about several pictures.

Which of the questions a set of pictures allows is left to
:mod:`internvl35.data.synthetic.shapes.several`. No counterpart in the paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.drawing import wordings

SAME_WORDINGS = wordings(
    "Are the two pictures the same?",
    "Are the two images the same?",
    "Are the two pictures identical?",
    "Is picture 1 the same as picture 2?",
    "Do the two pictures show the same?",
    "Are picture 1 and picture 2 equal?",
    "Are both images the same? Answer yes or no.",
    "Is the second picture the same as the first?",
    "Do both images show exactly the same things?",
    "Yes or no: the two pictures are the same.",
    "Compare the two images. Are they the same?",
    "Are image 1 and image 2 identical?",
)
"""Ways to ask whether two pictures agree."""

THING_WORDINGS = wordings(
    "Is the {name} the same in both pictures?",
    "Is the {name} the same in both images?",
    "Does the {name} stay the same?",
    "Is the {name} of picture 1 unchanged in picture 2?",
    "Has the {name} stayed the same? Answer yes or no.",
    "Does the {name} look the same in both pictures?",
    "Yes or no: the {name} is the same in both images.",
    "Is the {name} exactly the same in picture 1 and picture 2?",
    "Does the {name} of the first image stay as it is in the second?",
    "Look at the {name}. Is it the same in both pictures?",
    "Is the {name} the same in image 1 and image 2?",
    "Is the {name} unchanged from the first picture to the second?",
)
"""Ways to ask whether one thing of the first picture is as it was in the second."""

DIFFERENCE_WORDINGS = wordings(
    "What changed from picture 1 to picture 2?",
    "What is different in picture 2?",
    "What has changed in the second picture?",
    "What changed between the two pictures?",
    "What is the difference between the two images?",
    "Which change do you see from image 1 to image 2?",
    "Compare the two pictures. What changed?",
    "Tell me what changed from the first image to the second.",
    "What is different in the second image?",
    "Name the change from picture 1 to picture 2.",
    "What has changed between image 1 and image 2?",
    "In what does picture 2 differ from picture 1?",
)
"""Ways to ask what changed."""

HAS_WORDINGS = wordings(
    "Which picture has {name}? Answer with its number.",
    "Which picture has {name}?",
    "Which image has {name}?",
    "In which picture is there {name}?",
    "Which image shows {name}?",
    "In which of the pictures do you see {name}?",
    "Which of the images contains {name}? Answer with a number.",
    "Give the number of the picture that has {name}.",
    "Where is {name}, in which picture?",
    "Which picture shows {name}?",
    "In which image can {name} be seen?",
    "Tell me the number of the image with {name}.",
)
"""Ways to ask for the only picture with a thing; ``{name}`` begins with an article."""

COMPARE_WORDINGS = wordings(
    "In which picture are there {more} {things}?",
    "Which picture has {more} {things}?",
    "Which image has {more} {things}?",
    "Which picture shows {more} {things}? Answer with its number.",
    "Where do you see {more} {things}, in which picture?",
    "In which image are there {more} {things}?",
    "Give the number of the picture that has {more} {things}.",
    "Which of the images shows {more} {things}?",
    "Count the {things}. Which picture has {more}?",
    "Which of the pictures has {more} {things}?",
    "Tell me which image has {more} {things}.",
    "In which of the images can you see {more} {things}? Answer with a number.",
)
"""Ways to ask for the picture with more or fewer things."""

MORE_WORDINGS = wordings(
    "How many more {things} are there in {one} than in {two}?",
    "How many more {things} does {one} have than {two}?",
    "How many more {things} do you see in {one} than in {two}?",
    "By how many {things} does {one} exceed {two}?",
    "How many more {things} does {one} show than {two}?",
    "Compared to {two}, how many more {things} are there in {one}?",
    "How many {things} more than {two} does {one} have?",
    "Count the {things}. How many more are there in {one} than in {two}?",
    "How many more {things} are in {one} than in {two}? Answer with a number.",
    "What is the number of {things} in {one} minus the number in {two}?",
    "How many fewer {things} are there in {two} than in {one}?",
    "How many {things} does {two} have less than {one}?",
)
"""Ways to ask for a difference of two counts; the first picture has more."""

COUNT_WORDINGS = wordings(
    "How many {things} are there in {one}?",
    "How many {things} are in {one}?",
    "How many {things} can you see in {one}?",
    "How many {things} does {one} show?",
    "Count the {things} in {one}.",
    "Look at {one}. How many {things} are there?",
    "What is the number of {things} in {one}?",
    "In {one}, how many {things} do you see?",
    "How many {things} does {one} have?",
    "Give the number of {things} in {one}.",
    "Please count the {things} in {one}.",
    "Tell me how many {things} there are in {one}.",
)
"""Ways to count in one of the pictures."""

COLOUR_WORDINGS = wordings(
    "What colour is the {name} in {one}?",
    "What color is the {name} in {one}?",
    "Which colour does the {name} in {one} have?",
    "Which color is the {name} in {one}?",
    "Look at {one}. What colour is the {name}?",
    "In {one}, what color is the {name}?",
    "Name the colour of the {name} in {one}.",
    "What is the color of the {name} in {one}?",
    "Tell me the colour of the {name} in {one}.",
    "In {one}, which colour does the {name} have?",
    "What is the colour of the {name} in {one}?",
    "Look at {one}. Which color is the {name}?",
)
"""Ways to ask for a colour in one of the pictures."""

SHAPE_WORDINGS = wordings(
    "What shape is the {name} in {one}?",
    "Which shape does the {name} in {one} have?",
    "Look at {one}. What shape is the {name}?",
    "In {one}, what shape is the {name}?",
    "Name the shape of the {name} in {one}.",
    "What is the shape of the {name} in {one}?",
    "Tell me the shape of the {name} in {one}.",
    "In {one}, which shape does the {name} have?",
    "What kind of shape is the {name} in {one}?",
    "Which shape is the {name} in {one}?",
    "What shape does the {name} in {one} have?",
    "Look at {one}. Which shape is the {name}?",
)
"""Ways to ask for a shape in one of the pictures."""
