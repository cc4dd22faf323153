"""The embedded engine on a thread of this process, which starts in a fraction of the time that a process takes."""

from __future__ import annotations

from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.transformers import TransformersPolicy
from vigorl_lib.policy.worker import EngineWorker


def open_embedded(config: PolicyConfig) -> TransformersPolicy:
    """As `TransformersPolicy.open`, but for where the worker runs. Blocks."""
    return TransformersPolicy(EngineWorker.open(config), config)
