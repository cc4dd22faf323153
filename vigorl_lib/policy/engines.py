"""Opens the engine that a policy's settings name. Engines are imported only here, and only when asked for."""

from __future__ import annotations

from vigorl_lib.policy.base import Engine
from vigorl_lib.policy.config import PolicyConfig


def open_policy(config: PolicyConfig) -> Engine:
    """A ready policy; blocks while it loads. Raises PolicyError, StorageError, DataError."""
    match config.engine:
        case "transformers":
            from vigorl_lib.policy.transformers import TransformersPolicy

            return TransformersPolicy.open(config)
        case "vllm":
            return _open_vllm(config)
        case "openai":
            from vigorl_lib.policy.openai import OpenAiPolicy

            return OpenAiPolicy.open(config)
        case "scripted":
            return _open_scripted(config)


def _open_vllm(config: PolicyConfig) -> Engine:
    from vigorl_lib.models.families import find_family
    from vigorl_lib.models.loading import CONFIG, read_json

    if find_family(read_json(config.model, CONFIG)) is None:
        from vigorl_lib.policy.vllm_generic import GenericVllmPolicy

        return GenericVllmPolicy.open(config)
    from vigorl_lib.policy.vllm import VllmPolicy

    return VllmPolicy.open(config)


def _open_scripted(config: PolicyConfig) -> Engine:
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
