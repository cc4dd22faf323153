"""Low-rank adapters through peft: few trained weights beside frozen ones, and one whole model again at the end.

Adapters live inside the model, so engine, packing and loss know nothing of them. What leaves a run (weights for a
policy, the final model, an export) has them added to the weights beside which they lie: readers need no peft, and
neither does merging. Worked example, of the trained module and of what leaves it:

    q_proj.base_layer.weight, q_proj.lora_A.default.weight, q_proj.lora_B.default.weight  ->  q_proj.weight
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vigorl_lib.errors import ConfigError
from vigorl_lib.training.config import LoraConfig

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_BASE, _DOWN, _UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


def add_adapters(model: PreTrainedModel, config: LoraConfig) -> None:
    """Give every linear layer that `config` names an adapter, in place, and freeze everything else.

    All ranks get the same ones. Raises ConfigError (PEFT_MISSING).
    """
    import torch

    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            f"lora.rank {config.rank} needs peft, which cannot be loaded ({error}); install vigorl[train], or set "
            "lora.rank 0",
            reason="PEFT_MISSING",
        ) from error
    adapters = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.modules))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        peft.inject_adapter_in_model(adapters, model)


def merged(weights: Mapping[str, Tensor], alpha: float) -> Mapping[str, Tensor]:
    """Weights of a model with adapters as those of one without, added up as they are read.

    `alpha` is that of the run (`LoraConfig.alpha`). A model without adapters stays as it is.
    """
    return _Merged(weights, alpha)


class _Merged(Mapping[str, "Tensor"]):
    def __init__(self, weights: Mapping[str, Tensor], alpha: float) -> None:
        self._weights, self._alpha = weights, alpha
        # In the order of the model, under the names that it has without adapters.
        self._keys = {key.replace(_BASE, "."): key for key in weights if not key.endswith((_DOWN, _UP))}

    def __getitem__(self, name: str) -> Tensor:
        weight = self._weights[self._keys[name]]
        layer = name.removesuffix(".weight")
        if layer + _DOWN not in self._weights:
            return weight
        down, up = self._weights[layer + _DOWN], self._weights[layer + _UP]
        scaled = self._alpha / len(down) * (up.float() @ down.float())
        return (weight.float() + scaled).to(weight.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
