"""Ways to ask for sums over pictures.

What is drawn and reckoned is left to :mod:`internvl35.data.synthetic.sums.sums`. No counterpart in
the paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.drawing import wordings

TOTAL_WORDINGS = wordings(
    "What is the sum of the numbers on the {things}?",
    "Add the numbers on the {things}.",
    "Add up the numbers on the {things}.",
    "What do the numbers on the {things} add up to?",
    "What is the total of the numbers on the {things}?",
    "Give the sum of the numbers on the {things}.",
    "Find the sum of the numbers on the {things}.",
    "Please add the numbers on the {things}.",
    "If you add the numbers on the {things}, what do you get?",
    "Sum the numbers on the {things}.",
    "Tell me the sum of the numbers on the {things}.",
    "How much is the sum of the numbers on the {things}?",
    "The numbers on the {things}: what is their sum?",
    "What do you get when you add the numbers on the {things}?",
    "Take the numbers on the {things} and add them.",
    "Work out the total of the numbers on the {things}.",
)
"""Ways to ask for the sum of numbers on shapes; ``{things}`` is a plural or two names."""

DIFFERENCE_WORDINGS = wordings(
    "How much larger is the number on the {one} than the number on the {two}?",
    "By how much is the number on the {one} larger than that on the {two}?",
    "What is the number on the {one} minus the number on the {two}?",
    "Subtract the number on the {two} from the number on the {one}.",
    "How much bigger is the number on the {one} than the number on the {two}?",
    "What is the difference between the numbers on the {one} and the {two}?",
    "Take the number on the {one} and subtract the number on the {two}.",
    "How much greater is the number on the {one} than the one on the {two}?",
    "The number on the {one} minus the number on the {two}: what is it?",
    "Give the difference of the numbers on the {one} and the {two}.",
    "Work out the number on the {one} minus the number on the {two}.",
    "By how much does the number on the {one} exceed the number on the {two}?",
    "Find the number on the {one} minus the number on the {two}.",
    "How much more is the number on the {one} than the number on the {two}?",
    "Tell me the number on the {one} minus the number on the {two}.",
    "From the number on the {one}, subtract the number on the {two}.",
)
"""Ways to ask for a difference; the number on ``{one}`` is not the smaller."""

PRICE_WORDINGS = wordings(
    "What is the price of {goods}?",
    "How much for {goods}?",
    "What is the total price of {goods}?",
    "I buy {goods}. How much do I pay?",
    "How much do I pay for {goods}?",
    "What do I pay for {goods}?",
    "Find the total price of {goods}.",
    "I want {goods}. What do I pay?",
    "How much money do I need for {goods}?",
    "Work out the price of {goods}.",
    "Tom buys {goods}. What does he pay?",
    "What is the cost of {goods}?",
    "Give the total cost of {goods}.",
    "How much must I pay for {goods}?",
    "Tell me the price of {goods}.",
    "Add up the price of {goods}.",
)
"""Ways to ask what ``{goods}``, such as "two apples and a pear", cost."""

CHANGE_WORDINGS = wordings(
    "I have {money} and buy {goods}. How much is left?",
    "I have {money}. I buy {goods}. What is left?",
    "You have {money} and buy {goods}. How much money is left?",
    "How much is left of {money} after buying {goods}?",
    "I pay for {goods} with {money}. How much do I get back?",
    "Tom has {money} and buys {goods}. How much does he have left?",
    "Anna has {money}. She buys {goods}. How much is left?",
    "What is left of {money} when I buy {goods}?",
    "What change do I get from {money} for {goods}?",
    "I buy {goods} and pay with {money}. What is the change?",
    "If I have {money} and buy {goods}, how much is left?",
    "I have {money}. How much is left if I buy {goods}?",
    "I give {money} for {goods}. How much do I get back?",
    "From {money} I pay for {goods}. What is left?",
    "With {money} I buy {goods}. How much money is left?",
    "How much of {money} is left after I buy {goods}?",
)
"""Ways to ask what is left of ``{money}``."""

DEARER_WORDINGS = wordings(
    "How much more does the {one} cost than the {two}?",
    "How much more expensive is the {one} than the {two}?",
    "What is the price of the {one} minus the price of the {two}?",
    "By how much is the {one} dearer than the {two}?",
    "What is the difference in price between the {one} and the {two}?",
    "How much cheaper is the {two} than the {one}?",
    "How much dearer is the {one} than the {two}?",
    "By how much is the {one} more expensive than the {two}?",
    "How much do I save if I buy the {two}, not the {one}?",
    "How much more do I pay for the {one} than for the {two}?",
    "Subtract the price of the {two} from the price of the {one}.",
    "How much less does the {two} cost than the {one}?",
    "Find the difference in price of the {one} and the {two}.",
    "By how much is the {two} cheaper than the {one}?",
    "Tell me how much more the {one} costs than the {two}.",
    "The {one} costs how much more than the {two}?",
)
"""Ways to compare two prices; ``{one}`` does not cost less."""

TOGETHER_WORDINGS = wordings(
    "How many {things} are there together?",
    "How many {things} are there in total?",
    "Count the {things} together.",
    "What is the total number of {things}?",
    "How many {things} are there in all?",
    "Add the numbers of {things}.",
    "How many {things} together?",
    "How many {things} do you see in total?",
    "Count all {things}. How many are there together?",
    "Together, how many {things} are there?",
    "How many {things} can you count altogether?",
    "Tell me how many {things} there are together.",
    "Give the total number of {things}.",
    "In total, how many {things} are in the picture?",
    "Please count the {things} together.",
    "How many {things} does the picture show in all?",
)
"""Ways to ask for several sorts together; ``{things}`` is "circles and stars" or the like."""

MORE_WORDINGS = wordings(
    "How many more {one} than {two} are there?",
    "How many more {one} are there than {two}?",
    "There are more {one} than {two}. How many more?",
    "How many more {one} than {two}?",
    "By how many are there more {one} than {two}?",
    "How many more {one} than {two} do you see?",
    "Count the {one} and the {two}. How many more {one} are there?",
    "How many more {one} than {two} can you count?",
    "What is the number of {one} minus the number of {two}?",
    "How many fewer {two} than {one} are there?",
    "Subtract the number of {two} from the number of {one}.",
    "How many more {one} than {two} are in the picture?",
    "How many fewer {two} are there than {one}?",
    "Tell me how many more {one} than {two} there are.",
    "The {one} minus the {two}: how many?",
    "In this picture, how many more {one} than {two} are there?",
)
"""Ways to compare two counts; there are more ``{one}``."""

TAKEN_WORDINGS = wordings(
    "If {num} {things} are removed, how many are left?",
    "If I take away {num} {things}, how many are left?",
    "Take away {num} {things}. How many are left?",
    "{num} {things} are taken away. How many are left?",
    "How many {things} are left if you remove {num}?",
    "How many {things} remain if {num} are taken away?",
    "Remove {num} {things}. How many remain?",
    "Suppose {num} {things} are removed. How many are left?",
    "I take {num} {things} away. How many {things} are left?",
    "How many {things} are left when {num} are removed?",
    "How many {things} stay if {num} go away?",
    "After {num} {things} are removed, how many remain?",
    "If {num} {things} go away, how many are left?",
    "How many {things} would be left without {num} of them?",
    "You remove {num} {things}. How many {things} remain?",
    "Imagine {num} {things} are gone. How many are left?",
)
"""Ways to ask what is left of ``{things}``."""

RESULT_WORDINGS = wordings(
    "What is the result of {which}?",
    "Work out {which}.",
    "Solve {which}.",
    "What is the answer to {which}?",
    "Calculate {which}.",
    "Give the result of {which}.",
    "What does {which} come to?",
    "Please solve {which}.",
    "Compute {which}.",
    "Look at {which}. What is the result?",
    "What do you get for {which}?",
    "Find the result of {which}.",
    "Please work out {which}.",
    "Can you solve {which}?",
    "Tell me the result of {which}.",
    "What number is the result of {which}?",
)
"""Ways to ask for a printed sum; ``{which}`` is "the sum" or the like."""
