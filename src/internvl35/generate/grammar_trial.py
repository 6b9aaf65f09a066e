"""Compiles grammars for a trial in a process of its own, which may run out of time or memory.

The library that compiles them is native code: a hostile grammar can exhaust its stack, and no
thread of the same process could stop it. This file is also that process's program; it needs the
standard library and llguidance alone. What a grammar is made of is left to
:mod:`internvl35.generate.grammar`. No counterpart in the paper.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Final, TextIO

try:
    import resource
except ImportError:  # Windows has none; the wait is limited all the same
    resource = None  # type: ignore[assignment]

TRIAL_SECONDS = 3
"""Most processor time, rounded up to seconds, to compile a grammar and begin an answer."""

NUM_TRIAL_TOKENS = 16
"""Tokens of an answer that is begun for a trial."""

WAIT_SECONDS = 60.0
"""Longest wait for that, and for the process to start, on a busy machine."""

MEMORY_BYTES = 2 << 30
"""Most address space of the process."""

STACK_BYTES = 2 << 20
"""Stack to compile with: a quarter of what threads usually have, which a grammar that passes cannot
exhaust."""

LIMITS: Final[dict[str, Any]] = {"max_lexer_states": 50_000, "verbose_errors": False}
"""Keeps a grammar's automaton below some 100 MB, and its text out of messages."""

_OUT_OF_TIME = [-getattr(signal, name) for name in ("SIGTERM", "SIGXCPU") if hasattr(signal, name)]


class GrammarTrial:
    """A process that compiles grammars one by one; it starts at the first and ends with us."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def find_fault(self, grammar: str) -> str | None:
        """Compile a grammar and ask for its first tokens.

        Args:
            grammar: as the library takes it.

        Returns:
            What is wrong with it; None if it can be compiled here as well.
        """
        with self._lock:
            process = self._process or self._start()
            self._process = process
            answer = _ask(process, json.dumps(grammar))
            if answer:
                fault = json.loads(answer)
                assert fault is None or isinstance(fault, str)
                return fault
            self._process = None
            if process.returncode in _OUT_OF_TIME:
                return f"it takes more than {TRIAL_SECONDS} s to compile"
            return "it needs more memory or deeper recursion than is allowed to compile"

    def close(self) -> None:
        """End the process, even while it is asked."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _start(self) -> subprocess.Popen[str]:
        # Where packages come from may have been decided after the interpreter started.
        paths = os.pathsep.join(path for path in sys.path if path)
        process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""},
        )
        if _ask(process, json.dumps('start: "a"')) != "null\n":
            _end(process)
            raise RuntimeError("the process that tries grammars does not start")
        return process


def _ask(process: subprocess.Popen[str], question: str) -> str:
    """Write a line and read one; it is empty, and the process ended, if none came in time."""
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(WAIT_SECONDS, process.terminate)
    timer.daemon = True
    timer.start()
    try:
        process.stdin.write(question + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except OSError:
        answer = ""
    finally:
        timer.cancel()
    if not answer.endswith("\n"):
        _end(process)
        return ""
    return answer


def _end(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):
            pipe.close()
    try:  # one that died tells its reason a moment after its pipes close
        process.wait(1)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def find_matcher_fault(matcher: Any) -> str | None:
    """Say why a fresh matcher has no first token.

    Args:
        matcher: of the library, with its grammar compiled.

    Returns:
        What is wrong, in one line; None if there are tokens to begin with.
    """
    if not matcher.is_error():
        matcher.compute_bitmask()
    if not matcher.is_error():
        return None
    lines = [line.strip() for line in matcher.get_error().split("\n")]
    message = " ".join(line for line in lines if line and line != "<non-verbose/>")
    if "NoExtension" in message:
        return "no answer can fit it"
    if "coerce_one_of" in message:
        return "oneOf needs alternatives that exclude each other; anyOf takes others"
    return message if len(message) <= 400 else f"{message[:400]} ..."


def _walk(matcher: Any, tokens: random.Random) -> None:
    """Write the beginning of some answer: what explodes, explodes within a few tokens."""
    for _ in range(NUM_TRIAL_TOKENS):
        mask = matcher.compute_bitmask()
        if matcher.is_stopped():
            return
        bits = int.from_bytes(mask, "little")
        allowed = [token_id for token_id in range(bits.bit_length()) if bits >> token_id & 1]
        matcher.consume_token(tokens.choice(allowed))


def serve(questions: TextIO, answers: TextIO) -> None:
    """Answer a line of a grammar with a line of its fault, both JSON, until there are no more.

    Args:
        questions: where grammars come from.
        answers: where faults go to, ``null`` for none.
    """
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    limits, tokenizer = LLParserLimits(**LIMITS), LLTokenizer("byte")
    for line in questions:
        _limit_time()
        matcher = LLMatcher(tokenizer, json.loads(line), log_level=0, limits=limits)
        if find_matcher_fault(matcher) is None:
            _walk(matcher, random.Random(0))
        answers.write(json.dumps(find_matcher_fault(matcher)) + "\n")
        answers.flush()


def _limit_time() -> None:
    """Let the system end the process at the next question's time limit."""
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        limit = int(time.process_time()) + TRIAL_SECONDS + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _main() -> None:
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=serve, args=(sys.stdin, sys.stdout))
    thread.start()
    thread.join()


if __name__ == "__main__":
    _main()
