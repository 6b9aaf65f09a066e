"""Answers in a file, a JSON object a line, written so that nothing is lost when a run is killed.

Making the answers is left to :mod:`internvl35.evals.predictions`, comparing them with the expected
ones to :mod:`internvl35.scoring`. No counterpart in the paper.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from internvl35.data.records import Record
from internvl35.data.thinking import split_thinking
from internvl35.errors import DataError
from internvl35.evals.predictions import Prediction
from internvl35.scoring import Metric, Score, score_answers

METRICS_SUFFIX = ".metrics.json"
"""End of the name of the figures beside a file of answers, in place of ``.jsonl``."""

_BEGINNING = b'{"response": '
_FIRST_KEYS = ("response", "labels", "logprobs")
_COUNT = "num_rows"


class ResultFile:
    """A file of answers, new or gone on with.

    Args:
        path: of the file; its folder is made if missing. Lines that it holds are kept, apart from
            a last one that a kill cut short.

    Raises:
        DataError: if it cannot be written, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        """Count the lines that are there."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.num_lines, self._last = _keep_whole_lines(path)
            # names of files may hold what UTF-8 does not; its escape is good JSON
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise DataError(
                f"results cannot be written to {path}: {error}; name another result_path"
            ) from error

    def check_continues(self, records: Sequence[Record], facts: Mapping[str, Any]) -> None:
        """Make sure that the lines that are there answer these rows, and note how they came about.

        Args:
            records: the rows.
            facts: of the model and the way it answers; they are kept beside the answers, and those
                of the lines that are there must be the same.

        Raises:
            DataError: if there are more lines than rows, the last line is of another row, or the
                answers came about in another way.
        """
        self._check_rows(records)
        target = metrics_path(self.path)
        noted = _read_figures(target) if self.num_lines else {}
        for name in facts.keys() & noted.keys():
            if noted[name] != _as_read(facts[name]):
                raise DataError(
                    f"{self.path} holds answers with {name} {noted[name]!r}, not {facts[name]!r}; "
                    "name another result_path"
                )
        if not noted:
            _write_figures(target, facts)

    def _check_rows(self, records: Sequence[Record]) -> None:
        if self._last is None:
            return
        if self.num_lines > len(records):
            raise DataError(
                f"{self.path} holds {self.num_lines} answers but there are {len(records)} rows; "
                "name another result_path"
            )
        try:
            wanted = describe_record(records[self.num_lines - 1])
        except DataError:
            return  # a row that cannot be read, then as now
        if "messages" in self._last and _question_of(self._last) != _question_of(_as_read(wanted)):
            raise DataError(
                f"line {self.num_lines} of {self.path} answers another row than the data's; name "
                "another result_path"
            )

    def append(self, prediction: Prediction) -> None:
        """Write an answer at once.

        Args:
            prediction: the answer.

        Raises:
            DataError: if the disk does not take it.
        """
        try:
            self._file.write(json.dumps(describe(prediction), ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written: {error}; free space, then run the same command "
                f"with result_path {self.path}: it goes on behind the last line"
            ) from error
        self.num_lines += 1

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # what could not be written was reported then
            self._file.close()


def _keep_whole_lines(path: Path) -> tuple[int, dict[str, Any] | None]:
    if not path.exists():
        return 0, None
    if not path.is_file():
        raise DataError(f"{path} is not a regular file; name another result_path")
    num_lines, end, last = 0, 0, b""
    line = b""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                num_lines, end, last = num_lines + 1, end + len(line), line
    if not line:
        return 0, None
    try:
        content = json.loads(last) if last else None
    except ValueError:
        content = None
    is_ours = last.startswith(_BEGINNING) and _is_answer(content)
    if not is_ours and (last or not _BEGINNING.startswith(line[: len(_BEGINNING)])):
        raise DataError(f"{path} holds no answers of this command; name another result_path")
    os.truncate(path, end)
    return num_lines, content if last else None


def _is_answer(content: Any) -> bool:
    return isinstance(content, dict) and tuple(content)[: len(_FIRST_KEYS)] == _FIRST_KEYS


def _question_of(line: Mapping[str, Any]) -> tuple[Any, Any]:
    """What was asked: the turns before the answer, and what was shown."""
    turns = line["messages"]
    if isinstance(turns, list) and turns:
        last = turns[-1]
        if isinstance(last, dict) and last.get("role") == "assistant":
            turns = turns[:-1]
    return turns, line.get("images")


def _as_read(value: Any) -> Any:
    """What a value is once it has been written as JSON."""
    return json.loads(json.dumps(value))


def describe(prediction: Prediction) -> dict[str, Any]:
    """Turn an answer into a line.

    Args:
        prediction: the answer.

    Returns:
        ``response``, ``labels``, ``logprobs`` (``{"content": [{"token", "logprob"}]}`` or null),
        ``messages`` with the answer as the last, ``images``, and where there are some ``videos``,
        ``objects``, ``error`` and ``is_cut``.
    """
    logprobs = None
    if prediction.logprobs is not None:
        logprobs = {
            "content": [
                {"token": t.token, "logprob": t.logprob if math.isfinite(t.logprob) else None}
                for t in prediction.logprobs
            ]
        }
    line: dict[str, Any] = {
        "response": prediction.response,
        "labels": prediction.expected,
        "logprobs": logprobs,
    }
    if prediction.record is not None:
        row = describe_record(prediction.record)
        if prediction.expected is not None:
            row["messages"].pop()
        if prediction.response is not None:
            row["messages"].append({"role": "assistant", "content": prediction.response})
        line |= row
    if prediction.error is not None:
        line["error"] = prediction.error
    if prediction.is_cut:
        line["is_cut"] = True
    return line


def describe_record(record: Record) -> dict[str, Any]:
    """Turn a row into plain values.

    Args:
        record: the row.

    Returns:
        ``messages`` and ``images``, and ``videos`` where there are some. Pictures that come from no
        file are named by the row they are in.
    """
    row: dict[str, Any] = {
        "messages": [
            {"role": message.role, "content": message.text} for message in record.messages
        ],
        "images": [
            _name_medium(image, f"{record.origin} image {number}")
            for number, image in enumerate(record.images, 1)
        ],
    }
    if record.videos:
        row["videos"] = [
            _name_medium(video, f"{record.origin} video {number}")
            for number, video in enumerate(record.videos, 1)
        ]
    return row


def _name_medium(source: Any, otherwise: str) -> Any:
    if isinstance(source, str):
        return otherwise if source.startswith("data:") else source
    if isinstance(source, tuple | list):
        return [_name_medium(part, otherwise) for part in source]
    return str(source) if isinstance(source, os.PathLike) else otherwise


def read_answers(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file of answers.

    Args:
        path: of the file.

    Yields:
        Its lines.

    Raises:
        DataError: if a line is no answer.
    """
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
            except ValueError as error:
                raise DataError(f"{path}:{number} is no JSON: {error}") from error
            if not isinstance(line, dict):
                raise DataError(f"{path}:{number} is no answer; needed: a JSON object")
            yield line


def score_file(path: Path, metrics: Sequence[Metric]) -> tuple[dict[str, Score], dict[str, int]]:
    """Compare the answers of a file with the expected ones.

    Only answers are compared: reasoning in front of either does not count.

    Args:
        path: of the file.
        metrics: how to compare.

    Returns:
        Scores by name, and counts: ``num_rows``, ``num_scored``, ``num_errors``, ``num_cut``.
    """
    expected: list[str] = []
    answers: list[str] = []
    counts = {"num_rows": 0, "num_scored": 0, "num_errors": 0, "num_cut": 0}
    for line in read_answers(path):
        counts["num_rows"] += 1
        counts["num_errors"] += line.get("error") is not None
        counts["num_cut"] += bool(line.get("is_cut"))
        response, label = line.get("response"), line.get("labels")
        if isinstance(response, str) and isinstance(label, str):
            counts["num_scored"] += 1
            expected.append(split_thinking(label)[1])
            answers.append(split_thinking(response)[1])
    return score_answers(expected, answers, metrics), counts


def write_metrics(
    path: Path, scores: Mapping[str, Score], counts: Mapping[str, int], facts: Mapping[str, Any]
) -> Path:
    """Write the figures beside a file of answers.

    Args:
        path: the file of answers.
        scores: by name.
        counts: of rows.
        facts: what else is worth keeping, plain values.

    Returns:
        The file of figures.

    Raises:
        DataError: if it cannot be written.
    """
    content: dict[str, Any] = dict(counts)
    for name, score in scores.items():
        content[name] = score.mean
        if score.interval is not None:
            content[f"{name}_interval_95"] = list(score.interval)
    target = metrics_path(path)
    _write_figures(target, content | dict(facts))
    return target


def metrics_path(path: Path) -> Path:
    """Name the file of figures that stands beside a file of answers.

    Args:
        path: the file of answers.

    Returns:
        The file of figures.
    """
    return path.with_name(path.name.removesuffix(".jsonl") + METRICS_SUFFIX)


def is_finished(path: Path) -> bool:
    """Tell whether a file of answers has its figures.

    Args:
        path: the file of answers.

    Returns:
        False while rows are still to be answered.
    """
    return _COUNT in _read_figures(metrics_path(path))


def _read_figures(target: Path) -> dict[str, Any]:
    try:
        content = json.loads(target.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # there are none yet, or none that were written here
    return content if isinstance(content, dict) else {}


def _write_figures(target: Path, content: Mapping[str, Any]) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        text = json.dumps(dict(content), indent=2, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{target} cannot be written: {error}; free space") from error
