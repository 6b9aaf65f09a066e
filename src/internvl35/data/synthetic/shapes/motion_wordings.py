"""Ways to ask about a short video.

Which of the questions a video allows is left to :mod:`internvl35.data.synthetic.shapes.motion`. No
counterpart in the paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.drawing import wordings

DIRECTION_WORDINGS = wordings(
    "Which way does the {name} move?",
    "In which direction does the {name} move?",
    "Which way does the {name} go?",
    "Does the {name} move left, right, up or down?",
    "In what direction is the {name} moving?",
    "Where does the {name} move: left, right, up or down?",
    "Tell me which way the {name} moves.",
    "What is the direction of the {name}?",
    "Which way is the {name} moving in the video?",
    "Name the direction in which the {name} moves.",
    "Left, right, up or down: which way does the {name} move?",
    "In which direction does the {name} go?",
)
"""Ways to ask for a direction."""

MOVER_WORDINGS = wordings(
    "What moves {where}in the video?",
    "Which object moves {where}in the video?",
    "What is moving {where}in this video?",
    "Which shape moves {where}from frame to frame?",
    "Name the object that moves {where}in the video.",
    "Which of the objects moves {where}here?",
    "What do you see moving {where}in the video?",
    "Tell me which object moves {where}in the video.",
    "Which thing moves {where}in this clip?",
    "What moves {where}from frame to frame?",
    "Which object is moving {where}in the clip?",
    "Name the shape that moves {where}here.",
)
"""Ways to ask for what moves; ``{where}`` is empty or a direction and a blank."""

MOVES_WORDINGS = wordings(
    "Does the {name} {do}?",
    "Does the {name} {do} in the video?",
    "Does the {name} {do}? Answer yes or no.",
    "In this video, does the {name} {do}?",
    "Is it true that the {name} does {do}?",
    "Can you see the {name} {do}?",
    "Do you see the {name} {do} in the video?",
    "Yes or no: does the {name} {do}?",
    "Watch the {name}. Does it {do}?",
    "Would you say that the {name} does {do}?",
    "Please answer yes or no: does the {name} {do}?",
    "Look at the {name} in all frames. Does it {do}?",
)
"""Ways to ask whether a thing does something; ``{do}`` is "move", "move left" or the like."""

ORDER_WORDINGS = wordings(
    "What appears {place}?",
    "Which object appears {place}?",
    "What comes {place}?",
    "Which shape is the {place} to appear?",
    "Which object is the {place} to appear in the video?",
    "What is the {place} thing to appear?",
    "Name the object that appears {place}.",
    "Which of the objects comes {place}?",
    "Tell me what appears {place} in the video.",
    "What was the {place} object to appear?",
    "Which thing appeared {place}?",
    "What came {place} in the video?",
)
"""Ways to ask for the order of coming; ``{place}`` is first, second, third or last."""

BEFORE_WORDINGS = wordings(
    "Does the {one} appear {when} the {two}?",
    "Does the {one} come {when} the {two}?",
    "Is it true that the {one} appears {when} the {two}?",
    "Does the {one} appear {when} the {two}? Answer yes or no.",
    "In the video, does the {one} appear {when} the {two}?",
    "Yes or no: the {one} appears {when} the {two}.",
    "Did the {one} come {when} the {two}?",
    "Can the {one} be seen {when} the {two}?",
    "Would you say that the {one} comes {when} the {two}?",
    "Did the {one} appear {when} the {two}?",
    "The {one} appears {when} the {two}. True? Answer yes or no.",
    "Is the {one} shown {when} the {two}?",
)
"""Ways to compare when two things come; ``{when}`` is "before" or "after"."""

WHICH_WORDINGS = wordings(
    "What {does} in the video?",
    "Which object {does}?",
    "Which object {does} in the video?",
    "What {does} from one frame to the next?",
    "Name the object that {does}.",
    "Which shape {does} in this video?",
    "Which of the objects {does}?",
    "Tell me which object {does}.",
    "Which thing {does} in the video?",
    "What is it that {does} in this clip?",
    "Name the shape that {does} in the video.",
    "Which thing {does} here?",
)
"""Ways to ask for what comes or goes; ``{does}`` is "appears", "vanishes" or the like."""

HAPPENS_WORDINGS = wordings(
    "What happens to the {name}: does it appear, vanish, move or stay?",
    "Does the {name} appear, vanish, move or stay?",
    "What happens to the {name} in the video?",
    "What does the {name} do: appear, vanish, move or stay?",
    "Watch the {name}. Does it appear, vanish, move or stay?",
    "What becomes of the {name}?",
    "What does the {name} do in the video?",
    "Tell me what happens to the {name}.",
    "Appear, vanish, move or stay: what does the {name} do?",
    "What happens to the {name} from frame to frame?",
    "Say whether the {name} appears, vanishes, moves or stays.",
    "What is the {name} doing in the clip?",
)
"""Ways to ask what a thing does."""

COUNT_WORDINGS = wordings(
    "How many {things} are there in frame {frame}?",
    "How many {things} are in frame {frame}?",
    "How many {things} do you see in frame {frame}?",
    "Count the {things} in frame {frame}.",
    "Look at frame {frame}. How many {things} are there?",
    "In frame {frame}, how many {things} are there?",
    "How many {things} does frame {frame} show?",
    "What is the number of {things} in frame {frame}?",
    "How many {things} can be seen in frame {frame}?",
    "Give the number of {things} in frame {frame}.",
    "Please count the {things} in frame {frame}.",
    "Tell me how many {things} there are in frame {frame}.",
)
"""Ways to count in one of the frames."""

FRAME_WORDINGS = wordings(
    "In which frame does the {name} appear?",
    "In which frame is the {name} seen first?",
    "In which frame do you see the {name} for the first time?",
    "Which frame is the first with the {name}?",
    "From which frame on is the {name} there?",
    "Which frame shows the {name} first? Answer with its number.",
    "Give the number of the first frame with the {name}.",
    "What is the first frame that shows the {name}?",
    "When does the {name} appear, in which frame?",
    "The {name} appears in which frame?",
    "Tell me the number of the frame where the {name} appears.",
    "Which frame brings the {name}?",
)
"""Ways to ask when a thing comes."""
