"""TRL's SFT on the bench's model and captions; runs in TRL's own environment and prints CPU seconds a step."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset, Features, Sequence, Value
from datasets import Image as ImageFeature
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2VLImageProcessorPil
from trl import SFTConfig, SFTTrainer
from trl_grpo import _Clock, _NoVideo, _Processor


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
    model.model.visual.requires_grad_(not job["freeze_tower"])
    turn = [{"role": Value("string"), "content": Value("string")}]
    rows = [
        {
            "prompt": [{"role": "system", "content": row["system"]}, {"role": "user", "content": row["question"]}],
            "completion": [{"role": "assistant", "content": row["answer"]}],
            "images": [row["image"]],
        }
        for row in job["rows"]
    ]
    features = Features({"prompt": turn, "completion": turn, "images": Sequence(ImageFeature())})
    config = SFTConfig(
        output_dir=job["output"],
        per_device_train_batch_size=job["batch"],
        max_length=None,
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
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows, features=features),
        processing_class=processor,
        callbacks=[clock],
    )
    trainer.train()
    print(json.dumps({"cpu_s": clock.seconds}))


if __name__ == "__main__":
    main()
