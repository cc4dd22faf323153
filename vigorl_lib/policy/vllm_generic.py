"""Any model that vLLM serves and that takes messages with images, as a text-exact actor.

A checkpoint of no declared family has a chat template and a processor of its own, which vLLM applies; nobody here
knows where its tokens lie, so answers are text, and nobody trains it. It is for teachers and judges. Images reach it
in a model frame of our own choosing (`PolicyConfig.view`): its points are pixels of what it was shown. Declared
families are `vigorl_lib.policy.vllm`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.pixels import ViewCache
from vigorl_lib.policy.base import (
    Completion,
    FinishReason,
    Generation,
    PolicyInfo,
    PolicyState,
    Sampling,
    Scored,
    StreamDelta,
    StreamEnd,
    StreamEvent,
    StreamStart,
)
from vigorl_lib.policy.chat_messages import chat_messages, check_images, open_text
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.intake import MAX_SAMPLES
from vigorl_lib.policy.metrics import PolicyMetrics
from vigorl_lib.policy.vllm_calls import EngineCalls, gather_all
from vigorl_lib.policy.vllm_dialect import sampling_params

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, RequestOutput

    from vigorl_lib.policy.vllm_engine import LaunchedEngine

FAMILY = "generic"


class GenericVllmPolicy:
    """Policy on a running vLLM engine whose model is its own affair."""

    def __init__(self, launched: LaunchedEngine, config: PolicyConfig) -> None:
        self._config = config
        largest = min(config.view.max_pixels, config.max_image_pixels or config.view.max_pixels)
        self._resize = ResizeRule(config.view.factor, config.view.min_pixels, largest)
        self._views = ViewCache(self._resize, max_bytes=config.view_cache_bytes)
        self._image_settings = f"{self._resize.factor}-{self._resize.min_pixels}-{self._resize.max_pixels}"
        self._metrics = PolicyMetrics(config.name)
        self._calls = EngineCalls(launched, config, self._metrics)
        self._max_samples = min(MAX_SAMPLES, config.max_batch)

    @classmethod
    def open(cls, config: PolicyConfig) -> GenericVllmPolicy:
        """Start the engine. Blocks. Raises PolicyError (CHECKPOINT_…, ENGINE_…), StorageError."""
        if config.trainable_by or config.weights_root:
            raise PolicyError(
                f"{config.model} is of no declared family, so no run can train it; leave out trainable_by and "
                "weights_root",
                reason="CHECKPOINT_UNSUPPORTED",
            )
        from vigorl_lib.policy.vllm_engine import launch

        return cls(launch(config), config)

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        self._check(prompt, seeds, sampling, min_policy_version)
        begin = time.monotonic()
        async with self._calls.admitted(len(seeds)):
            again = partial(self._inputs, prompt)
            inputs = await again()
            outputs = await gather_all(
                self._calls.whole(inputs, again, sampling_params(sampling, seed, whole=True), request_id)
                for seed in seeds
            )
        completions = tuple(_completion(output.outputs[0]) for output in outputs)
        for output, completion in zip(outputs, completions, strict=True):
            self._metrics.answered(completion, _queue_s(output))
        return Generation(
            prompt=tuple(prompt),
            completions=completions,
            policy=await self.info(),
            cached_tokens=min(output.num_cached_tokens or 0 for output in outputs),
            queue_seconds=max(_queue_s(output) for output in outputs),
            engine_seconds=time.monotonic() - begin,
        )

    async def stream(
        self,
        prompt: Sequence[Segment],
        *,
        seed: int,
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> AsyncGenerator[StreamEvent]:
        self._check(prompt, [seed], sampling, min_policy_version)
        async with self._calls.admitted(1):
            again = partial(self._inputs, prompt)
            inputs = await again()
            yield StreamStart(tuple(prompt), await self.info())
            text, last, output, begin = "", None, None, time.monotonic()
            params = sampling_params(sampling, seed, whole=False)
            async with aclosing(self._calls.outputs(inputs, again, params, request_id)) as outputs:
                async for output in outputs:
                    (last,) = output.outputs
                    text += last.text
                    yield StreamDelta(last.text, (), ())
            if last is None or output is None:
                raise PolicyError("the engine ended a request without an answer", reason="GENERATION_ABORTED")
            last.text = text
            spent_s = time.monotonic() - begin
            yield StreamEnd(_completion(last), output.num_cached_tokens or 0, _queue_s(output), spent_s)

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        raise PolicyError(
            f"policy {self._config.name} is of no declared family, so its tokens are not known; score with another",
            reason="NOT_SUPPORTED",
        )

    async def info(self) -> PolicyInfo:
        return PolicyInfo(
            name=self._config.name,
            engine=self._config.engine,
            model=self._config.model,
            revision=self._config.revision,
            version=0,
            trainable=False,
            token_exact=False,
            scripted=False,
            max_context_tokens=self._config.max_context_tokens,
            resize=self._resize,
            family=FAMILY,
            max_samples=self._max_samples,
            max_images=self._config.max_images,
        )

    async def state(self) -> PolicyState:
        return await self._calls.state()

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        raise PolicyError(f"policy {self._config.name} is of no declared family", reason="NOT_TRAINABLE")

    async def close(self) -> None:
        """End the engine's processes."""
        await self._calls.close()

    def _check(
        self, prompt: Sequence[Segment], seeds: Sequence[int], sampling: Sampling, min_policy_version: int
    ) -> None:
        """Raises PolicyError (POLICY_TOO_OLD, SAMPLING_INVALID, TOO_MANY_IMAGES)."""
        if min_policy_version > 0:
            raise PolicyError(
                f"policy {self._config.name} stays at version 0, {min_policy_version} or newer was asked for",
                reason="POLICY_TOO_OLD",
                version=0,
            )
        problem = sampling.problem()
        if not 1 <= len(seeds) <= self._max_samples:
            problem = f"seeds: expected 1 to {self._max_samples}, found {len(seeds)}"
        elif sampling.stop_token_ids or sampling.top_logprobs:
            problem = "sampling: a text-exact policy takes no stop_token_ids and reports no top_logprobs"
        if problem:
            raise PolicyError(problem, reason="SAMPLING_INVALID")
        check_images(prompt, self._config.name, self._config.max_images)

    async def _inputs(self, prompt: Sequence[Segment]) -> Any:
        """The conversation by the model's own template and processor. Raises PolicyError, DataError."""
        from vllm.exceptions import VLLMClientError
        from vllm.renderers.params import ChatParams

        chat = await asyncio.to_thread(chat_messages, prompt, self._image_part)
        forced = bool(open_text(prompt))
        params = ChatParams(
            chat_template_kwargs={"add_generation_prompt": not forced, "continue_final_message": forced}
        )
        try:
            _, (inputs,) = await self._calls.engine.renderer.render_chat_async([chat], params)
        except (VLLMClientError, ValueError, TypeError) as error:
            if getattr(error, "parameter", None) == "input_tokens":
                raise self._overflow(getattr(error, "value", 0)) from error
            raise PolicyError(
                f"the chat template of {self._config.model} refuses this conversation: {error}",
                reason="PROMPT_INVALID",
            ) from error
        if (tokens := len(inputs["prompt_token_ids"])) >= self._config.max_context_tokens:
            raise self._overflow(tokens)
        return inputs

    def _overflow(self, tokens: int) -> PolicyError:
        return PolicyError(
            f"expected a conversation of 1 to {self._config.max_context_tokens - 1} tokens for policy "
            f"{self._config.name}, found {tokens}",
            reason="CONTEXT_OVERFLOW",
            tokens=tokens,
            max_context_tokens=self._config.max_context_tokens,
        )

    def _image_part(self, image: Image) -> dict[str, Any]:
        from PIL import Image as PILImage

        view = PILImage.fromarray(self._views.get(image))
        return {"type": "image_pil", "image_pil": view, "uuid": f"{image.sha256}-{self._image_settings}"}


def _completion(output: CompletionOutput) -> Completion:
    match output.finish_reason, output.stop_reason:
        case "stop", str():
            reason = FinishReason.STOP_STRING
        case "stop", _:
            reason = FinishReason.END_OF_TURN
        case "length", _:
            reason = FinishReason.LENGTH
        case other, _:
            raise PolicyError(
                f"the engine ended a sample with {other!r}", reason="GENERATION_ABORTED", infrastructure=True
            )
    return Completion(output.text, (), (), reason, 0)


def _queue_s(output: RequestOutput) -> float:
    times: Any = output.metrics
    return max(0.0, float(times.scheduled_ts - times.queued_ts))
