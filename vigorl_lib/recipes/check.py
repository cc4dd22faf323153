"""What can be said of a recipe before anything is started: do lengths, batches, memory and files fit together?

`vigorl train sft|grpo --dry-run` prints it. Only numbers of the recipe and, of the files that the stage would read,
their presence and two JSON files of the model are looked at. What is not there, storage itself included, is a note: a
recipe is checked on a laptop and run elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from vigorl_lib.data.datasets import find_manifest
from vigorl_lib.domain.grammar import MODES, ActionKind
from vigorl_lib.errors import ConfigError, VigorlError
from vigorl_lib.models.weights import open_parent
from vigorl_lib.prompts import load_prompt
from vigorl_lib.recipes.memory import estimate
from vigorl_lib.recipes.schema import Recipe
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.training.config import ChainSource, EngineConfig

Stage = Literal["sft", "grpo"]
Level = Literal["ok", "note", "error"]
_Check = Callable[[Recipe, Stage], Iterator["Finding"]]

FACTOR = 28
"""Pixels to a side of one visual token in the families that recipes are made for."""
QUESTION_TOKENS = 256
"""Allowed for the question and the headers of the conversation."""
CHARACTERS_PER_TOKEN = 3
"""English prompts have more, so this errs on the safe side."""
MIN_TURN_TOKENS = 96
"""A turn with less cannot hold a thought and a zoom, unless half of `task.max_turn_tokens` is less still."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; a `note` may be meant so, an `error` cannot work."""

    level: Level
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<5}  {self.about}: {self.text}"


def check_recipe(recipe: Recipe, stage: Stage) -> list[Finding]:
    """All findings about a stage of a recipe, in a fixed order. Reads, and never writes."""
    findings = list(_prompts(recipe, stage))
    checks: tuple[_Check, ...] = (_batches, _checkpoints, _files)
    if all(finding.level == "ok" for finding in findings):
        checks = (_lengths, _turns, _batches, _memory, _checkpoints, _files)
    return [*findings, *(finding for check in checks for finding in check(recipe, stage))]


def visual_tokens(pixels: int) -> int:
    """Tokens of an image of this area at most."""
    return pixels // FACTOR**2


def sequence_tokens(recipe: Recipe) -> int:
    """Tokens of the longest conversation: prompt, image of `model.max_pixels`, and all that may follow."""
    task = recipe.task
    prompt = load_prompt(task.family, task.prompt_name)
    text = len(prompt.text) // CHARACTERS_PER_TOKEN + QUESTION_TOKENS
    return text + visual_tokens(recipe.model.max_pixels) + task.max_tokens


def _prompts(recipe: Recipe, stage: Stage) -> Iterator[Finding]:
    """The ways of asking; without them nothing can be said of lengths."""
    task, grpo = recipe.task, recipe.grpo
    asked = {task.mode: task.prompt_name}
    if stage == "grpo":
        asked |= {mode: mode for mode in (*grpo.modes, *grpo.validation.modes)}
    for mode, prompt in asked.items():
        if mode not in MODES:
            yield Finding("error", "prompts", f"no mode {mode!r}; expected one of {', '.join(MODES)}")
            continue
        try:
            yield Finding("ok", "prompts", load_prompt(task.family, prompt).name)
        except ConfigError as error:
            yield Finding("error", "prompts", error.message)


def _lengths(recipe: Recipe, stage: Stage) -> Iterator[Finding]:
    model, engine = recipe.model, _engine(recipe, stage)
    if not model.max_pixels or not model.max_length:
        yield Finding("note", "lengths", "not checked: the recipe says no model.max_pixels and model.max_length")
        return
    longest, image = sequence_tokens(recipe), visual_tokens(model.max_pixels)
    sum_text = f"{longest} tokens = prompt + {image} of the image + task.max_tokens {recipe.task.max_tokens}"
    if longest > model.max_length:
        yield Finding(
            "error", "lengths", f"{sum_text}, above model.max_length {model.max_length}; lower one of the first two"
        )
    else:
        yield Finding("ok", "lengths", f"{sum_text}, within {model.max_length}")
    if longest > engine.micro_batch_tokens:
        yield Finding(
            "note",
            "lengths",
            f"the longest goes alone: {stage}.engine.micro_batch_tokens is {engine.micro_batch_tokens}",
        )


def _turns(recipe: Recipe, stage: Stage) -> Iterator[Finding]:
    task, zoom = recipe.task, recipe.task.zoom
    if ActionKind.ZOOM not in MODES[task.mode].actions:
        return
    side = round(zoom.shown_px / FACTOR) * FACTOR
    crops = zoom.max_turns - 1
    observation = visual_tokens(side**2) + task.observation_text_tokens
    left = (task.max_tokens - crops * observation) // zoom.max_turns
    told = f"{crops} crops of {observation} tokens leave {left} a turn of task.max_tokens {task.max_tokens}"
    least = min(MIN_TURN_TOKENS, task.max_turn_tokens // 2)
    if left < least:
        yield Finding("error", "turns", f"{told}, expected {least} at least; raise it or show crops smaller")
    else:
        yield Finding("ok", "turns", told)


def _batches(recipe: Recipe, stage: Stage) -> Iterator[Finding]:
    gpus = recipe.hardware.gpus or 1
    if stage == "sft":
        sequences, told = recipe.sft.batch, f"sft.batch {recipe.sft.batch}"
    else:
        grpo = recipe.grpo
        if grpo.prompts % grpo.updates:
            yield Finding(
                "error", "batches", f"grpo.prompts {grpo.prompts} cannot be dealt to {grpo.updates} updates evenly"
            )
            return
        sequences = grpo.prompts // grpo.updates * grpo.group_size
        told = f"{grpo.prompts} prompts of {grpo.group_size} in {grpo.updates} updates, {sequences} sequences each"
    if sequences % gpus:
        yield Finding("error", "batches", f"{told}, which {gpus} GPUs cannot share evenly")
        return
    passes = -(-sequences // gpus // _engine(recipe, stage).micro_batch)
    yield Finding("ok", "batches", f"{told}: {sequences // gpus} a GPU, in {passes} passes or more")


def _memory(recipe: Recipe, stage: Stage) -> Iterator[Finding]:
    model, hardware, engine = recipe.model, recipe.hardware, _engine(recipe, stage)
    if not (model.layers and hardware.gpus and hardware.gpu_memory_gib):
        yield Finding("note", "memory", "not estimated: the recipe says too little of model and hardware")
        return
    # Sequences are whole in a micro-batch, and of each the answer is trained.
    together = max(1, engine.micro_batch_tokens // sequence_tokens(recipe))
    trained = min(together, engine.micro_batch) * recipe.task.max_tokens
    reference = stage == "grpo" and recipe.grpo.kl_coef > 0.0
    needed = estimate(model, hardware, engine, trained_tokens=trained, reference=reference)
    if needed.gib > hardware.gpu_memory_gib:
        yield Finding(
            "error",
            "memory",
            f"{needed}, above the {hardware.gpu_memory_gib:g} GiB of a GPU; use more GPUs, offload, or lower "
            f"{stage}.engine.micro_batch_tokens",
        )
    else:
        close = needed.gib > 0.9 * hardware.gpu_memory_gib
        yield Finding("note" if close else "ok", "memory", f"{needed}, of {hardware.gpu_memory_gib:g} GiB")


def _checkpoints(recipe: Recipe, stage: Stage) -> Iterator[Finding]:
    """Whether a checkpoint is ever measured by the metric that says which one is the best."""
    settings = recipe.sft if stage == "sft" else recipe.grpo
    rule, metric = settings.checkpoint, settings.checkpoint.best_metric
    if not rule.every:
        yield Finding("note", "checkpoints", f"{stage}.checkpoint.every is 0: a killed run starts again")
    elif metric.startswith("validation_"):
        key = "sft.evaluate_every" if stage == "sft" else "grpo.validation.every"
        measured = recipe.sft.evaluate_every if stage == "sft" else recipe.grpo.validation.every
        # A validation of GRPO asks weights that are as old as the lag allows.
        lag = 0 if stage == "sft" else recipe.grpo.max_policy_lag
        saved = range(rule.every, rule.every * (measured + 1), rule.every)
        if any((step + lag) % measured == 0 for step in saved):
            yield Finding("ok", "checkpoints", f"{rule.keep} newest and the best by {metric}")
        else:
            told = f"saved every {rule.every} steps, measured every {measured} ({key})"
            yield Finding("note", "checkpoints", f"none is ever measured by {metric}: {told}")


def _files(recipe: Recipe, stage: Stage) -> Iterator[Finding]:
    settings = recipe.sft if stage == "sft" else recipe.grpo
    if not settings.init:
        yield Finding("error", "files", f"{stage}.init: expected a model to start from, found none")
    if stage == "sft" and not recipe.sft.sources:
        yield Finding("error", "files", "sft.sources: expected chains, found none")
    try:
        storage = open_storage(recipe.root)
        if settings.init:
            yield from _init(recipe, storage, settings.init)
        if stage == "sft":
            for source in (*recipe.sft.sources, *recipe.sft.validation):
                yield _chains(storage, source)
        else:
            yield from _dataset(recipe, storage)
    except (VigorlError, OSError) as error:
        yield Finding("note", "files", f"{recipe.root} was not looked into: {error}")


def _init(recipe: Recipe, storage: Storage, init: str) -> Iterator[Finding]:
    where, key = _place(storage, init)
    if not where.exists(f"{key}/config.json") or not where.exists(f"{key}/preprocessor_config.json"):
        yield _absent(f"the model {init}")
        return
    yield Finding("ok", "files", f"the model {init}")
    preprocessor = json.loads(where.read(f"{key}/preprocessor_config.json"))
    found = preprocessor.get("max_pixels") or (preprocessor.get("size") or {}).get("longest_edge")
    if recipe.model.max_pixels and found != recipe.model.max_pixels:
        yield Finding(
            "error",
            "files",
            f"{init}: preprocessor_config.json allows {found} pixels, the recipe is made for model.max_pixels "
            f"{recipe.model.max_pixels}; policy and learner take what stands there, so change it there",
        )


def _chains(storage: Storage, source: ChainSource) -> Finding:
    where, key = _place(storage, source.chains)
    if where.exists(key) or where.list(f"{key}/"):
        return Finding("ok", "files", f"chains {source.chains}")
    return _absent(f"chains {source.chains}")


def _dataset(recipe: Recipe, storage: Storage) -> Iterator[Finding]:
    name, validation = recipe.dataset.name, recipe.grpo.validation
    manifest = find_manifest(storage, name)
    for split in (recipe.dataset.split, *((validation.split,) if validation.every else ())):
        if manifest is None or split not in manifest.splits:
            yield _absent(f"the split {split} of the data set {name}")
            continue
        count = manifest.splits[split].count
        if split == recipe.dataset.split and count < recipe.grpo.prompts:
            yield Finding("note", "files", f"{name}/{split} has {count} examples: a step repeats some of them")
        else:
            yield Finding("ok", "files", f"{name}/{split}, {count} examples")


def _place(storage: Storage, uri: str) -> tuple[Storage, str]:
    """A key below the root, or a URI or path of its own."""
    if "://" in uri or uri.startswith(("/", "./", "../")):
        return open_parent(uri)
    return storage, uri.rstrip("/")


def _absent(what: str) -> Finding:
    return Finding("note", "files", f"{what} is not there (yet)")


def _engine(recipe: Recipe, stage: Stage) -> EngineConfig:
    return recipe.sft.engine if stage == "sft" else recipe.grpo.engine
