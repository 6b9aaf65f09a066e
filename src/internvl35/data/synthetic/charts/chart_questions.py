"""Questions about charts of every kind, and how their answers count.

What the charts show and how they are drawn is left to others. No counterpart in the paper; the
request for a single word or phrase is that of ChartQA.
"""

from __future__ import annotations

import random

from internvl35.data.synthetic.charts.chart_tables import Table
from internvl35.data.synthetic.drawing import Chance, Turn, wordings
from internvl35.scoring import exact_match, extract_number

BRIEFLY = "\nAnswer the question using a single word or phrase."
"""What ChartQA adds to a question."""

LARGEST_WORDINGS = wordings(
    "Which {part} is the largest?",
    "Which {part} has the largest value?",
    "Which {part} has the highest value?",
    "What is the label of the largest {part}?",
    "Name the largest {part}.",
    "Which one is the largest?",
    "Which label has the greatest value?",
    "Which {part} is the biggest?",
    "What has the highest value in this chart?",
    "What does the biggest {part} stand for?",
    "Which {part} is the largest?" + BRIEFLY,
    "Which {part} has the greatest value?" + BRIEFLY,
    "Tell me which {part} is the largest.",
    "In this chart, which {part} is the biggest?",
    "Where is the maximum?",
    "Find the label with the highest value.",
)
"""Ways to ask for the label of the largest value; ``{part}`` is a bar or the like."""

SMALLEST_WORDINGS = wordings(
    "Which {part} is the smallest?",
    "Which {part} has the smallest value?",
    "Which {part} has the lowest value?",
    "What is the label of the smallest {part}?",
    "Name the smallest {part}.",
    "Which one is the smallest?",
    "Which label has the least value?",
    "Which {part} is the tiniest?",
    "What has the lowest value in this chart?",
    "What does the smallest {part} stand for?",
    "Which {part} is the smallest?" + BRIEFLY,
    "Which {part} has the lowest value?" + BRIEFLY,
    "Tell me which {part} is the smallest.",
    "In this chart, which {part} is the smallest?",
    "Where is the minimum?",
    "Find the label with the lowest value.",
)
"""Ways to ask for the label of the smallest value."""

VALUE_WORDINGS = wordings(
    "What is the value of {label}?",
    "What value does {label} have?",
    "Which value does {label} have?",
    "How much is {label}?",
    "What is the value for {label}?",
    "Give the value of {label}.",
    "Read the value of {label}.",
    "What number belongs to {label}?",
    "Tell me the value of {label}.",
    "Which number does the chart show for {label}?",
    "What is the value of {label}?" + BRIEFLY,
    "What is the value for {label} in this chart?" + BRIEFLY,
    "What does the chart show for {label}?",
    "How large is {label}?",
    "In this chart, what is the value of {label}?",
    "{label}: what is its value?",
)
"""Ways to ask for a value."""

SPREAD_WORDINGS = wordings(
    "What is the difference between the largest and the smallest value?",
    "By how much does the largest value exceed the smallest?",
    "How much larger is the largest value than the smallest?",
    "How far apart are the highest and the lowest value?",
    "Subtract the smallest value from the largest.",
    "What is the difference between the highest and the lowest value?",
    "What is the range of the values?",
    "Give the difference between maximum and minimum.",
    "How much higher is the highest value than the lowest?",
    "What is the largest value minus the smallest value?",
    "What is the difference between the largest and the smallest value?" + BRIEFLY,
    "What is the difference between the maximum and the minimum?" + BRIEFLY,
    "Maximum minus minimum: how much is it?",
)
"""Ways to ask for the largest less the smallest value."""

DIFFERENCE_WORDINGS = wordings(
    "What is the difference between {label} and {other}?",
    "How far apart are {label} and {other}?",
    "By how much do {label} and {other} differ?",
    "What is the difference of the values of {label} and {other}?",
    "Give the difference between {label} and {other}.",
    "How big is the gap between {label} and {other}?",
    "How large is the difference between {label} and {other}?",
    "How much do {label} and {other} differ?",
    "Tell me the difference between {label} and {other}.",
    "What is the difference between {label} and {other}?" + BRIEFLY,
    "How far is {label} from {other}?",
    "What is the gap between {label} and {other}?",
    "In this chart, how far apart are {label} and {other}?",
)
"""Ways to ask how far two values are apart; never negative."""

COMPARE_WORDINGS = wordings(
    "Is {label} larger than {other}?",
    "Is {label} greater than {other}?",
    "Does {label} have a higher value than {other}?",
    "Is the value of {label} larger than that of {other}?",
    "Is {label} more than {other}?",
    "Is {label} higher than {other}?",
    "Does {label} exceed {other}?",
    "Is there more of {label} than of {other}?",
    "Is {label} bigger than {other}?",
    "Is {label} larger than {other}? Answer yes or no.",
    "Is the value of {label} greater than the value of {other}? Please answer yes or no.",
    "Is {label} greater than {other}?" + BRIEFLY,
    "Has {label} a larger value than {other}?",
)
"""Ways to ask whether one value is larger than another."""

COUNT_WORDINGS = wordings(
    "How many {parts} are there?",
    "How many {parts} does the chart have?",
    "How many {parts} are in the chart?",
    "How many {parts} do you find?",
    "How many {parts} do you count?",
    "How many {parts} are shown?",
    "Count the {parts}.",
    "What number of {parts} does the chart have?",
    "Give the number of {parts}.",
    "Tell me how many {parts} there are.",
    "How many {parts} are there?" + BRIEFLY,
    "Please count the {parts}.",
    "In this chart, how many {parts} are there?",
)
"""Ways to ask for the number of bars or the like; ``{parts}`` is a plural."""

COLOUR_WORDINGS = wordings(
    "What colour is the {part} of {label}?",
    "What color is the {part} of {label}?",
    "Which colour does {label} have?",
    "Which color does {label} have?",
    "What is the colour of {label}?",
    "What is the color of {label}?",
    "Name the colour of {label}.",
    "Name the color of {label}.",
    "In which colour is {label} drawn?",
    "In which color is {label} shown?",
    "What colour stands for {label}?",
    "What color stands for {label}?",
    "What color is the {part} of {label}?" + BRIEFLY,
    "Tell me the colour of the {part} of {label}.",
)
"""Ways to ask for a colour."""

OWNER_WORDINGS = wordings(
    "Which label belongs to the {colour} {part}?",
    "What does the {colour} {part} stand for?",
    "What is the label of the {colour} {part}?",
    "What does {colour} stand for?",
    "Name the {colour} {part}.",
    "What is shown in {colour}?",
    "Which label is {colour}?",
    "What is the {colour} {part} called?",
    "Tell me what the {colour} {part} stands for.",
    "What does the {colour} {part} represent?",
    "What is the label of the {colour} {part}?" + BRIEFLY,
    "Which one is {colour}?",
    "In this chart, what is {colour}?",
)
"""Ways to ask for the label of a coloured part."""

WHICH_WORDINGS = wordings(
    "Which {part} has the value {value}?",
    "Which label has the value {value}?",
    "What has the value {value}?",
    "Where is the value {value}?",
    "For which label does the chart show {value}?",
    "Which {part} shows {value}?",
    "Name the {part} with the value {value}.",
    "Which {part} stands for {value}?",
    "Find the label with the value {value}.",
    "Which {part} stands at {value}?",
    "Which {part} has the value {value}?" + BRIEFLY,
    "What is the label of the {part} with the value {value}?",
    "Which one is at {value}?",
)
"""Ways to ask for the label of a value."""

SHARE_WORDINGS = wordings(
    "What share does {label} have?",
    "What percentage is {label}?",
    "Which percentage does {label} have?",
    "What is the percentage of {label}?",
    "What is the share of {label}?",
    "How many per cent is {label}?",
    "How many percent does {label} have?",
    "Give the percentage of {label}.",
    "Tell me the share of {label}.",
    "Read the percentage of {label}.",
    "What percentage is {label}?" + BRIEFLY,
    "What share of the pie is {label}?" + BRIEFLY,
    "What part of the whole is {label}, in per cent?",
)
"""Ways to ask for a printed share."""

TITLE_WORDINGS = wordings(
    "What is the title of the chart?",
    "What is the title?",
    "What is the chart about?",
    "What is the heading?",
    "Read the title.",
    "Which title does the chart have?",
    "What is the chart called?",
    "What does it say above the chart?",
    "Tell me the title of this chart.",
    "What is written over the chart?",
    "What is the title of the chart?" + BRIEFLY,
    "Give the title of the chart.",
    "Name the title of the chart.",
)
"""Ways to ask for the line over a chart."""


def ask_labels(chance: Chance, table: Table, part: str) -> list[Turn]:
    """Ask for the labels of the largest and the smallest value.

    Args:
        chance: of wordings.
        table: what the chart shows.
        part: what stands for a value: a bar or the like.
    """
    names = {"part": part}
    return [
        chance.turn(LARGEST_WORDINGS, table.labels[table.largest], "largest", parts=names),
        chance.turn(SMALLEST_WORDINGS, table.labels[table.smallest], "smallest", parts=names),
    ]


def ask_comparison(chance: Chance, table: Table, least: int = 1) -> Turn:
    """Ask whether one value is larger than another; as often yes as no.

    Args:
        chance: of wordings.
        table: what the chart shows.
        least: by how much the two differ at the least; two of the values do.
    """
    is_larger = chance.rng.random() < 0.5
    while True:
        high, low = _pick_pair(chance.rng, table)
        if table.values[high] - table.values[low] >= least:
            break
    first, second = (high, low) if is_larger else (low, high)
    return chance.turn(
        COMPARE_WORDINGS,
        "yes" if is_larger else "no",
        "compare",
        parts={"label": table.labels[first], "other": table.labels[second]},
    )


def ask_values(chance: Chance, table: Table, part: str) -> list[Turn]:
    """Ask for two values, for the label of another, and for a difference where it is easy.

    Args:
        chance: of wordings.
        table: what the chart shows.
        part: what stands for a value: a bar or the like.
    """
    rng = chance.rng
    one, two, three = rng.sample(range(len(table.labels)), 3)
    turns = [
        chance.turn(
            VALUE_WORDINGS,
            str(table.values[place]),
            "value",
            parts={"label": table.labels[place]},
        )
        for place in (one, two)
    ]
    turns.append(
        chance.turn(
            WHICH_WORDINGS,
            table.labels[three],
            "which",
            parts={"part": part, "value": table.values[three]},
        )
    )
    if table.is_read:
        turns.append(_ask_difference(chance, table))
    return turns


def ask_count(chance: Chance, table: Table, parts: str) -> Turn:
    """Ask how many values there are; ``parts`` is a plural."""
    return chance.turn(COUNT_WORDINGS, str(len(table.values)), "count", parts={"parts": parts})


def ask_colours(chance: Chance, table: Table, colours: list[str], part: str) -> list[Turn]:
    """Ask for the colour of a label and for the label of a colour.

    Args:
        chance: of wordings.
        table: what the chart shows.
        colours: one a label, all different.
        part: what stands for a value: a bar or the like.
    """
    one, two = chance.rng.sample(range(len(table.labels)), 2)
    return [
        chance.turn(
            COLOUR_WORDINGS,
            colours[one],
            "colour",
            parts={"part": part, "label": table.labels[one]},
        ),
        chance.turn(
            OWNER_WORDINGS,
            table.labels[two],
            "owner",
            parts={"part": part, "colour": colours[two]},
        ),
    ]


def choose_turns(rng: random.Random, turns: list[Turn]) -> tuple[Turn, ...]:
    """Keep three to five of the questions, each kind as likely to come first."""
    rng.shuffle(turns)
    first_of_kind = {turn.kind: turn for turn in reversed(turns)}
    rest = [turn for turn in turns if first_of_kind[turn.kind] is not turn]
    firsts = [turn for turn in turns if first_of_kind[turn.kind] is turn]
    return tuple((firsts + rest)[: rng.randint(3, 5)])


def score_chart(turn: Turn, answer: str) -> dict[str, float]:
    """Score an answer about a chart.

    Args:
        turn: what was asked.
        answer: what a model said.

    Returns:
        ``right``: 1 if it is the label, the word or exactly the number.
    """
    expected = extract_number(turn.answer)
    if expected is not None and turn.kind in ("value", "difference", "count", "share"):
        return {"right": float(extract_number(answer) == expected)}
    return {"right": float(exact_match(turn.answer, answer))}


def _pick_pair(rng: random.Random, table: Table) -> tuple[int, int]:
    one, two = rng.sample(range(len(table.values)), 2)
    return (one, two) if table.values[one] > table.values[two] else (two, one)


def _ask_difference(chance: Chance, table: Table) -> Turn:
    values = table.values
    if chance.rng.random() < 0.4:
        return chance.turn(SPREAD_WORDINGS, str(max(values) - min(values)), "difference")
    high, low = _pick_pair(chance.rng, table)
    first, second = (high, low) if chance.rng.random() < 0.5 else (low, high)
    return chance.turn(
        DIFFERENCE_WORDINGS,
        str(values[high] - values[low]),
        "difference",
        parts={"label": table.labels[first], "other": table.labels[second]},
    )
