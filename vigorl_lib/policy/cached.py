"""A policy whose greedy answers are remembered in storage.

A greedy answer depends on the policy's weights, the conversation and the sampling alone, so the same question need not
be asked twice, in this run or another. Sampled answers pass through. What is kept holds the exact tokens, so the next
turn continues from what the policy really said. Not a server's cache: it knows one policy and asks it at every miss.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any

from vigorl_lib.data.fields import Fields
from vigorl_lib.data.trajectory_records import ImageTable, read_images, read_segment, write_images, write_segment
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import ImageSpan, Message, Segment
from vigorl_lib.errors import DataError, ObjectNotFound
from vigorl_lib.policy.base import Completion, FinishReason, Generation, Policy, PolicyInfo, Sampling
from vigorl_lib.policy.wrapped import WrappedPolicy
from vigorl_lib.storage.base import Storage

FOLDER = "cache/answers"
VERSION = 1

logger = logging.getLogger(__name__)


class CachedPolicy(WrappedPolicy):
    """`hits` and `misses` count greedy requests. A stream is not remembered."""

    def __init__(self, policy: Policy, storage: Storage) -> None:
        super().__init__(policy)
        self._storage = storage
        self._known: PolicyInfo | None = None
        self.hits = 0
        self.misses = 0

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        async def ask() -> Generation:
            return await self.inner.generate(
                prompt, seeds=seeds, sampling=sampling, min_policy_version=min_policy_version, request_id=request_id
            )

        if self._known is None:
            self._known = await self.inner.info()
        info = self._known
        if sampling.temperature > 0 or len(seeds) != 1 or info.version < min_policy_version:
            return await ask()
        key = f"{FOLDER}/{_digest(prompt, sampling, info)}.json"
        known = await asyncio.to_thread(self._read, key, prompt, info)
        if known is not None:
            self.hits += 1
            return known
        self.misses += 1
        generation = await ask()
        if generation.policy != info:
            # Its weights are others than those that the key names.
            self._known = generation.policy
        elif generation.completions[0].finish_reason is not FinishReason.ABORTED:
            await asyncio.to_thread(self._storage.write, key, json.dumps(_to_record(generation)).encode())
        return generation

    def _read(self, key: str, prompt: Sequence[Segment], info: PolicyInfo) -> Generation | None:
        try:
            record = json.loads(self._storage.read(key))
            return _from_record(record, prompt, info, key)
        except ObjectNotFound:
            return None
        except (ValueError, DataError) as error:
            # A broken entry costs one question, and is written anew.
            logger.warning("%s: %s", key, error)
            return None


def _digest(prompt: Sequence[Segment], sampling: Sampling, info: PolicyInfo) -> str:
    who = [info.name, info.engine, info.model, info.revision, info.version, asdict(info.resize)]
    said = [[_said(message) for message in segment.messages] + [segment.token_ids] for segment in prompt]
    text = json.dumps([VERSION, who, said, asdict(sampling)], sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()


def _said(message: Message) -> list[Any]:
    return [message.role.value, *(part.sha256 if isinstance(part, Image) else ["text", part] for part in message.parts)]


def _to_record(generation: Generation) -> dict[str, Any]:
    images: ImageTable = {}
    answer = generation.completions[0]
    return {
        "version": VERSION,
        "prompt": [write_segment(segment, images) for segment in generation.prompt],
        "images": write_images(images),
        "text": answer.text,
        "token_ids": list(answer.token_ids),
        "logprobs": list(answer.logprobs),
        "finish_reason": answer.finish_reason.value,
        "policy_version": answer.policy_version,
    }


def _from_record(record: object, prompt: Sequence[Segment], info: PolicyInfo, where: str) -> Generation:
    fields = Fields(record, where)
    table = read_images(fields, None)
    stored = [read_segment(part, table) for part in fields.objects("prompt")]
    if len(stored) != len(prompt):
        raise fields.error(f"prompt: expected {len(prompt)} segments, found {len(stored)}")
    answer = Completion(
        text=fields.text("text"),
        token_ids=tuple(fields.items("token_ids")),
        logprobs=tuple(fields.items("logprobs")),
        finish_reason=FinishReason(fields.text("finish_reason")),
        policy_version=fields.integer("policy_version"),
    )
    return Generation(tuple(map(_as_rendered, prompt, stored)), (answer,), info)


def _as_rendered(asked: Segment, stored: Segment) -> Segment:
    """The caller's own segment, whose images have bytes, with the tokens that it was rendered to."""
    if stored.token_ids is None:
        return asked
    images = {image.sha256: image for image in asked.images}
    spans = tuple(
        ImageSpan(span.start, span.length, images.get(span.image.sha256, span.image)) for span in stored.image_spans
    )
    return asked.rendered(stored.token_ids, spans)
