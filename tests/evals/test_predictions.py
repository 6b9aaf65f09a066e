from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flash_models import make_flash_model
from one_pass import score_tokens
from PIL import Image

from internvl35.chat import Chat
from internvl35.conversation import Piece
from internvl35.data.dataset_settings import DatasetSettings
from internvl35.data.encoding import Encoder
from internvl35.data.mixture import RecordSet, select_records
from internvl35.data.tokenizer import load_tokenizer
from internvl35.evals.predictions import Prediction, Predictor, with_reasoning
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.composite import VisionLanguageModel

QUESTIONS = ("Hello, who are you?", "Describe the two images in detail.", "user", "assistant?")
GREEDY = SamplingSettings(max_tokens=5)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of several lengths, one of which names a picture that is not there."""
    folder = tmp_path_factory.mktemp("rows")
    Image.effect_noise((150, 50), 80).save(folder / "wide.png")
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"{'<image>' if number % 2 else ''}{question}"},
                {"role": "assistant", "content": "shortly"},
            ],
            "images": ["wide.png"] if number % 2 else [],
        }
        for number, question in enumerate(QUESTIONS * 2)
    ]
    lines[5]["images"] = ["missing.png"]
    lines[7]["messages"].pop()  # type: ignore[attr-defined]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def records(rows: Path) -> RecordSet:
    return select_records(DatasetSettings(val_dataset=(str(rows),), dataset_shuffle=False))[1]


@pytest.fixture(scope="module")
def chat(random_checkpoint: Path) -> Chat:
    model = VisionLanguageModel.from_pretrained(random_checkpoint)
    return Chat(model, load_tokenizer(random_checkpoint))


@pytest.fixture(scope="module")
def encoder(chat: Chat) -> Encoder:
    config = chat.model.config
    return Encoder(
        chat.tokenizer,
        config.tile_settings,
        tokens_per_tile=config.tokens_per_tile,
        template=config.template,
    )


@pytest.fixture(scope="module")
def alone(chat: Chat, encoder: Encoder, records: RecordSet) -> list[Prediction]:
    return list(Predictor(chat, encoder, records, GREEDY).predict())


def texts(answers: Sequence[Prediction]) -> list[str | None]:
    return [answer.response for answer in answers]


def test_every_row_is_answered_in_order_and_a_bad_one_says_why(
    alone: list[Prediction], records: RecordSet
) -> None:
    assert [prediction.index for prediction in alone] == list(range(8))
    assert all(prediction.response for prediction in alone if prediction.index != 5)
    assert alone[5].response is None
    assert "rows.jsonl:6" in (alone[5].error or "")
    assert "missing.png" in (alone[5].error or "")
    assert [prediction.expected for prediction in alone][:5] == ["shortly"] * 5
    assert alone[7].expected is None
    assert all(prediction.is_cut for prediction in alone if prediction.response)


def test_a_row_gets_the_answer_of_a_chat(chat: Chat, alone: list[Prediction], rows: Path) -> None:
    picture = rows.with_name("wide.png")
    assert alone[0].response == chat.ask(QUESTIONS[0], sampling=GREEDY).text
    asked = chat.ask(QUESTIONS[1], [picture], sampling=GREEDY)
    assert alone[1].response == asked.text


@pytest.mark.parametrize("batch_size", [2, 5])
def test_batches_give_the_same_answers(
    chat: Chat, encoder: Encoder, records: RecordSet, alone: list[Prediction], batch_size: int
) -> None:
    answers = list(Predictor(chat, encoder, records, GREEDY).predict(batch_size=batch_size))
    assert texts(answers) == texts(alone)
    assert [answer.index for answer in answers] == list(range(8))


def test_rows_of_a_flash_model_are_routed_each_on_its_own(
    random_checkpoint: Path, rows: Path, records: RecordSet
) -> None:
    tokenizer = load_tokenizer(random_checkpoint)
    chat = Chat(make_flash_model(), tokenizer)
    config = chat.model.config
    encoder = Encoder(
        tokenizer,
        config.tile_settings,
        tokens_per_tile=config.tokens_per_tile,
        template=config.template,
    )
    asked = chat.ask(QUESTIONS[1], [rows.with_name("wide.png")], sampling=GREEDY)
    plain = chat.ask(
        QUESTIONS[1], [rows.with_name("wide.png")], sampling=GREEDY, flash=FlashSettings("off")
    )
    assert asked.num_compressed_tiles > 0
    assert asked.text != plain.text
    predictor = Predictor(chat, encoder, records, GREEDY, has_logprobs=True)
    found = [list(predictor.predict(batch_size=size)) for size in (1, 4)]
    pieces: list[Piece] = []
    found.append(list(Predictor(chat, encoder, records, GREEDY).predict(on_piece=pieces.append)))
    assert [answers[1].response for answers in found] == [asked.text] * 3
    alone = [token.logprob for token in found[0][1].logprobs or ()]
    together = [token.logprob for token in found[1][1].logprobs or ()]
    assert len(alone) == asked.num_new_tokens
    assert together == pytest.approx(alone, abs=1e-4)


def test_no_more_rows_are_read_ahead_than_a_batch(
    chat: Chat, encoder: Encoder, records: RecordSet, alone: list[Prediction]
) -> None:
    read: list[int] = []

    class Watched(Sequence):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(records)

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            read.append(index)
            return records[index]

    answers = Predictor(chat, encoder, Watched(), GREEDY).predict(batch_size=2)
    assert next(answers).response == alone[0].response
    assert read == [0, 1]
    assert [answer.response for answer in answers] == texts(alone[1:])
    assert read == list(range(8))


def test_a_run_can_begin_at_any_row(
    chat: Chat, encoder: Encoder, records: RecordSet, alone: list[Prediction]
) -> None:
    answers = list(Predictor(chat, encoder, records, GREEDY).predict(start=6))
    assert texts(answers) == texts(alone[6:])
    assert not list(Predictor(chat, encoder, records, GREEDY).predict(start=8))


def test_streamed_pieces_make_the_answer(
    chat: Chat, encoder: Encoder, records: RecordSet, alone: list[Prediction]
) -> None:
    pieces: list[Piece] = []
    asked: list[str | None] = []
    predictor = Predictor(chat, encoder, records, GREEDY)
    answers = []
    for prediction in predictor.predict(
        on_piece=pieces.append, on_question=lambda record, expected: asked.append(expected)
    ):
        if prediction.error is None:
            assert "".join(piece.text for piece in pieces) == prediction.response
        pieces.clear()
        answers.append(prediction.response)
    assert answers == texts(alone)
    assert asked == ["shortly"] * 6 + [None]
    with pytest.raises(ValueError, match="streamed one at a time"):
        next(predictor.predict(batch_size=2, on_piece=pieces.append))


def test_the_same_seed_draws_the_same_answers(
    chat: Chat, encoder: Encoder, records: RecordSet
) -> None:
    drawn = replace(GREEDY, temperature=2.0, seed=3)
    first, second = (
        texts(list(Predictor(chat, encoder, records[:2], drawn).predict())) for _ in range(2)
    )
    other = replace(drawn, seed=4)
    assert first == second
    assert first != texts(list(Predictor(chat, encoder, records[:2], other).predict()))


def test_a_prompt_is_the_beginning_of_what_is_trained_on(
    encoder: Encoder, records: RecordSet
) -> None:
    for index in (0, 1):
        prompt = encoder.encode_prompt(records[index]).prompt
        example = encoder.encode(records[index])
        assert tuple(example.token_ids[: len(prompt)]) == prompt.token_ids
        assert not any(example.loss_mask[: len(prompt)])
        assert example.loss_mask[len(prompt)]


def test_logprobs_are_those_of_the_network_step_by_step(
    chat: Chat, encoder: Encoder, records: RecordSet, alone: list[Prediction]
) -> None:
    predictor = Predictor(chat, encoder, records[:2], GREEDY, has_logprobs=True)
    for prediction, other in zip(predictor.predict(), alone, strict=False):
        assert prediction.response == other.response
        assert prediction.logprobs is not None
        assert len(prediction.logprobs) == 5
    encoded = encoder.encode_prompt(records[1])
    ids = list(encoded.prompt.token_ids)
    steps = []
    answer = []
    with torch.no_grad():
        for _ in range(3):  # a pass of its own for every token, greedily
            logits = chat.model(
                input_ids=torch.tensor([ids]), pixel_values=encoded.pixel_values
            ).logits[0, -1]
            logprobs = logits.log_softmax(-1)
            logits[list(chat.rules.banned_token_ids)] = -torch.inf
            answer.append(int(logits.argmax()))
            steps.append(float(logprobs[answer[-1]]))
            ids.append(answer[-1])
    request = Request(encoded.prompt, encoded.pixel_values)
    assert score_tokens(chat, request, answer) == pytest.approx(steps, abs=1e-3)
    assert score_tokens(chat, request, []) == []


def test_reasoning_stands_in_front_of_the_answer() -> None:
    assert with_reasoning(None, "4") == "4"
    assert with_reasoning("2 + 2", "4") == "<think>\n2 + 2\n</think>\n\n4"
