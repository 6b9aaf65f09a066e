"""Names under which flags are known elsewhere: other spellings, and flags that do not exist here.

Only tables; the grammar that uses them is :mod:`internvl35.commands.flags`.
"""

from __future__ import annotations

from collections.abc import Mapping

ALIASES: Mapping[str, tuple[str, ...]] = {
    "tuner_type": ("train_type", "sft_type"),
    "torch_dtype": ("dtype",),
    "max_dynamic_patch": ("max_num",),
    "lora_dropout": ("lora_dropout_p",),
}
"""Other spellings of a flag."""

VALUE_ALIASES: Mapping[str, Mapping[str, str]] = {
    "template": {"internvl3_5": "internvl2_5", "internvl_hf": "internvl2_5"},
    "torch_dtype": {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"},
    "optim": {"adamw_torch": "adamw", "adamw_torch_fused": "adamw"},
    "lr_scheduler_type": {"constant_with_warmup": "constant", "warmup_stable_decay": "wsd"},
    "attn_impl": {"flash_attention_2": "flash_attn"},
    "fsdp": {"fsdp2": "full_shard", "full_shard auto_wrap": "full_shard"},
    "quant_method": {"bitsandbytes": "bnb"},
    "infer_backend": {"pt": "transformers"},
}
"""Other spellings of a flag's values."""

ENVIRONMENT: Mapping[str, str] = {
    "max_dynamic_patch": "MAX_NUM",
    "video_segments": "VIDEO_SEGMENTS",
    "video_max_num": "VIDEO_MAX_NUM",
    "use_hf": "USE_HF",
}
"""Environment variables that stand in for a flag that is not given."""

_BEST = "the best checkpoint has the lowest eval_loss"

FIXED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "model_type": (("internvl",), "the architecture is read from the checkpoint's config.json"),
    "task_type": (("causal_lm",), "answers in text are what the model gives"),
    "check_model": (("true", "false"), "a checkpoint is checked against its config in any case"),
    "lazy_tokenize": (("true", "false"), "rows are always read and encoded when they are needed"),
    "streaming": (("false",), "files are read row by row in constant memory without it"),
    "use_chat_template": (("true",), "for plain text use internvl35 pt, or rows of one assistant "
                                     "message"),
    "save_safetensors": (("true",), "nothing is pickled"),
    "bias": (("none",), "adapters have no biases"),
    "lora_bias": (("none",), "adapters have no biases"),
    "metric_for_best_model": (("loss", "eval_loss"), _BEST),
    "greater_is_better": (("false",), _BEST),
    "remove_unused_columns": (("true", "false"), "columns that nobody needs cost nothing"),
    "ddp_find_unused_parameters": (("true", "false"), "text without pictures uses the tower too"),
}  # fmt: skip
"""Flags that are accepted and do nothing: the beginnings of values that they may have, and why."""

_EXPORT = "internvl35 export does that with a checkpoint"
_PREFERENCE = "preferences and rewards are no business of this command"

REPLACED: Mapping[str, str] = {
    "bf16": "use --torch_dtype bfloat16",
    "fp16": "use --torch_dtype float16",
    "lr": "use --learning_rate",
    "model_id_or_path": "use --model",
    "model_name_or_path": "use --model",
    "ckpt_dir": "use --adapters, or --model for a checkpoint with all weights",
    "resume_from": "use --resume_from_checkpoint",
    "meta_path": "use --dataset with the meta.json",
    "annotation": "use --dataset",
    "dataset_sample": "use --dataset NAME#COUNT",
    "train_dataset_sample": "use --dataset NAME#COUNT",
    "val_dataset_sample": "use --val_dataset NAME#COUNT",
    "dataset_test_ratio": "use --split_dataset_ratio",
    "conv_style": "use --template",
    "template_type": "use --template",
    "model_kwargs": "use --max_dynamic_patch, --video_segments and --video_max_num",
    "input_size": "the checkpoint's config.json says how large a tile is",
    "force_image_size": "the checkpoint's config.json says how large a tile is",
    "max_seq_length": "use --max_length",
    "max_packed_tokens": "use --packing_length",
    "num_images_expected": "use --packing_max_tiles",
    "use_packed_ds": "use --packing",
    "freeze_backbone": "use --freeze_vit",
    "freeze_mlp": "use --freeze_aligner",
    "use_llm_lora": "use --tuner_type lora and --lora_rank",
    "use_backbone_lora": "use --tuner_type lora, --lora_rank and --freeze_vit false",
    "lora_target_modules": "use --target_modules",
    "target_regex": "use --target_modules",
    "quantization_bit": "use --quant_bits",
    "load_in_4bit": "use --quant_bits 4",
    "load_in_8bit": "use --quant_bits 8",
    "use_flash_attn": "use --attn_impl flash_attn",
    "attn_implementation": "use --attn_impl",
    "grad_checkpoint": "use --gradient_checkpointing",
    "vit_gradient_checkpointing": "use --gradient_checkpointing",
    "batch_size": "use --per_device_train_batch_size",
    "eval_batch_size": "use --per_device_eval_batch_size",
    "evaluation_strategy": "use --eval_strategy",
    "overwrite_output_dir": "use --add_version true, which gives every run a folder of its own",
    "logging_dir": "TensorBoard's files are in runs/ inside the run folder",
    "load_best_model_at_end": "the end of a run names the best checkpoint",
    "predict_with_generate": "use internvl35 infer --metric afterwards",
    "num_infer_workers": "use --max_batch_size",
    "eval_human": "leave --dataset out, and questions are asked for",
    "device_map": "use CUDA_VISIBLE_DEVICES, and NPROC_PER_NODE for several GPUs",
    "use_ray": "use NNODES and NODE_RANK for several machines",
    "sequence_parallel_size": "use --packing with a shorter --packing_length, or --fsdp",
    "push_to_hub": _EXPORT,
    "hub_model_id": _EXPORT,
    "merge_lora": _EXPORT,
    "rlhf_type": _PREFERENCE,
    "reward_funcs": _PREFERENCE,
    "external_plugins": "no code of others is run",
    "custom_register_path": "no code of others is run; --columns renames columns",
    "trust_remote_code": "no code of others is run, and none is needed",
}
"""Flags of other tools that do not exist here, and what to do instead."""
