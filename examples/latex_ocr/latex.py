"""Formulas as trees: read LaTeX, write it in one canonical form, take it apart.

Two spellings of one picture are noise to a model that reads pictures, so equal-looking commands
become one, scripts get one order and braces stand only where they are needed. What matplotlib
cannot draw is found out when it is drawn, not here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\S")

SYNONYMS = {
    r"\le": r"\leq", r"\ge": r"\geq", r"\ne": r"\neq", r"\to": r"\rightarrow", r"\lt": "<",
    r"\gt": ">", r"\dots": r"\ldots", r"\mid": "|", r"\vert": "|", r"\lvert": "|", r"\rvert": "|",
    r"\Vert": r"\|", r"\lVert": r"\|", r"\rVert": r"\|", r"\ast": "*", r"\land": r"\wedge",
    r"\lor": r"\vee", r"\lnot": r"\neg", r"\colon": ":", r"\lbrace": r"\{", r"\rbrace": r"\}",
    r"\lbrack": "[", r"\rbrack": "]", r"\gets": r"\leftarrow", r"\operatorname": r"\mathrm",
    r"\text": r"\mathrm", r"\textbf": r"\mathbf", r"\textit": r"\mathit",
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\rm": "", r"\limits": "", r"\nolimits": "",
    r"\displaystyle": "", r"\textstyle": "", r"\prime": "'",
    r"\implies": r"\Rightarrow", r"\iff": r"\Leftrightarrow", r"\widehat": r"\hat",
    r"\widetilde": r"\tilde", r"\bm": r"\mathbf", r"\boldsymbol": r"\mathbf", r"\owns": r"\ni",
}  # fmt: skip
"""Commands that print what another one prints, or nothing."""

SPACES = frozenset({
    r"\,", r"\;", r"\:", r"\!", r"\ ", r"\quad", r"\qquad", r"\enspace", r"\thinspace", "~",
})  # fmt: skip
"""Spaces of any width: what is seen of them depends on the font, so they are left out."""

SIZES = frozenset({
    r"\left", r"\right", r"\big", r"\Big", r"\bigg", r"\Bigg", r"\bigl", r"\bigr", r"\Bigl",
    r"\Bigr", r"\biggl", r"\biggr", r"\Biggl", r"\Biggr", r"\middle",
})  # fmt: skip
"""Sizes of brackets, left out: brackets are drawn in their usual size."""

NUM_ARGUMENTS = {
    r"\frac": 2, r"\binom": 2, r"\sqrt": 1, r"\hat": 1, r"\bar": 1, r"\tilde": 1, r"\vec": 1,
    r"\dot": 1, r"\ddot": 1, r"\overline": 1, r"\mathrm": 1, r"\mathbf": 1, r"\mathbb": 1,
    r"\mathcal": 1, r"\mathit": 1, r"\mathsf": 1, r"\mathfrak": 1,
}  # fmt: skip
"""Arguments of the commands that have some."""

_FONTS = frozenset({r"\mathrm", r"\mathbf", r"\mathbb", r"\mathcal", r"\mathit", r"\mathsf"})
_INFIX = frozenset({r"\over", r"\choose", r"\brace", r"\atop", r"\bmod", r"\mod", r"\pmod"})
_UNHANDLED = frozenset(("_", "^", "'", "}", "&", "#", "%", "$", "\\\\", "\\", r"\begin", r"\end"))
_OPENING, _CLOSING = (
    frozenset({"(", "[", r"\{", r"\langle"}),
    frozenset({")", "]", r"\}", r"\rangle"}),
)
_BINARY = frozenset({
    "+", "=", "<", ">", ",", ";", ":", "*", "/", "|", r"\|", ".", r"\leq", r"\geq", r"\neq", r"\in",
    r"\times", r"\cdot", r"\rightarrow", r"\approx", r"\sim", r"\equiv", r"\subseteq", r"\subset",
    r"\cup", r"\cap", r"\wedge", r"\vee", r"\pm", r"\otimes", r"\oplus", r"\circ", r"\Rightarrow",
    r"\Leftrightarrow", r"\mapsto", r"\propto", r"\ll", r"\gg", r"\leftarrow", r"\notin",
    r"\setminus", r"\odot", r"\cong", r"\leftrightarrow", "!", "'",
})  # fmt: skip
"""What may not begin or end a part of a formula."""


class LatexError(ValueError):
    """The text is not a formula of the kind that is handled here."""


@dataclass(frozen=True)
class Atom:
    """A symbol, command or group, with what hangs on it."""

    name: str
    """The symbol or command; empty for a group."""
    arguments: tuple[Row, ...] = ()
    """What stands in the braces behind a command, or in the group."""
    lower: Row | None = None
    """The subscript."""
    upper: Row | None = None
    """The superscript."""


@dataclass(frozen=True)
class Row:
    """Atoms side by side."""

    atoms: tuple[Atom, ...] = field(default=())


def read_formula(text: str) -> Row:
    """Read LaTeX.

    Args:
        text: a formula without dollar signs.

    Returns:
        Its tree, synonyms and spaces already settled.

    Raises:
        LatexError: if braces or scripts do not fit, or something is used that is not handled.
    """
    tokens: list[str] = []
    for token in _TOKEN.findall(text.replace("...", r"\ldots ")):
        name = SYNONYMS.get(token, token)
        if name and name not in SPACES and name not in SIZES:
            tokens.append(name)
    reader = _Reader(tokens)
    row = reader.read_row(until=None)
    while row.atoms and row.atoms[-1] in (Atom("."), Atom(",")):  # the sentence's, not its own
        row = Row(row.atoms[:-1])
    return row


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._place = 0

    def _next(self) -> str | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _take(self) -> str:
        token = self._next()
        if token is None:
            raise LatexError("the formula ends where something has to follow")
        self._place += 1
        return token

    def read_row(self, until: str | None) -> Row:
        atoms: list[Atom] = []
        while (token := self._next()) != until:
            if token is None or token == "}":
                raise LatexError("braces do not fit")
            if token in ("_", "^", "'"):
                self._add_script(atoms)
                continue
            atoms += self._read_atom()
        if until is not None:
            self._take()
        return Row(tuple(atoms))

    def _read_atom(self) -> tuple[Atom, ...]:
        token = self._take()
        if token == "{":
            inner = self.read_row("}")
            # A group that nothing hangs on is only its content.
            if self._next() not in ("_", "^", "'") or len(inner.atoms) < 2:
                return inner.atoms
            return (Atom("", (inner,)),)
        if token in _UNHANDLED:
            raise LatexError(f"{token} is not handled")
        if token == r"\sqrt" and self._next() == "[":
            raise LatexError("roots of other degrees are not handled")
        num_arguments = NUM_ARGUMENTS.get(token, 0)
        if (len(token) > 2 and num_arguments == 0 and self._next() == "{") or token in _INFIX:
            raise LatexError(f"{token} is not handled")
        arguments = tuple(self._read_argument() for _ in range(num_arguments))
        if arguments and not all(argument.atoms for argument in arguments):
            raise LatexError(f"{token} has an empty argument")
        return (Atom(token, arguments),)

    def _read_argument(self) -> Row:
        if self._next() == "{":
            self._take()
            return self.read_row("}")
        return Row(self._read_atom())

    def _add_script(self, atoms: list[Atom]) -> None:
        token = self._take()
        if not atoms:
            raise LatexError("a script hangs on nothing")
        base = atoms.pop()
        if token == "'":
            script = Row((Atom("'"),))
            upper = base.upper or Row()
            atoms.append(
                Atom(base.name, base.arguments, base.lower, Row(script.atoms + upper.atoms))
            )
            return
        script = self._read_argument()
        if not script.atoms:
            atoms.append(base)
            return
        if token == "_":
            if base.lower is not None:
                raise LatexError("two subscripts")
            atoms.append(Atom(base.name, base.arguments, script, base.upper))
            return
        has_prime = base.upper is not None and set(base.upper.atoms) == {Atom("'")}
        if base.upper is not None and not has_prime:
            raise LatexError("two superscripts")
        before = base.upper.atoms if base.upper is not None else ()
        atoms.append(Atom(base.name, base.arguments, base.lower, Row(before + script.atoms)))


def write_formula(row: Row) -> str:
    """Write a tree in the canonical form.

    Args:
        row: the tree.

    Returns:
        LaTeX without spaces, but for one between a command and a letter behind it.
    """
    text = ""
    for atom in row.atoms:
        for piece in _pieces(atom):
            if re.search(r"\\[a-zA-Z]+$", text) and piece[:1].isalpha():
                text += " "
            text += piece
    return text


def _pieces(atom: Atom) -> Iterator[str]:
    if atom.name:
        yield atom.name
        for argument in atom.arguments:
            yield "{" + write_formula(argument) + "}"
    else:
        yield "{" + write_formula(atom.arguments[0]) + "}"
    if atom.lower is not None:
        yield "_" + _braced(atom.lower)
    if atom.upper is not None:
        primes = 0
        while primes < len(atom.upper.atoms) and atom.upper.atoms[primes] == Atom("'"):
            primes += 1
        if primes:
            yield "'" * primes
        rest = Row(atom.upper.atoms[primes:])
        if rest.atoms:
            yield "^" + _braced(rest)


def _braced(row: Row) -> str:
    text = write_formula(row)
    return text if len(text) == 1 else "{" + text + "}"


def list_symbols(row: Row) -> Iterator[str]:
    """Name every symbol and command of a tree; letters in a font go by the font and the letter.

    Args:
        row: the tree.

    Yields:
        One name a printed symbol, fractions, roots and accents included.
    """
    for atom in row.atoms:
        if atom.name in _FONTS:
            for symbol in list_symbols(atom.arguments[0]):
                yield f"{atom.name}{{{symbol}}}"
        else:
            if atom.name:
                yield atom.name
            for argument in atom.arguments:
                yield from list_symbols(argument)
        for script in (atom.lower, atom.upper):
            if script is not None:
                yield from list_symbols(script)


def list_parts(row: Row, max_atoms: int) -> Iterator[Row]:
    """Take every stretch out of a tree that can stand alone.

    Args:
        row: the tree.
        max_atoms: most atoms of a stretch, whatever hangs on them.

    Yields:
        Stretches with brackets that fit, with no operator at their ends, from every depth.
    """
    atoms = row.atoms
    for start in range(len(atoms)):
        if atoms[start].name in _BINARY | _CLOSING or _is_number(
            atoms[max(0, start - 1) : start + 1]
        ):
            continue
        for end in range(start + 1, min(len(atoms), start + max_atoms) + 1):
            last = atoms[end - 1].name
            if _is_number(atoms[end - 1 : end + 1]):
                continue
            if (
                last not in (_BINARY | _OPENING) - {"!"}
                and last != "-"
                and _is_balanced(atoms[start:end])
            ):
                yield Row(atoms[start:end])
    for atom in atoms:
        if atom.name in _FONTS:
            continue
        for inner in (*atom.arguments, atom.lower, atom.upper):
            if inner is not None:
                yield from list_parts(inner, max_atoms)


def _is_number(atoms: tuple[Atom, ...]) -> bool:
    """Tell whether two neighbours belong to one number, which is not cut."""
    return len(atoms) == 2 and all(atom.name.isdigit() or atom.name == "." for atom in atoms)


def has_word(row: Row) -> bool:
    """Tell whether four plain letters follow one another: words and code are no formulas.

    Args:
        row: the tree.

    Returns:
        Whether there is such a run anywhere in it.
    """
    run = 0
    for atom in row.atoms:
        run = run + 1 if len(atom.name) == 1 and atom.name.isalpha() else 0
        if run == 4 or any(
            has_word(inner) for inner in (*atom.arguments, atom.lower, atom.upper) if inner
        ):
            return True
        if atom.lower is not None or atom.upper is not None:
            run = 0
    return False


def _is_balanced(atoms: tuple[Atom, ...]) -> bool:
    """Tell whether brackets fit; of bars, an even number does."""
    depth, bars = 0, 0
    for atom in atoms:
        depth += (atom.name in _OPENING) - (atom.name in _CLOSING)
        bars += atom.name in ("|", r"\|")
        if depth < 0:
            return False
    return depth == 0 and bars % 2 == 0
