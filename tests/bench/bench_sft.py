"""SFT with the tiny model: beside TRL in CPU seconds, padding, and what packing and shared prompts save."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import numpy as np

from tests.bench.training import prepare
from tests.bench.trl_venv import trl_python
from vigorl_lib.data.chains import read_chains
from vigorl_lib.domain.image import Image
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.config import SftConfig
from vigorl_lib.training.metrics import read_metrics
from vigorl_lib.training.order import Limits, padding_share, plan_micro_batches

CAPTIONS = "datasets/visual-search/captions.parquet"
CHAINS, BATCH, EPOCHS = 256, 32, 3
STEPS, WARM_UP = EPOCHS * CHAINS // BATCH, 2
LONG_TAILED = 96
"""Sequences of the long-tailed set: log-normal lengths around 80 tokens, at most 1000."""


def run() -> dict[str, float]:
    root = prepare("sft")
    storage = open_storage(str(root))
    return _beside_trl(storage, root.parent / "trl-sft") | _long_tailed(root) | _shared_prompts(root)


def _beside_trl(storage: Storage, folder: Path) -> dict[str, float]:
    """CPU seconds of a step over three epochs, ours and TRL's: same model, captions and batch, one thread each.

    The vision tower is frozen on both sides, as in the paper's runs, or trained on both.
    """
    shutil.rmtree(folder, ignore_errors=True)
    figures: dict[str, float] = {}
    # TRL first: our process group leaves a rank in the environment, which its processes would take for theirs.
    trl = {frozen: mean(_trl(storage, folder, frozen)[WARM_UP:]) for frozen in (True, False)}
    for name, frozen in (("", True), ("_trained_tower", False)):
        theirs, ours = trl[frozen], mean(_ours(storage, frozen)[WARM_UP:])
        figures |= {f"step_cpu_s{name}": ours, f"trl_step_cpu_s{name}": theirs, f"step_vs_trl{name}": ours / theirs}
    metrics = read_metrics(RunLayout(storage, "bench/sft-frozen"))[WARM_UP:]
    return figures | {
        "tokens_per_s": median(m["tokens_per_s"] for m in metrics),
        "padding_share": median(m["padding_share"] for m in metrics),
    }


def _ours(storage: Storage, frozen: bool) -> list[float]:
    from vigorl_lib.training.sft import train_sft

    config = SftConfig.model_validate(
        {
            "init": "models/tiny",
            "sources": [{"chains": CAPTIONS, "limit": CHAINS}],
            "steps": STEPS,
            "batch": BATCH,
            "checkpoint": {"every": 0},
            "engine": {"learning_rate": 1e-4, "micro_batch": BATCH, "freeze": ["visual"] if frozen else []},
        }
    )
    stamps: list[float] = []
    train_sft(
        config,
        storage=storage,
        run_id="bench/sft-frozen" if frozen else "bench/sft-trained",
        seed=0,
        on_step=lambda *_: stamps.append(time.process_time()),
    )
    return [after - before for before, after in pairwise(stamps)]


def _trl(storage: Storage, folder: Path, frozen: bool) -> list[float]:
    images = ImageStore(storage)
    rows = []
    for chain in read_chains(storage, CAPTIONS)[:CHAINS]:
        prompt, answer = chain.segments
        system, user = prompt.messages
        (image,) = (part for part in user.parts if isinstance(part, Image))
        path = folder / "images" / image.sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.load(image).data or b"")
        question = "".join(part for part in user.parts if isinstance(part, str))
        reply = "".join(part for part in answer.messages[0].parts if isinstance(part, str))
        rows.append({"system": system.parts[0], "question": question, "image": str(path), "answer": reply})
    job = {
        "model": str(Path(storage.uri) / "models" / "tiny"),
        "output": str(folder / "out"),
        "rows": rows,
        "batch": BATCH,
        "steps": STEPS,
        "freeze_tower": frozen,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    script = Path(__file__).with_name("trl_sft.py")
    output = subprocess.check_output([trl_python(), script, folder / "job.json"], text=True, stderr=subprocess.DEVNULL)
    found = next(line for line in output.splitlines() if '"cpu_s"' in line)
    seconds: list[float] = json.JSONDecoder().raw_decode(found[found.index("{") :])[0]["cpu_s"]
    return seconds


def _long_tailed(root: Path) -> dict[str, float]:
    """Padding, balance over ranks, and what packing saves, on text whose lengths have a long tail."""
    import torch

    from vigorl_lib.models.inputs import TokenSequence, collate
    from vigorl_lib.models.loading import load_model
    from vigorl_lib.models.packing import pack, use_packed_attention

    rng = np.random.default_rng(0)
    lengths = np.minimum(1000, 80 * np.exp(rng.normal(0.0, 0.9, LONG_TAILED))).astype(int).tolist()
    ranks = plan_micro_batches(lengths, 4, Limits(BATCH, 16_384))
    loads = [sum(lengths[index] for indexes in rank for index in indexes) for rank in ranks]
    loaded = load_model(str(root / "models" / "tiny"), device="cpu")
    model = loaded.model
    use_packed_attention(model)
    plan = plan_micro_batches(lengths, 1, Limits(BATCH, 16_384))[0]
    sequences = [TokenSequence(tuple(rng.integers(10, 60, length).tolist())) for length in lengths]
    together = [[sequences[index] for index in indexes] for indexes in plan]
    packed = [pack(batch, resize=loaded.resize) for batch in together]
    padded = [collate(batch, padding=0, resize=loaded.resize, side="right") for batch in together]

    def run_packed() -> None:
        for batch in packed:
            options = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "packing": batch.packing}
            model.model(**options).last_hidden_state.square().sum().backward()

    def run_padded() -> None:
        for batch in padded:
            options = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
            hidden = model.model(attention_mask=batch.attention_mask, **options).last_hidden_state
            (hidden * batch.attention_mask[..., None]).square().sum().backward()

    torch.set_num_threads(1)
    return {
        "padding_share_long_tailed": padding_share(lengths, plan),
        "padded_share_long_tailed": 1 - sum(lengths) / sum(batch.input_ids.numel() for batch in padded),
        "packing_speedup_long_tailed": _cpu_s(run_padded) / _cpu_s(run_packed),
        "rank_balance_long_tailed": float(np.mean(loads) / max(loads)),
    }


def _shared_prompts(root: Path) -> dict[str, float]:
    """What one prompt for a group of 8 saves: forward and backward of 4 groups, 200 tokens of prompt, 40 of answer."""
    from vigorl_lib.models.inputs import TokenSequence
    from vigorl_lib.models.loading import load_model
    from vigorl_lib.training.batches import Sample, collate_samples
    from vigorl_lib.training.module import LogProbModule

    rng = np.random.default_rng(0)
    loaded = load_model(str(root / "models" / "tiny"), device="cpu")
    module = LogProbModule(loaded.model, loaded.image_processor)
    samples = []
    for prompt in rng.integers(10, 60, (4, 200)):
        for answer in rng.integers(10, 60, (8, 40)):
            tokens = TokenSequence(tuple(np.concatenate((prompt, answer)).tolist()))
            samples.append(Sample(tokens, np.arange(200, 240), np.empty(0, dtype=np.float32)))
    # Where the first token is trained, there is no prompt to share.
    apart = [replace(sample, positions=np.concatenate(([1], sample.positions))) for sample in samples]

    def backward(batch: Sequence[Sample]) -> Callable[[], None]:
        collated = collate_samples(batch, resize=loaded.resize)
        return lambda: module(collated, []).sum().backward()

    return {"shared_prompt_speedup": _cpu_s(backward(apart)) / _cpu_s(backward(samples))}


def _cpu_s(work: Callable[[], None], *, rounds: int = 5) -> float:
    """Median CPU seconds of this process."""
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return median(seconds)
