"""What a token-exact engine does with a request before its model sees it: check, render, decode the images.

Shared by the engines that run a checkpoint themselves. Nothing here samples or schedules; whatever is wrong with a
request is found here, as a typed error, before it can fail a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vigorl_lib.domain.geometry import Frame
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.families import Family
from vigorl_lib.models.inputs import TokenSequence
from vigorl_lib.models.pixels import View, ViewCache
from vigorl_lib.models.weights import wanted_weights
from vigorl_lib.policy.base import PolicyInfo, Sampling
from vigorl_lib.policy.config import PolicyConfig

MAX_SAMPLES = 256
"""Completions of one request."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A conversation as the model takes it: its segments rendered, as one sequence, and its images' views by digest."""

    segments: tuple[Segment, ...]
    sequence: TokenSequence
    views: dict[str, View]


class Intake:
    """Checks against one policy's settings and one checkpoint's shape. Safe to use from several threads."""

    def __init__(
        self, config: PolicyConfig, renderer: ChatRenderer, family: Family, *, vocabulary: int, trained_context: int
    ) -> None:
        self._config = config
        self._renderer = renderer
        self._family = family
        self._vocabulary = vocabulary
        self._max_context = min(config.max_context_tokens, trained_context)
        self._views = ViewCache(renderer.resize, max_bytes=config.view_cache_bytes)
        self._max_samples = min(MAX_SAMPLES, config.max_batch)

    @property
    def max_context(self) -> int:
        """Tokens of prompt and completion together."""
        return self._max_context

    def info(self, version: int) -> PolicyInfo:
        return PolicyInfo(
            name=self._config.name,
            engine=self._config.engine,
            model=self._config.model,
            revision=self._config.revision,
            version=version,
            trainable=bool(self._config.trainable_by),
            token_exact=True,
            scripted=False,
            max_context_tokens=self._max_context,
            resize=self._renderer.resize,
            family=self._family.name,
            point_frame=self.point_frame,
            max_samples=self._max_samples,
            max_images=self._config.max_images,
        )

    @property
    def point_frame(self) -> Frame:
        return self._family.point_frame

    def check(self, seeds: Sequence[int], sampling: Sampling) -> None:
        """Raises PolicyError (SAMPLING_INVALID) for what cannot be sampled here."""
        problem = sampling.problem()
        if not 1 <= len(seeds) <= self._max_samples:
            problem = f"seeds: expected 1 to {self._max_samples}, found {len(seeds)}"
        elif any(not 0 <= token < self._vocabulary for token in sampling.stop_token_ids):
            problem = f"sampling.stop_token_ids: expected ids from 0 to {self._vocabulary - 1}"
        if problem:
            raise PolicyError(problem, reason="SAMPLING_INVALID")

    def check_version(self, wanted: int, held: int) -> None:
        """Raises PolicyError (POLICY_TOO_OLD)."""
        if held < wanted:
            raise PolicyError(
                f"policy {self._config.name} has version {held}, {wanted} or newer was asked for",
                reason="POLICY_TOO_OLD",
                infrastructure=True,
                version=held,
            )

    def check_update(self, version: int, run_id: str, held: int) -> None:
        """Raises PolicyError (NOT_TRAINABLE, WRONG_RUN, WEIGHTS_OLDER) for an update that may not be."""
        owner = self._config.trainable_by
        if not owner:
            raise PolicyError(f"policy {self._config.name} is not trainable", reason="NOT_TRAINABLE")
        if run_id != owner:
            raise PolicyError(
                f"policy {self._config.name} is trained by run {owner!r}, not by {run_id!r}", reason="WRONG_RUN"
            )
        if version < held:
            raise PolicyError(
                f"version {version} is older than the loaded version {held}", reason="WEIGHTS_OLDER", loaded=held
            )

    def wanted(self, version: int, uri: str) -> tuple[int, str]:
        """What an update has to load: with a weights root, what stands there, whatever the caller says. Blocks.

        Raises PolicyError (VERSION_UNKNOWN) for a version that storage does not want yet.
        """
        if not self._config.weights_root:
            return version, uri
        current = wanted_weights(self._config.weights_root)
        if current is None or current.version < version:
            found = "nothing" if current is None else f"version {current.version}"
            raise PolicyError(
                f"storage wants {found} served by policy {self._config.name}, not version {version} yet",
                reason="VERSION_UNKNOWN",
                infrastructure=True,
            )
        return current.version, current.uri

    def to_generate(self, prompt: Sequence[Segment], sampling: Sampling) -> tuple[Prepared, Sampling]:
        """The prompt, and the sampling with `max_tokens` cut to what fits behind it. Blocks while images decode.

        Raises PolicyError (PROMPT_INVALID, CONTEXT_OVERFLOW, TOO_MANY_IMAGES, IMAGE_NOT_CACHED), DataError.
        """
        prepared = self._prepared(prompt)
        room = self._room(prepared.sequence, at_least=1)
        return prepared, replace(sampling, max_tokens=min(sampling.max_tokens, room))

    def to_score(self, prompt: Sequence[Segment]) -> Prepared:
        """As `to_generate`, for a conversation that is only read."""
        prepared = self._prepared(prompt)
        self._room(prepared.sequence, at_least=0)
        return prepared

    def _prepared(self, prompt: Sequence[Segment]) -> Prepared:
        rendered = self._renderer.render(tuple(prompt))
        sequence = self._checked(rendered)
        if len(sequence.image_spans) > self._config.max_images:
            raise PolicyError(
                f"expected at most {self._config.max_images} images in one conversation with policy "
                f"{self._config.name}, found {len(sequence.image_spans)}",
                reason="TOO_MANY_IMAGES",
                max_images=self._config.max_images,
            )
        views = {span.image.sha256: self._views.get(span.image) for span in sequence.image_spans}
        return Prepared(rendered, sequence, views)

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
            fits = fits and span.length == self._renderer.resize.visual_tokens(span.image.size)
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


def with_logprobs(segments: Sequence[Segment], logprobs: Sequence[float]) -> tuple[Segment, ...]:
    """Rendered segments with their share of one log-probability per token. Raises ValueError for another number."""
    if len(logprobs) != sum(len(segment.token_ids or ()) for segment in segments):
        raise ValueError("expected one log-prob per token")
    scored, start = [], 0
    for segment in segments:
        end = start + len(segment.token_ids or ())
        scored.append(replace(segment, logprobs=tuple(logprobs[start:end])))
        start = end
    return tuple(scored)
