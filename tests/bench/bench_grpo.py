"""A GRPO step with the tiny model: phase by phase through the services, beside TRL in CPU seconds, and overlapped."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from tests.bench import bench_rollout, overlap
from tests.bench.support import examples
from tests.bench.training import prepare, recipe
from tests.bench.trl_venv import trl_python
from vigorl_lib.cli.train import train_stage
from vigorl_lib.cli.up import running_services
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Origin, Segment, Trajectory
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.models.tiny import build_tiny
from vigorl_lib.policy.base import Generation, Sampling
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.transformers import TransformersPolicy
from vigorl_lib.prompts import load_prompt
from vigorl_lib.reward.base import RewardOutcome, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.rollout.wiring import Wired
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.config import GrpoConfig
from vigorl_lib.training.metrics import read_metrics
from vigorl_lib.training.producer import Producer

STEPS = 8
PROMPTS, GROUP, TOKENS, SIDE_PX = 8, 4, 64, 224
"""The step that is compared with TRL's."""
COMPARED_STEPS, WARM_UP = 24, 4
TASK = TaskConfig(
    family="synthetic_search",
    mode="single_turn",
    max_turn_tokens=TOKENS,
    max_tokens=TOKENS,
    zoom=ZoomConfig(on_invalid="stop"),
)
RUN = "bench/trl"


def run() -> dict[str, float]:
    root = prepare("grpo")
    figures = _through_services(root) | _beside_trl(root.parent / "trl") | overlap.run(root.parent / "overlap")
    figures["speedup_over_turn_barrier"] = bench_rollout.run()["speedup_over_turn_barrier"]
    return figures


def _through_services(root: Path) -> dict[str, float]:
    policy = {
        "name": "student",
        "model": str(root / "models" / "tiny"),
        "trainable_by": "bench/grpo",
        "weights_root": str(root / "runs" / "bench" / "grpo" / "weights"),
        "max_context_tokens": 1024,
    }
    values = {"grpo.steps": STEPS, "grpo.init": "models/tiny", "grpo.checkpoint.every": 0, "run_id": "bench"}
    # A random model earns nothing: without this every group would be left out and nothing would be timed.
    values |= {"grpo.drop_zero_variance": False}
    with running_services(
        root / "services", {"student": {"policy": policy, "root": str(root)}}, root=str(root)
    ) as targets:
        train_stage("grpo", recipe("quickstart-grpo", root, **values, services=targets), stage="grpo")
    metrics = read_metrics(RunLayout(open_storage(str(root)), "bench/grpo"))[2:]
    names = ("rollout_s", "wait_s", "update_s", "publish_s")
    figures = {name: median(m[name] for m in metrics) for name in names}
    step_s = sum(figures[name] for name in names[1:])
    shares = {name.replace("_s", "_share"): figures[name] / step_s for name in names[1:]}
    return figures | shares | {"rollouts_per_s": 64 / figures["rollout_s"], "step_s": step_s}


def _beside_trl(folder: Path) -> dict[str, float]:
    """CPU seconds of a step, ours and TRL's, on the same model, prompts, images and sampling, one thread each."""
    shutil.rmtree(folder, ignore_errors=True)
    scenes = examples(4 * PROMPTS)
    _model(folder / "model")
    theirs = _trl(folder, scenes)
    ours = _ours(folder, scenes)
    trl_cpu_s, cpu_s = median(theirs[WARM_UP:]), median(ours[WARM_UP:])
    return {"step_cpu_s": cpu_s, "trl_step_cpu_s": trl_cpu_s, "step_vs_trl": cpu_s / trl_cpu_s}


def _model(folder: Path) -> None:
    """The tiny model, seeing images of `SIDE_PX` pixels."""
    build_tiny(folder, seed=0)
    path = folder / "preprocessor_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["size"] = {"shortest_edge": 28 * 28, "longest_edge": SIDE_PX * SIDE_PX}
    path.write_text(json.dumps(config), encoding="utf-8")


def _trl(folder: Path, scenes: Sequence[Example]) -> list[float]:
    rows = []
    for number, scene in enumerate(scenes):
        image = folder / f"{number}.png"
        image.write_bytes(scene.images[0].data or b"")
        rows.append({"image": str(image), "question": scene.question})
    job = {
        "model": str(folder / "model"),
        "output": str(folder / "trl"),
        "system": load_prompt(TASK.family, TASK.prompt_name).text,
        "rows": rows,
        "prompts": PROMPTS,
        "group": GROUP,
        "tokens": TOKENS,
        "steps": COMPARED_STEPS,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    script = Path(__file__).with_name("trl_grpo.py")
    output = subprocess.check_output([trl_python(), script, folder / "job.json"], text=True, stderr=subprocess.DEVNULL)
    found = next(line for line in output.splitlines() if '"cpu_s"' in line)
    seconds: list[float] = json.JSONDecoder().raw_decode(found[found.index("{") :])[0]["cpu_s"]
    return seconds


def _ours(folder: Path, scenes: Sequence[Example]) -> list[float]:
    """Producer, policy engine and learner in this process, whose CPU time is that of all of them."""
    from vigorl_lib.training.grpo import train_grpo

    storage = open_storage(str(folder))
    images = ImageStore(storage)
    known = [Example(s.example_id, s.question, (images.put(s.images[0].data or b""),), s.truth) for s in scenes]
    config = GrpoConfig.model_validate(
        {
            "init": "model",
            "steps": COMPARED_STEPS,
            "prompts": PROMPTS,
            "group_size": GROUP,
            "drop_zero_variance": False,
            "checkpoint": {"every": 0},
            "engine": {"learning_rate": 1e-4, "freeze": ["visual"], "micro_batch": PROMPTS * GROUP},
        }
    )
    layout = RunLayout(storage, RUN)

    async def produce() -> None:
        uri = f"{storage.uri}/model"
        policy = _OpenEnded.open(
            PolicyConfig(
                name="student",
                model=uri,
                trainable_by=RUN,
                weights_root=f"{storage.uri}/{layout.weights}",
                device="cpu",
                max_context_tokens=1024,
            )
        )
        wired = Wired(policy, ZoomEnvironment(), _EvenTokens())
        try:
            await Producer(
                config, TASK, RewardConfig(), wired, examples=known, layout=layout, images=images, seed=1
            ).run()
        finally:
            await policy.close()

    stamps: list[float] = []
    thread = threading.Thread(target=lambda: asyncio.run(produce()))
    thread.start()
    train_grpo(
        config,
        task=TASK,
        storage=storage,
        run_id=RUN,
        on_step=lambda *_: stamps.append(time.process_time()),
    )
    thread.join()
    return [after - before for before, after in pairwise(stamps)]


class _OpenEnded(TransformersPolicy):
    """Samples until the end of the turn, as TRL does: our actions' tags are no stops to it."""

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        return await super().generate(
            prompt,
            seeds=seeds,
            sampling=replace(sampling, stop=()),
            min_policy_version=min_policy_version,
            request_id=request_id,
        )


class _EvenTokens:
    """The reward of TRL's side: the share of sampled tokens whose id is even."""

    async def score(
        self, items: Sequence[tuple[Example, Trajectory]], *, config: RewardConfig
    ) -> list[Score | Exception]:
        scores: list[Score | Exception] = []
        for _, trajectory in items:
            ids = [t for s in trajectory.segments if s.origin is Origin.POLICY for t in s.token_ids or ()]
            share = sum(token % 2 == 0 for token in ids) / max(1, len(ids))
            scores.append(Score(share, {"even": share}, RewardOutcome.WRONG))
        return scores

    async def close(self) -> None: ...
