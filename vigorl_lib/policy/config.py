"""Settings of one named policy: which engine serves it, from which checkpoint, within which limits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, model_validator

from vigorl_lib.config import Section


class ScriptedConfig(Section):
    """The scripted teacher: how it explores and how often it errs. Rates are probabilities per turn."""

    root: str = ""
    """Storage that holds the data set whose scenes the teacher knows."""
    dataset: str = "visual-search"
    splits: tuple[str, ...] = ("train",)
    mode: Literal["single_turn", "multi_turn", "thought_steps"] = "multi_turn"
    """Which actions it takes. Serve two names to have a teacher for each of two modes."""
    direct_rate: float = Field(default=0.3, ge=0.0, le=1.0)
    """Multi-turn: answer at once, without a zoom."""
    distractor_rate: float = Field(default=0.15, ge=0.0, le=1.0)
    """Multi-turn: zoom on a look-alike; the next turn says so and tries elsewhere."""
    error_rate: float = Field(default=0.05, ge=0.0, le=1.0)
    """A wrong answer about what was seen."""
    unseen_error_rate: float = Field(default=0.05, ge=0.0, le=1.0)
    """A wrong answer, given without a zoom, about a target that the view is too coarse to show (tag `size: small`)."""
    point_noise_px: float = Field(default=2.0, ge=0.0)
    """Standard deviation of a point around the middle of its target, model-frame pixels."""
    point_bin_px: int = Field(default=4, ge=1)
    """Points are said as the middle of a bin of this side, model-frame pixels."""


class VllmConfig(Section):
    """What only the vLLM engine has. Prefix caching and the cache of processed images are always on."""

    tensor_parallel_size: int = Field(default=1, ge=1)
    data_parallel_size: int = Field(default=1, ge=1)
    gpu_memory_utilization: float = Field(default=0.9, gt=0.0, le=1.0)
    """Share of a GPU's memory for weights, activations and KV cache together."""
    kv_cache_gib: float | None = Field(default=None, gt=0.0)
    """Size of the KV cache, GiB. On a GPU it is what `gpu_memory_utilization` leaves unless set; on a CPU 1."""
    block_size: int | None = Field(default=None, ge=1)
    """Tokens of one block of the KV cache; only whole blocks are found again. On a CPU a multiple of 32, and 32 unless
    set."""
    max_batched_tokens: int | None = Field(default=None, ge=1)
    """Tokens of one engine step; vLLM's own choice unless set."""
    processor_cache_gib: float = Field(default=1.0, gt=0.0)
    """Processed images kept for later turns and samples."""
    drain_s: float = Field(default=120.0, gt=0.0)
    """How long an update of the weights waits for samples in flight, seconds; those that are left are ended with
    PREEMPTED, and clients send them again whole."""
    weight_transfer: Literal["none", "nccl", "gloo"] = "none"
    """How a learner may send new weights without storage between: `nccl` between GPUs, `gloo` between processors."""
    compile: bool = True
    """torch.compile and CUDA graphs: slower to start, faster to run. Small models on a CPU do without."""


class ViewConfig(Section):
    """How images are shown to a model whose own resize rule is not known: its points are pixels of what it is shown."""

    factor: int = Field(default=28, ge=1)
    """Sides are multiples of this, pixels."""
    min_pixels: int = Field(default=56 * 56, ge=1)
    """Area of the smallest view."""
    max_pixels: int = Field(default=1280 * 28 * 28, ge=1)


class OpenAiConfig(Section):
    """An OpenAI-compatible endpoint. The key comes from the environment, see `OpenAiCredentials`."""

    base_url: str = ""
    """For example http://127.0.0.1:8000/v1."""
    timeout_s: float = Field(default=300.0, gt=0.0)
    max_retries: int = Field(default=4, ge=0)
    """Further tries after a refusal for load, a server's fault or a lost connection."""
    continue_final_message: bool = False
    """The endpoint continues a conversation that ends with assistant text, as vLLM's does; forced prefixes need it."""


class OpenAiCredentials(Section):
    """Read from VIGORL_OPENAI__API_KEY."""

    api_key: SecretStr


class PolicyConfig(Section):
    """One process serves one policy under one name."""

    name: str = Field(default="student", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    engine: Literal["transformers", "vllm", "openai", "scripted"] = "transformers"
    model: str = Field(min_length=1)
    """Checkpoint in Hugging Face format: a folder or a storage URI. A scripted teacher only takes from it the frame
    that its student's points are in; for an OpenAI-compatible endpoint it is the name of the model there."""
    revision: str = ""
    """Said in every answer beside the model; it selects nothing."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1` …"""
    threads: int = Field(default=1, ge=1)
    """CPU threads of the engine; more than one is slower for tiny models and for shared cores."""
    max_batch: int = Field(default=64, ge=1)
    """Samples that are decoded together."""
    max_queued: int = Field(default=1024, ge=1)
    """Samples that may wait; a request beyond them is refused with OVERLOADED."""
    max_context_tokens: int = Field(default=4096, ge=1)
    """Prompt and completion together; the checkpoint's own limit applies too."""
    trainable_by: str = ""
    """Run id that may update the weights; empty for a policy that nobody trains."""
    weights_root: str = ""
    """Storage folder with `CURRENT` and the versions it names; loaded before the policy is ready."""
    view_cache_bytes: int = Field(default=256 << 20, ge=0)
    """Decoded images in the model frame."""
    feature_cache_bytes: int = Field(default=256 << 20, ge=0)
    """Vision features under the current weights."""
    max_images: int = Field(default=16, ge=1)
    """Images of one conversation."""
    max_image_pixels: int = Field(default=0, ge=0)
    """Area of the largest model view, pixels; 0 leaves it to the checkpoint. Points are in the frame that results."""
    scripted: ScriptedConfig = ScriptedConfig()
    vllm: VllmConfig = VllmConfig()
    openai: OpenAiConfig = OpenAiConfig()
    view: ViewConfig = ViewConfig()

    @model_validator(mode="after")
    def _check_scripted(self) -> PolicyConfig:
        if self.engine == "scripted" and "scripted" not in self.name:
            raise ValueError(
                f"a scripted policy says so in its name, for example 'scripted-teacher', not {self.name!r}"
            )
        if self.vllm.weight_transfer != "none" and not (self.trainable_by and self.weights_root):
            raise ValueError(
                "vllm.weight_transfer needs `trainable_by`, the run that may send, and `weights_root`, where a replica "
                "that fails in the middle finds whole weights"
            )
        if self.engine in ("scripted", "openai") and self.trainable_by:
            raise ValueError(f"a policy of engine {self.engine} has no weights to train")
        if self.max_image_pixels and self.trainable_by:
            raise ValueError(
                "a learner sees images as the checkpoint says: lower the pixel limit in its preprocessor_config.json, "
                "not by max_image_pixels"
            )
        if self.engine == "openai" and not self.openai.base_url:
            raise ValueError("an openai policy needs `openai.base_url`, for example http://127.0.0.1:8000/v1")
        if self.engine == "scripted" and not self.scripted.root:
            raise ValueError("a scripted policy needs `scripted.root`, the storage of the scenes that it knows")
        return self
