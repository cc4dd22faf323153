"""Opens the engine that a policy's settings name. Engines are imported only here, and only when asked for."""

from __future__ import annotations

from vigorl_lib.policy.base import Policy
from vigorl_lib.policy.config import PolicyConfig


def open_policy(config: PolicyConfig) -> Policy:
    """A ready policy; blocks while it loads. Raises PolicyError, StorageError, DataError."""
    if config.engine == "scripted":
        return _open_scripted(config)
    from vigorl_lib.policy.transformers import TransformersPolicy

    return TransformersPolicy.open(config)


def _open_scripted(config: PolicyConfig) -> Policy:
    from vigorl_lib.data.datasets import read_dataset
    from vigorl_lib.models.loading import describe
    from vigorl_lib.policy.scripted import ScriptedTeacher
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.images import ImageStore

    storage = open_storage(config.scripted.root)
    images = ImageStore(storage)
    examples = [
        example
        for split in config.scripted.splits
        for example in read_dataset(storage, images, config.scripted.dataset, split, with_images=False)
    ]
    return ScriptedTeacher(examples, config, describe(config.model)[1])
