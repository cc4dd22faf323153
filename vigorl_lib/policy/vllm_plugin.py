"""What every process of a vLLM engine loads first, by the entry point `vllm.general_plugins`.

Most adaptations are needed in the engine's own child processes and therefore impossible from ours alone: Qwen-VL
processors without torchvision (its public builds do not import beside a CPU build of torch), log-probs after
temperature, the weight-transfer back end `gloo`, and children that end with their parent. One is for the process that
answers: log-probs without the text of their tokens. The engine itself is `vigorl_lib.policy.vllm`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from typing import Any

_PR_SET_PDEATHSIG = 1
_GREEDY_BELOW = 1e-5
MAX_SLEEP_MS = 1
OURS = "VIGORL_VLLM_ENGINE"
"""Set in the environment of an engine that we start: the entry point is loaded by every vLLM of an installation."""


def install() -> None:
    """Apply what is missing; further calls change nothing. An engine that is not ours gets the processors only."""
    _do_without_torchvision()
    if os.environ.get(OURS):
        _end_with_parent()
        _temper_logprobs()
        _leave_logprobs_without_text()
        _wait_without_spinning()
        _add_gloo_transfers()


def _end_with_parent() -> None:
    """An engine whose server was killed with -9 would keep its memory, and a GPU, for ever."""
    parent = multiprocessing.parent_process()
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent.pid:
        os._exit(1)


def _do_without_torchvision() -> None:
    """Let the Qwen-VL processors and vLLM's models load where torchvision is absent; a present one is left alone.

    The processors always make a video processor, which needs torchvision: here they get images and text only.
    vLLM imports `smart_resize` from a module that needs it too: the PIL twin of that module has the same function.
    """
    from transformers.utils.import_utils import is_torchvision_available

    if is_torchvision_available():
        return
    from transformers.models.qwen2_5_vl import processing_qwen2_5_vl
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl, processing_qwen2_vl
    from transformers.models.qwen3_vl import processing_qwen3_vl

    sys.modules.setdefault("transformers.models.qwen2_vl.image_processing_qwen2_vl", image_processing_pil_qwen2_vl)
    for processor in (
        processing_qwen2_vl.Qwen2VLProcessor,
        processing_qwen2_5_vl.Qwen2_5_VLProcessor,
        processing_qwen3_vl.Qwen3VLProcessor,
    ):
        _images_and_text_only(processor)


def _images_and_text_only(processor: Any) -> None:
    from transformers.processing_utils import ProcessorMixin, VideosKwargs

    class NoVideo:
        """Stands where vLLM reads which options a video processor has."""

        valid_kwargs = VideosKwargs

        def __call__(self, *args: object, **kwargs: object) -> None:
            raise NotImplementedError("videos need torchvision")

    # The parts of a processor are read off this signature, so it must not name a video processor.
    def build(
        self: Any, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **_: object
    ) -> None:
        for name in ("image", "video"):
            token = f"<|{name}_pad|>"
            setattr(self, f"{name}_token", token)
            setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
        for name in ("start", "end"):
            token = f"<|vision_{name}|>"
            setattr(self, f"vision_{name}_token", token)
            setattr(self, f"vision_{name}_token_id", tokenizer.convert_tokens_to_ids(token))
        ProcessorMixin.__init__(  # type: ignore[no-untyped-call]
            self, image_processor, tokenizer, chat_template=chat_template
        )

    if not isinstance(getattr(processor, "video_processor", None), NoVideo):
        processor.video_processor = NoVideo()
        processor.__init__ = build


def _temper_logprobs() -> None:
    """Make the sampler report log-probs after temperature and before penalties and cuts.

    vLLM offers them before all of it or after all of it; a learner divides its logits by the temperature and
    knows nothing of cuts.
    """
    from vllm.v1.worker import gpu_model_runner

    plain: Any = gpu_model_runner.Sampler
    if plain.__name__ == "TemperedSampler":
        return

    class TemperedSampler(plain):  # type: ignore[misc]
        _temperature: Any = None

        def forward(self, logits: Any, sampling_metadata: Any, *args: Any, **kwargs: Any) -> Any:
            # None where all rows are greedy; greedy rows among others have 0.
            self._temperature = sampling_metadata.temperature
            try:
                return super().forward(logits, sampling_metadata, *args, **kwargs)
            finally:
                self._temperature = None

        def compute_logprobs(self, logits: Any) -> Any:
            # Outside of `forward` this is asked for prompt tokens, whose log-probs are at temperature 1.
            temperature = self._temperature
            if temperature is not None:
                divisor = temperature.where(temperature > _GREEDY_BELOW, 1.0)
                logits = logits.float() / divisor[:, None]
            return plain.compute_logprobs(logits)

    gpu_model_runner.Sampler = TemperedSampler


def _leave_logprobs_without_text() -> None:
    """Leave out the text of each token that has a log-prob.

    vLLM makes it wherever it makes the text of the answer, one token at a time. Nobody reads it here, and on a small
    model it is a fifth of what the server does for an answer.
    """
    from vllm.v1.engine.logprobs import LogprobsProcessor

    plain: Any = LogprobsProcessor.from_new_request
    if plain.__name__ == "without_text":
        return

    def without_text(_: type[LogprobsProcessor], tokenizer: object, request: Any) -> Any:
        return plain(tokenizer=None, request=request)

    LogprobsProcessor.from_new_request = classmethod(without_text)


def _add_gloo_transfers() -> None:
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if "gloo" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            "gloo", "vigorl_lib.policy.vllm_transfer", "GlooWeightTransferEngine"
        )


def _wait_without_spinning() -> None:
    """On a CPU, processes of the engine that wait for each other sleep until they are told.

    vLLM lets them spin for a second after each message. That is right beside a GPU; on a CPU they take the cores from
    the process that they wait for.
    """
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
    from vllm.platforms import current_platform

    plain = SpinCondition.wait
    if not current_platform.is_cpu() or plain.__name__ == "sleep_until_told":
        return

    def sleep_until_told(self: Any, timeout_ms: int | None = None) -> None:
        if time.monotonic() > self.last_read + self.busy_loop_s:
            plain(self, timeout_ms)
        # The writer drops a message when the one before is still on its way, so the sleep is short.
        elif self.local_notify_socket in dict(self.poller.poll(timeout=MAX_SLEEP_MS)):
            self.local_notify_socket.recv(copy=False)

    SpinCondition.wait = sleep_until_told
