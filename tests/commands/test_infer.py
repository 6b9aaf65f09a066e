from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from stand_in_hubs import HuggingFaceHandler, serve

from internvl35.chat import load
from internvl35.commands.answer_screen import describe_scores
from internvl35.commands.infer import InferSettings, choose_result_path
from internvl35.commands.terminal import printable
from internvl35.commands.trained import find_trained, load_trained
from internvl35.data.records import read_record
from internvl35.data.row_files import write_rows
from internvl35.errors import DataError
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.composite import VisionLanguageModel
from internvl35.scoring import Score
from internvl35.train.adapters import load_adapters

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def val_rows(tmp_path: Path) -> Path:
    Image.effect_noise((150, 50), 80).save(tmp_path / "wide.png")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"<image>Describe the two images {number}."},
                {"role": "assistant", "content": "shortly"},
            ],
            "images": ["wide.png"],
        }
        for number in range(3)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers_in(folder: Path) -> list[dict[str, Any]]:
    paths = list(folder.glob("*.jsonl"))
    assert len(paths) == 1
    return [json.loads(line) for line in paths[0].read_text().splitlines()]


def test_the_announced_command_answers_the_validation_rows_of_the_training(
    run: Run, adapter_checkpoint: Path, val_rows: Path
) -> None:
    arguments = json.loads((adapter_checkpoint / "args.json").read_text())
    arguments |= {"dataset": [str(val_rows)], "split_dataset_ratio": 0.67, "system": "Be short."}
    (adapter_checkpoint / "args.json").write_text(json.dumps(arguments))
    code, out, err = run(
        "infer", "--adapters", adapter_checkpoint, "--stream", "true", "--load_data_args", "true",
        "--max_new_tokens", 4,
    )  # fmt: skip
    assert code == 0, err
    assert out.count("[QUERY] <image>\nDescribe the two images") == out.count("[RESPONSE] ") == 2
    assert out.count("[LABELS] shortly") == 2
    found = answers_in(adapter_checkpoint / "infer_result")
    assert [line["labels"] for line in found] == ["shortly"] * 2
    assert all(printable(line["response"], None) in out for line in found)
    assert found[0].keys() == {"response", "labels", "logprobs", "messages", "images", "is_cut"}
    assert found[0]["messages"][-1] == {"role": "assistant", "content": found[0]["response"]}
    assert found[0]["images"] == [str(val_rows.with_name("wide.png"))]
    figures = json.loads(next((adapter_checkpoint / "infer_result").glob("*.json")).read_text())
    assert figures["num_rows"] == figures["num_scored"] == 2
    for name in ("acc", "exact_match", "rouge-l", "edit_distance"):
        assert 0 <= figures[name] <= 1
        assert f"{name}: {figures[name]:.1%}" in out


def test_answers_are_those_of_a_chat_with_the_adapters(
    run: Run, adapter_checkpoint: Path, random_checkpoint: Path, val_rows: Path
) -> None:
    code, _, err = run(
        "infer", "--adapters", adapter_checkpoint, "--val_dataset", val_rows,
        "--dataset_shuffle", "false", "--max_new_tokens", 5, "--max_batch_size", 2,
        "--system", "none",
    )  # fmt: skip
    assert code == 0, err
    chat = load(random_checkpoint, system_prompt="none", dtype=torch.float32)
    load_adapters(chat.model, adapter_checkpoint)
    sampling = SamplingSettings(max_tokens=5)
    picture = val_rows.with_name("wide.png")
    expected = [
        chat.ask(f"<image>\nDescribe the two images {number}.", [picture], sampling=sampling).text
        for number in range(3)
    ]
    found = answers_in(adapter_checkpoint / "infer_result")
    assert [line["response"] for line in found] == expected


def test_the_rows_that_the_run_kept_go_before_a_new_split(
    run: Run, adapter_checkpoint: Path, val_rows: Path
) -> None:
    kept = adapter_checkpoint.parent / "val_dataset.jsonl"
    kept.write_text(
        json.dumps(
            {"messages": [{"role": "user", "content": "kept"},
                          {"role": "assistant", "content": "yes"}]}
        )
    )  # fmt: skip
    result = val_rows.with_name("out.jsonl")
    code, out, err = run(
        "infer", "--adapters", adapter_checkpoint, "--load_data_args", "true",
        "--max_new_tokens", 2, "--metric", "acc", "--result_path", result,
    )  # fmt: skip
    assert code == 0, err
    assert [json.loads(line)["labels"] for line in result.read_text().splitlines()] == ["yes"]
    assert out.startswith("acc: ")
    assert "rouge" not in out


def test_a_result_file_is_gone_on_with(run: Run, adapter_checkpoint: Path, val_rows: Path) -> None:
    result = val_rows.with_name("out.jsonl")
    command = (
        "infer", "--adapters", adapter_checkpoint, "--val_dataset", val_rows,
        "--dataset_shuffle", "false", "--max_new_tokens", 3, "--result_path", result,
    )  # fmt: skip
    assert run(*command)[0] == 0
    whole = result.read_text()
    lines = whole.splitlines(keepends=True)
    result.write_text(lines[0] + lines[1][:20])
    code, _, err = run(*command)
    assert code == 0
    assert "holds 1 answers; going on behind them" in err
    assert result.read_text() == whole


def test_logprobs_are_written_on_demand(run: Run, adapter_checkpoint: Path, val_rows: Path) -> None:
    code, _, err = run(
        "infer", "--adapters", adapter_checkpoint, "--val_dataset", val_rows,
        "--max_new_tokens", 3, "--logprobs", "true", "--merge_lora", "true",
    )  # fmt: skip
    assert code == 0, err
    for line in answers_in(adapter_checkpoint / "infer_result"):
        content = line["logprobs"]["content"]
        assert len(content) == 3
        assert all(item["logprob"] < 0 for item in content)


def test_without_rows_a_conversation_begins(
    run: Run, adapter_checkpoint: Path, type_in: Callable[[bytes], None]
) -> None:
    type_in(b"Hello\n/quit\n")
    code, out, err = run("infer", "--adapters", adapter_checkpoint, "--max_new_tokens", 3)
    assert code == 0, err
    assert out.strip()
    assert "/help lists what can be typed" in err


def test_a_checkpoint_with_all_weights_is_asked_by_its_folder(
    run: Run, random_checkpoint: Path, val_rows: Path
) -> None:
    result = val_rows.with_name("out.jsonl")
    code, out, err = run(
        "infer", "--model", random_checkpoint, "--dataset", f"{val_rows}#2",
        "--max_new_tokens", 2, "--stream", "true", "--max_batch_size", 2, "--result_path", result,
    )  # fmt: skip
    assert code == 0, err
    assert "stream is off" in err
    assert "[QUERY]" not in out
    assert len(result.read_text().splitlines()) == 2


def test_settings_of_the_training_are_taken_unless_others_are_given(
    adapter_checkpoint: Path, random_checkpoint: Path
) -> None:
    arguments = json.loads((adapter_checkpoint / "args.json").read_text())
    arguments |= {
        "system": "Be short.", "max_dynamic_patch": 2, "torch_dtype": "bfloat16", "max_length": 99,
        "dataset": ["gone.jsonl"], "learning_rate": 1.0, "media_root": "pictures",
    }  # fmt: skip
    (adapter_checkpoint / "args.json").write_text(json.dumps(arguments))
    name = str(adapter_checkpoint)
    trained = find_trained([name], {})
    assert trained.base == random_checkpoint
    assert trained.settings.encoding.system == "Be short."
    assert trained.settings.encoding.max_dynamic_patch == 2
    assert trained.settings.encoding.max_length is None
    assert trained.settings.model.torch_dtype == "bfloat16"
    assert trained.settings.dataset.dataset == ()
    assert trained.settings.encoding.media_root == ""
    with_data = find_trained([name], {}, load_data_args=True).settings
    assert with_data.dataset.dataset == ("gone.jsonl",)
    assert with_data.encoding.media_root == "pictures"
    assert find_trained([name], {"system": "none"}).settings.encoding.system == "none"
    assert find_trained([name], {}, load_args=False).settings.encoding.system == "official"
    assert find_trained([name], {}, load_args=False).base == random_checkpoint  # as PEFT noted it


def test_arguments_of_another_tool_are_hardly_used(
    adapter_checkpoint: Path, random_checkpoint: Path
) -> None:
    content = {"model": str(random_checkpoint), "template": "internvl3_5", "other": 1}
    (adapter_checkpoint / "args.json").write_text(json.dumps(content))
    trained = find_trained([str(adapter_checkpoint)], {})
    assert trained.base == random_checkpoint
    assert trained.settings.encoding.template is None
    with pytest.raises(DataError, match="pass --val_dataset instead"):
        find_trained([str(adapter_checkpoint)], {}, load_data_args=True)


def test_several_adapters_are_all_applied(
    adapter_checkpoint: Path, random_checkpoint: Path
) -> None:
    name = str(adapter_checkpoint)
    one = load_trained(find_trained([name], {}), merge=True)
    two = load_trained(find_trained([name, name], {}), merge=True)
    base = VisionLanguageModel.from_pretrained(random_checkpoint)
    key = "language_model.model.layers.0.self_attn.q_proj.weight"
    step = one.state_dict()[key] - base.state_dict()[key]
    assert step.abs().max() > 0.01
    torch.testing.assert_close(two.state_dict()[key], base.state_dict()[key] + 2 * step)


def test_the_file_of_a_training_cannot_do_all_that_a_user_can(
    adapter_checkpoint: Path, random_checkpoint: Path
) -> None:
    name = str(adapter_checkpoint)
    arguments = json.loads((adapter_checkpoint / "args.json").read_text())
    arguments |= {"allow_urls": True, "model_revision": "v1", "use_hf": False, "quant_bits": 4}
    (adapter_checkpoint / "args.json").write_text(json.dumps(arguments))
    settings = find_trained([name], {}).settings
    assert not settings.encoding.allow_urls
    assert (settings.model.model_revision, settings.dataset.use_hf) == ("v1", False)
    assert settings.adapter.quant_bits == 4
    assert find_trained([name], {"allow_urls": True}).settings.encoding.allow_urls
    with_token = find_trained([name], {"hub_token": "hf_x"}).settings
    assert with_token.dataset.use_hf is None  # else the token would go to another hub
    other = find_trained([name], {"model": str(random_checkpoint)}).settings
    assert other.model.model_revision is None
    merged = adapter_checkpoint.with_name("checkpoint-2-merged")
    shutil.copytree(random_checkpoint, merged)
    shutil.copy(adapter_checkpoint / "args.json", merged)
    assert find_trained([], {"model": str(merged)}).settings.adapter.quant_bits is None


def test_a_setting_of_the_training_that_cannot_be_is_blamed_on_its_file(
    run: Run, adapter_checkpoint: Path
) -> None:
    arguments = json.loads((adapter_checkpoint / "args.json").read_text())
    arguments |= {"frame_label": "Picture 1"}
    (adapter_checkpoint / "args.json").write_text(json.dumps(arguments))
    code, _, err = run("infer", "--adapters", adapter_checkpoint)
    assert code == 2
    assert f"args.json of {adapter_checkpoint}: frame_label is 'Picture 1'" in err
    assert "give this flag yourself, or pass --load_args false" in err
    given = {"frame_label": "Frame1: <image>"}
    assert find_trained([str(adapter_checkpoint)], given).settings.encoding.frame_label


def test_a_base_that_is_gone_is_named(run: Run, adapter_checkpoint: Path) -> None:
    for name, key in (("args.json", "model"), ("adapter_config.json", "base_model_name_or_path")):
        content = json.loads((adapter_checkpoint / name).read_text())
        (adapter_checkpoint / name).write_text(json.dumps(content | {key: "./gone"}))
    code, _, err = run("infer", "--adapters", adapter_checkpoint)
    assert code == 2
    assert f"{adapter_checkpoint} stands on ./gone" in err
    assert "cannot be found: no checkpoint './gone'" in err
    assert err.strip().endswith("; pass it as --model")


def test_a_training_without_validation_rows_leaves_its_data_alone(
    run: Run, adapter_checkpoint: Path, type_in: Callable[[bytes], None]
) -> None:
    arguments = json.loads((adapter_checkpoint / "args.json").read_text())
    (adapter_checkpoint / "args.json").write_text(json.dumps(arguments | {"dataset": ["./gone"]}))
    type_in(b"/quit\n")
    code, _, err = run("infer", "--adapters", adapter_checkpoint, "--load_data_args", "true")
    assert code == 0, err
    assert "there are no validation rows; pass --val_dataset, or ask questions yourself" in err


def test_pictures_that_a_training_kept_are_found_again(
    run: Run, adapter_checkpoint: Path, wide_picture: Path
) -> None:
    row = {"query": "Describe", "response": "x", "image": wide_picture.read_bytes()}
    records = [read_record(row | {"query": f"Describe {n}"}, origin="o") for n in range(4)]
    write_rows(records, adapter_checkpoint.parent / "val_dataset.jsonl")
    code, _, err = run(
        "infer", "--adapters", adapter_checkpoint, "--load_data_args", "true",
        "--max_new_tokens", 1,
    )  # fmt: skip
    assert code == 0, err
    found = answers_in(adapter_checkpoint / "infer_result")
    assert [line["messages"][0]["content"] for line in found] == [
        f"<image>\nDescribe {number}" for number in range(4)
    ]
    folder = adapter_checkpoint.parent / "val_images"
    assert [Path(line["images"][0]).parent for line in found] == [folder] * 4


def test_answers_of_another_checkpoint_are_not_taken_for_this_ones(
    run: Run, adapter_checkpoint: Path, random_checkpoint: Path, val_rows: Path
) -> None:
    result = val_rows.with_name("out.jsonl")
    flags = ("--dataset", val_rows, "--max_new_tokens", 1, "--result_path", result)
    assert run("infer", "--adapters", adapter_checkpoint, *flags)[0] == 0
    whole = result.read_text()
    numbers = [json.loads(line)["messages"][0]["content"][-2] for line in whole.splitlines()]
    assert numbers == ["0", "1", "2"]  # the order of the file
    code, _, err = run("infer", "--model", random_checkpoint, *flags)
    assert code == 2
    assert "holds answers with adapters ['" in err
    assert err.strip().endswith("not []; name another result_path")
    assert result.read_text() == whole


def test_an_answer_ends_at_a_stop_word(
    run: Run, adapter_checkpoint: Path, val_rows: Path, tmp_path: Path
) -> None:
    answers = []
    for number, flags in enumerate(((), ("--stop_words",))):
        result = tmp_path / f"{number}.jsonl"
        words = [answers[0][3:6]] if flags else []
        code, _, err = run(
            "infer", "--adapters", adapter_checkpoint, "--val_dataset", f"{val_rows}#1",
            "--max_new_tokens", 6, "--result_path", result, *flags, *words,
        )  # fmt: skip
        assert code == 0, err
        answers.append(json.loads(result.read_text())["response"])
    assert answers[1] == answers[0][: answers[0].index(answers[0][3:6])]


def test_a_large_repository_without_adapters_is_not_fetched(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with serve(HuggingFaceHandler) as hub:
        hub.add("main", {"config.json": b"{}", "model.safetensors": b"weights"})
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.address)
        code, _, err = run("infer", "--adapters", hub.repository)
    assert code == 2
    assert f"{hub.repository} holds no adapter_config.json" in err
    assert hub.fetched == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--adapters", "./nowhere"), "no adapters './nowhere': no such folder (looked at "),
        (("--adapters", "tiny"), "tiny is a checkpoint with all weights; pass it as --model"),
        (("--adapters", "8B"), "8B is a checkpoint with all weights; pass it as --model"),
        (("--adapters", __file__), "is a file; pass the folder that it is in"),
        (("--infer_backend", "vllm"), "infer_backend is 'vllm'; needed: transformers"),
        (("--metric", "bleu"), "metric is 'bleu'; known: acc, exact_match, rouge, edit_distance"),
        (("--max_batch_size", "0"), "max_batch_size is 0; it must be at least 1"),
        (("--max_new_tokens", "0"), "max_tokens is 0; needed: at least 1"),
        (("--temperature", "-1"), "temperature is -1.0; needed: 0 to 100"),
        (("--result_path", "a", "--resume", "true"), "drop resume"),
        (("--adaptors", "a"), "unknown flag --adaptors"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = run("infer", *arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_folder_without_adapters_is_no_folder_of_adapters(
    run: Run, random_checkpoint: Path
) -> None:
    code, _, err = run("infer", "--adapters", random_checkpoint)
    assert code == 2
    assert "pass a checkpoint with all weights as --model" in err


def test_a_run_folder_is_told_its_last_checkpoint(run: Run, adapter_checkpoint: Path) -> None:
    code, _, err = run("infer", "--adapters", adapter_checkpoint.parent)
    assert code == 2
    assert f"is a run folder; pass one of its checkpoints, for example {adapter_checkpoint}" in err


def test_answers_go_where_they_can_be_found(
    adapter_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = find_trained([str(adapter_checkpoint)], {})
    path = choose_result_path(trained, InferSettings())
    assert path.parent == adapter_checkpoint / "infer_result"
    assert path.suffix == ".jsonl"
    other = choose_result_path(trained, InferSettings())  # of a run that begins at this moment
    assert other != path
    path.unlink()
    other.unlink()
    for name in ("20260101-000000.jsonl", "20260102-000000.jsonl"):
        (path.parent / name).touch()
    (path.parent / "20260101-000000.metrics.json").write_text('{"model": "x"}')
    (path.parent / "20260102-000000.metrics.json").write_text('{"model": "x", "num_rows": 3}')
    found = choose_result_path(trained, InferSettings(resume=True))
    assert found.name == "20260101-000000.jsonl"
    found.unlink()
    assert choose_result_path(trained, InferSettings(resume=True)).name > "20260102-000000.jsonl"
    monkeypatch.chdir(tmp_path)
    embedded = find_trained([], {"model": "tiny"})
    assert choose_result_path(embedded, InferSettings()).parent == Path("infer_result")
    (tmp_path / "infer_result").rename(tmp_path / "moved")
    (tmp_path / "infer_result").touch()
    with pytest.raises(DataError, match="name a file by --result_path"):
        choose_result_path(embedded, InferSettings())


def test_scores_are_printed_with_intervals_and_counts() -> None:
    scores = {"acc": Score(0.5, 4, (0.15, 0.85)), "rouge-l": Score(0.25, 4)}
    counts = {"num_rows": 6, "num_scored": 4, "num_errors": 1, "num_cut": 2}
    assert describe_scores(scores, counts) == [
        "acc: 50.0% (15.0% to 85.0%)",
        "rouge-l: 25.0%",
        "rows: 6, 1 left out, 2 cut at max_new_tokens, 4 with an expected answer",
    ]
