"""TRL's GRPO on the bench's model and prompts; runs in TRL's own environment and prints CPU seconds a step."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer


class _NoVideo:
    """Stands where the processor wants a video processor, which needs torchvision."""

    model_input_names: tuple[str, ...] = ()
    merge_size = 2


class _Processor(Qwen2_5_VLProcessor):
    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        return type(argument)


class _Clock(TrainerCallback):
    """CPU seconds of this process between the ends of two steps."""

    def __init__(self) -> None:
        self.last, self.seconds = time.process_time(), []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.process_time()
        self.seconds.append(now - self.last)
        self.last = now


def even_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [sum(token % 2 == 0 for token in ids) / max(1, len(ids)) for ids in completion_ids]


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    processor = _Processor(
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(job["model"]),
        tokenizer=tokenizer,
        video_processor=_NoVideo(),
        chat_template=tokenizer.chat_template,
    )
    model = AutoModelForImageTextToText.from_pretrained(job["model"], dtype=torch.float32, attn_implementation="sdpa")
    model.model.visual.requires_grad_(False)
    rows = [
        {
            "prompt": [{"role": "system", "content": job["system"]}, {"role": "user", "content": row["question"]}],
            "image": Image.open(row["image"]).convert("RGB"),
        }
        for row in job["rows"]
    ]
    config = GRPOConfig(
        output_dir=job["output"],
        per_device_train_batch_size=job["prompts"] * job["group"],
        gradient_accumulation_steps=1,
        num_generations=job["group"],
        max_completion_length=job["tokens"],
        temperature=1.0,
        top_k=0,
        beta=0.0,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        max_steps=job["steps"],
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    clock = _Clock()
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=even_tokens,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
        callbacks=[clock],
    )
    trainer.train()
    lengths = trainer._metrics["train"].get("completions/mean_length", [0.0])
    print(json.dumps({"cpu_s": clock.seconds, "mean_length": sum(lengths) / max(1, len(lengths))}))


if __name__ == "__main__":
    main()
