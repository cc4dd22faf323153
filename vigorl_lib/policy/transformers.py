"""The embedded policy engine: transformers behind the Policy protocol.

Requests are checked, rendered and their images decoded off the event loop, then handed to the worker thread that
owns the model (`vigorl_lib.policy.worker`) and batches whatever waits. Throughput on a large GPU is not this
engine's aim.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.inputs import TokenSequence
from vigorl_lib.models.loading import LoadedModel, load_model
from vigorl_lib.models.pixels import View, ViewCache
from vigorl_lib.models.weights import assign_weights, fetch_weights
from vigorl_lib.policy.base import Generation, PolicyInfo, Sampling
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.decoding import DecodeRequest
from vigorl_lib.policy.worker import EngineWorker, GenerateWork, Load, LoadWork, ScoreWork
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.current import read_current

"""Key under the weights root: JSON with the desired `version` and the `uri` of its folder."""


class TransformersPolicy:
    """Policy on a loaded model. `open` is the usual way to get one; `close` ends its thread."""

    def __init__(self, loaded: LoadedModel, config: PolicyConfig, *, version: int = 0) -> None:
        self._config = config
        self._resize = loaded.resize
        self._renderer = loaded.renderer
        self._views = ViewCache(loaded.resize, max_bytes=config.view_cache_bytes)
        text_config = loaded.model.config.get_text_config()
        self._vocabulary: int = text_config.vocab_size
        trained_for: int = text_config.max_position_embeddings
        self._max_context = min(config.max_context_tokens, trained_for)
        self._worker = EngineWorker(loaded, config, version=version)

    @classmethod
    def open(cls, config: PolicyConfig) -> TransformersPolicy:
        """Load the checkpoint and, with a weights root, the version that `CURRENT` names. Blocks."""
        loaded = load_model(config.model, dtype=config.dtype, device=config.device)
        version = 0
        if config.weights_root and (current := read_current(open_storage(config.weights_root))) is not None:
            version = current.version
            assign_weights(loaded.model, fetch_weights(current.uri))
        return cls(loaded, config, version=version)

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        self._check_version(min_policy_version)
        self._check_request(seeds, sampling)
        asked = time.monotonic()
        rendered, request = await asyncio.to_thread(self._prepare, prompt, tuple(seeds), sampling)
        work = GenerateWork(request)
        self._worker.submit(work)
        result = await asyncio.wrap_future(work.future)
        return Generation(
            prompt=rendered,
            completions=result.completions,
            policy=self._info(result.completions[0].policy_version),
            queue_seconds=result.started - asked,
            engine_seconds=result.finished - result.started,
        )

    async def score(self, prompt: Sequence[Segment]) -> tuple[Segment, ...]:
        rendered, work = await asyncio.to_thread(self._prepare_score, prompt)
        self._worker.submit(work)
        logprobs = await asyncio.wrap_future(work.future)
        scored, start = [], 0
        for segment in rendered:
            end = start + len(segment.token_ids or ())
            scored.append(replace(segment, logprobs=tuple(logprobs[start:end])))
            start = end
        return tuple(scored)

    async def info(self) -> PolicyInfo:
        return self._info(self._worker.version)

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        """As the protocol says; the version that is loaded already changes nothing, an older one is refused.

        Raises PolicyError (NOT_TRAINABLE, WRONG_RUN, WEIGHTS_OLDER, WEIGHTS_MISMATCH, WEIGHTS_UNREADABLE),
        StorageError.
        """
        owner, loaded = self._config.trainable_by, self._worker.version
        if not owner:
            raise PolicyError(f"policy {self._config.name} is not trainable", reason="NOT_TRAINABLE")
        if run_id != owner:
            raise PolicyError(
                f"policy {self._config.name} is trained by run {owner!r}, not by {run_id!r}", reason="WRONG_RUN"
            )
        if version < loaded:
            raise PolicyError(
                f"version {version} is older than the loaded version {loaded}", reason="WEIGHTS_OLDER", loaded=loaded
            )
        if version > loaded:
            work = LoadWork(version, await asyncio.to_thread(fetch_weights, uri))
            self._worker.submit(work)
            await asyncio.wrap_future(work.future)
        return await self.info()

    @property
    def load(self) -> Load:
        """How busy the engine is now."""
        return self._worker.load

    async def close(self) -> None:
        """Finish the batch in flight, refuse what waits, end the thread."""
        await asyncio.to_thread(self._worker.stop)

    def _prepare(
        self, prompt: Sequence[Segment], seeds: tuple[int, ...], sampling: Sampling
    ) -> tuple[tuple[Segment, ...], DecodeRequest]:
        rendered = self._renderer.render(tuple(prompt))
        sequence = self._checked(rendered)
        room = self._room(sequence, at_least=1)
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        return rendered, DecodeRequest(sequence, seeds, sampling, self._view_all(sequence))

    def _prepare_score(self, prompt: Sequence[Segment]) -> tuple[tuple[Segment, ...], ScoreWork]:
        rendered = self._renderer.render(tuple(prompt))
        sequence = self._checked(rendered)
        self._room(sequence, at_least=0)
        return rendered, ScoreWork(sequence, self._view_all(sequence))

    def _view_all(self, sequence: TokenSequence) -> dict[str, View]:
        return {span.image.sha256: self._views.get(span.image) for span in sequence.image_spans}

    def _checked(self, rendered: tuple[Segment, ...]) -> TokenSequence:
        """One sequence whose ids and placeholders fit this model; a caller's own ids may not, and would fail a batch.

        Raises PolicyError (PROMPT_INVALID).
        """
        sequence = TokenSequence.of(rendered)
        ids = np.array(sequence.token_ids, dtype=np.int64)
        expected = np.zeros(len(ids), dtype=bool)
        fits = True
        for span in sequence.image_spans:
            expected[span.start : span.start + span.length] = True
            fits = fits and span.length == self._resize.visual_tokens(span.image.size)
        if not fits or not np.array_equal(ids == self._renderer.image_pad, expected):
            raise PolicyError(
                "expected the image placeholders of the prompt's token ids where its image spans say; "
                "were they rendered for another model?",
                reason="PROMPT_INVALID",
            )
        if ids.size and (ids.min() < 0 or ids.max() >= self._vocabulary):
            raise PolicyError(
                f"expected token ids from 0 to {self._vocabulary - 1}, found {ids.min()} to {ids.max()}",
                reason="PROMPT_INVALID",
            )
        return sequence

    def _room(self, sequence: TokenSequence, *, at_least: int) -> int:
        """Tokens that fit behind a prompt. Raises PolicyError (CONTEXT_OVERFLOW)."""
        room = self._max_context - len(sequence)
        if not len(sequence) or room < at_least:
            raise PolicyError(
                f"expected a conversation of 1 to {self._max_context - at_least} tokens for policy "
                f"{self._config.name}, found {len(sequence)}",
                reason="CONTEXT_OVERFLOW",
                tokens=len(sequence),
                max_context_tokens=self._max_context,
            )
        return room

    def _check_request(self, seeds: Sequence[int], sampling: Sampling) -> None:
        problem = None
        if not 1 <= len(seeds) <= self._config.max_batch:
            problem = f"expected 1 to {self._config.max_batch} seeds, found {len(seeds)}"
        elif sampling.max_tokens < 1 or sampling.temperature < 0 or sampling.top_k < 0 or not 0 < sampling.top_p <= 1:
            problem = f"expected max_tokens >= 1, temperature >= 0, top_k >= 0 and 0 < top_p <= 1, found {sampling}"
        if problem:
            raise PolicyError(problem, reason="SAMPLING_INVALID")

    def _check_version(self, wanted: int) -> None:
        if self._worker.version < wanted:
            raise PolicyError(
                f"policy {self._config.name} has version {self._worker.version}, {wanted} or newer was asked for",
                reason="POLICY_TOO_OLD",
                infrastructure=True,
                version=self._worker.version,
            )

    def _info(self, version: int) -> PolicyInfo:
        return PolicyInfo(
            name=self._config.name,
            engine="transformers",
            model=self._config.model,
            revision=self._config.revision,
            version=version,
            trainable=bool(self._config.trainable_by),
            token_exact=True,
            scripted=False,
            max_context_tokens=self._max_context,
            resize=self._resize,
        )
