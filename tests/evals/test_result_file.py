from __future__ import annotations

import json
from pathlib import Path

import pytest

from internvl35.data.messages import Message
from internvl35.data.records import Record
from internvl35.errors import DataError
from internvl35.evals.predictions import Prediction, TokenLogprob
from internvl35.evals.result_file import (
    ResultFile,
    describe,
    is_finished,
    read_answers,
    score_file,
    write_metrics,
)
from internvl35.scoring import METRICS

FACTS = {"model": "tiny", "adapters": ("a",), "max_new_tokens": 8}

RECORDS = [
    Record(
        (Message("user", f"<image>\nWhat is {number}?"), Message("assistant", f"{number}")),
        (Path(f"{number}.png"),),
        origin=f"rows.jsonl:{number}",
    )
    for number in range(4)
]


def answer(number: int, text: str | None = "1") -> Prediction:
    return Prediction(number, RECORDS[number], f"{number}", text)


def test_a_line_holds_answer_expected_answer_and_conversation() -> None:
    assert describe(answer(2, "two")) == {
        "response": "two",
        "labels": "2",
        "logprobs": None,
        "messages": [
            {"role": "user", "content": "<image>\nWhat is 2?"},
            {"role": "assistant", "content": "two"},
        ],
        "images": ["2.png"],
    }


def test_logprobs_errors_and_cuts_are_told() -> None:
    logprobs = (TokenLogprob("tw", -0.5), TokenLogprob("o", -1.0))
    line = describe(Prediction(0, RECORDS[0], "0", "two", is_cut=True, logprobs=logprobs))
    assert line["is_cut"] is True
    assert line["logprobs"] == {
        "content": [{"token": "tw", "logprob": -0.5}, {"token": "o", "logprob": -1.0}]
    }
    lost = TokenLogprob("x", float("-inf"))
    line = describe(Prediction(0, RECORDS[0], "0", "x", logprobs=(lost,)))
    assert line["logprobs"] == {"content": [{"token": "x", "logprob": None}]}  # JSON has no -inf
    broken = describe(Prediction(0, None, error="rows.jsonl:1: broken"))
    assert broken == {
        "response": None, "labels": None, "logprobs": None, "error": "rows.jsonl:1: broken",
    }  # fmt: skip


def test_media_without_a_file_are_named_by_their_row() -> None:
    record = Record(
        (Message("user", "<image><image>x"),), (b"bytes", "data:image/png;base64,AA"),
        videos=((Path("a.png"), b"b"),), origin="set row 3",
    )  # fmt: skip
    line = describe(Prediction(0, record, None, "x"))
    assert line["images"] == ["set row 3 image 1", "set row 3 image 2"]
    assert line["videos"] == [["a.png", "set row 3 video 1"]]
    assert [message["role"] for message in line["messages"]] == ["user", "assistant"]


def test_a_killed_run_loses_no_whole_line_and_goes_on_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "infer_result" / "a.jsonl"
    first = ResultFile(path)
    for number in range(2):
        first.append(answer(number))
        lines = list(read_answers(path))  # there before the file is closed
        assert len(lines) == number + 1
    with path.open("a") as file:
        file.write('{"response": "tw')
    second = ResultFile(path)
    assert second.num_lines == 2
    second.check_continues(RECORDS, FACTS)
    second.append(answer(2))
    second.close()
    first.close()
    assert [line["labels"] for line in read_answers(path)] == ["0", "1", "2"]


def test_answers_to_other_rows_are_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    result = ResultFile(path)
    result.check_continues([], FACTS)
    result.append(answer(0))
    result.append(answer(3))
    result.close()
    again = ResultFile(path)
    with pytest.raises(DataError, match=r"line 2 of .* answers another row"):
        again.check_continues(RECORDS, FACTS)
    with pytest.raises(DataError, match="holds 2 answers but there are 1 rows"):
        again.check_continues(RECORDS[:1], FACTS)
    again.close()


def test_a_question_without_an_answer_is_told_from_another(tmp_path: Path) -> None:
    asked = [
        Record((Message("user", "<image>a"),), (Path("1.png"),)),
        Record((Message("user", "<image>b"),), (Path("1.png"),)),
        Record((Message("user", "<image>a"),), (Path("2.png"),)),
    ]
    result = ResultFile(tmp_path / "a.jsonl")
    result.append(Prediction(0, asked[0], None, "x"))
    result.close()
    again = ResultFile(tmp_path / "a.jsonl")
    again.check_continues(asked[:1], FACTS)
    for other in asked[1:]:
        with pytest.raises(DataError, match="answers another row"):
            again.check_continues([other], FACTS)
    again.close()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model": "8B"}, "with model 'tiny', not '8B'; name another result_path"),
        ({"adapters": ("b",)}, r"with adapters \['a'\], not \('b',\)"),
        ({"max_new_tokens": 9}, "with max_new_tokens 8, not 9"),
    ],
)
def test_answers_that_came_about_in_another_way_are_not_gone_on_with(
    tmp_path: Path, other: dict[str, object], message: str
) -> None:
    path = tmp_path / "a.jsonl"
    result = ResultFile(path)
    result.check_continues(RECORDS, FACTS)
    result.append(answer(0))
    result.close()
    assert not is_finished(path)
    again = ResultFile(path)
    again.check_continues(RECORDS, FACTS)
    with pytest.raises(DataError, match=message):
        again.check_continues(RECORDS, FACTS | other)
    again.close()
    write_metrics(path, *score_file(path, METRICS), FACTS)
    assert is_finished(path)


@pytest.mark.parametrize(
    "text",
    [
        "no json\n", "[1]\n", '{"a": 1}\n', '{"query": "a", "response": "b"}\n',
        '{"response": "b", "query": "a"}\n{"response": "b", "query": "a"}', '{"response": "b"}\n',
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="holds no answers of this command; name another"):
        ResultFile(path)
    assert path.read_text() == text


def test_a_file_that_ends_without_a_line_break_is_not_emptied_unless_it_is_ours(
    tmp_path: Path,
) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text("a diary without a line break")
    with pytest.raises(DataError, match="holds no answers"):
        ResultFile(path)
    assert path.read_text() == "a diary without a line break"


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="name another result_path"):
        ResultFile(tmp_path / "file" / "a.jsonl")


def test_a_full_disk_is_said_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no device that is always full")
    result = ResultFile(tmp_path / "a.jsonl")
    monkeypatch.setattr(result, "_file", full.open("a"))
    with pytest.raises(DataError, match=r"No space left.*free space, then run the same command"):
        result.append(answer(0))
    result.close()


def test_a_device_is_no_place_for_answers(tmp_path: Path) -> None:
    for place in (Path("/dev/null"), tmp_path):
        with pytest.raises(DataError, match="is not a regular file; name another result_path"):
            ResultFile(place)


def test_a_file_is_scored_without_reasoning_and_without_rows_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    result = ResultFile(path)
    result.append(answer(1, "<think>\none or two\n</think>\n\n1"))
    result.append(answer(2, "3"))
    result.append(Prediction(3, RECORDS[3], "<think>\nonce\n</think>\n\n3", "<think>x</think>4"))
    result.append(Prediction(3, RECORDS[3], None, "no label"))
    result.append(Prediction(0, None, error="broken"))
    result.close()
    scores, counts = score_file(path, METRICS)
    assert counts == {"num_rows": 5, "num_scored": 3, "num_errors": 1, "num_cut": 0}
    assert scores["exact_match"].mean == pytest.approx(1 / 3)
    assert scores["edit_distance"].mean == pytest.approx(2 / 3)
    target = write_metrics(path, scores, counts, {"model": "tiny"})
    assert target == tmp_path / "a.metrics.json"
    figures = json.loads(target.read_text())
    assert figures["acc"] == pytest.approx(1 / 3)
    assert figures["acc_interval_95"] == list(scores["acc"].interval or ())
    assert figures["num_scored"] == 3
    assert figures["model"] == "tiny"
    assert figures["rouge-l"] == scores["rouge-l"].mean
