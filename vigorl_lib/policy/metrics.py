"""Prometheus metrics of a policy. The label is the policy's name; vLLM adds its own under `vllm:`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from vigorl_lib.policy.base import Completion

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_IN_FLIGHT = Gauge("vigorl_policy_samples_in_flight", "Samples that wait or are being made.", ["policy"])
_QUEUE = Histogram("vigorl_policy_queue_seconds", "From admission to the first step.", ["policy"], buckets=_SECONDS)
_FIRST = Histogram(
    "vigorl_policy_first_token_seconds", "From admission to the first token.", ["policy"], buckets=_SECONDS
)
_SAMPLES = Counter("vigorl_policy_samples", "Finished samples.", ["policy", "finish_reason"])
_COMPLETION_TOKENS = Counter("vigorl_policy_completion_tokens", "Tokens sampled.", ["policy"])
_PROMPT_TOKENS = Counter("vigorl_policy_prompt_tokens", "Tokens of prompts.", ["policy"])
_CACHED_TOKENS = Counter("vigorl_policy_cached_tokens", "Tokens of prompts found in the prefix cache.", ["policy"])
_IMAGES = Counter("vigorl_policy_images", "Images in prompts.", ["policy"])
_VERSION = Gauge("vigorl_policy_version", "Version of the loaded weights.", ["policy"])
_UPDATE = Histogram(
    "vigorl_policy_update_seconds", "Taking new weights from when they are at hand.", ["policy"], buckets=_SECONDS
)


class PolicyMetrics:
    """One policy's children of the metrics, whose look-up costs more than counting."""

    def __init__(self, policy: str) -> None:
        self._policy = policy
        self._in_flight = _IN_FLIGHT.labels(policy)
        self._queue, self._first = _QUEUE.labels(policy), _FIRST.labels(policy)
        self._completion_tokens = _COMPLETION_TOKENS.labels(policy)
        self._prompt_tokens, self._cached_tokens = _PROMPT_TOKENS.labels(policy), _CACHED_TOKENS.labels(policy)
        self._images = _IMAGES.labels(policy)
        self._version, self._update = _VERSION.labels(policy), _UPDATE.labels(policy)

    @contextmanager
    def in_flight(self, samples: int) -> Iterator[None]:
        """Count some samples for as long as the block runs."""
        self._in_flight.inc(samples)
        try:
            yield
        finally:
            self._in_flight.dec(samples)

    def answered(
        self, completion: Completion, queue_s: float | None = None, first_token_s: float | None = None
    ) -> None:
        """Times where the engine knows them."""
        _SAMPLES.labels(self._policy, completion.finish_reason).inc()
        self._completion_tokens.inc(len(completion.token_ids))
        if queue_s is not None:
            self._queue.observe(queue_s)
        if first_token_s is not None:
            self._first.observe(first_token_s)

    def prompt(self, tokens: int, cached: int) -> None:
        self._prompt_tokens.inc(tokens)
        self._cached_tokens.inc(cached)

    def images(self, count: int) -> None:
        self._images.inc(count)

    def version(self, version: int) -> None:
        self._version.set(version)

    def updated(self, seconds: float) -> None:
        self._update.observe(seconds)
