"""Open an exported model and let it speak: its log-probabilities against those of the weights it was made from.

Bits are compared by `vigorl_lib.models.export` already; this finds what bits do not show: a name that the reader maps
elsewhere, a configuration or a tokenizer that does not fit. One model is in memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.domain.wire import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.export import module_name, open_tensors
from vigorl_lib.models.loading import LoadedModel, load_model, local_folder

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-4
"""Nats. The same weights in the same model differ by nothing; a wrong one shows far above this."""

_QUESTION = "What stands at the lower left, and how far is it from the disc? Think step by step, then answer."
_REPLY = (
    f"{THINK_OPEN}\nThe square lies left of the disc (31, 84).\n{THINK_CLOSE}\n{ANSWER_OPEN} a square {ANSWER_CLOSE}"
)


def check_logprobs(folder: Path, weights: Mapping[str, Tensor], base: str) -> float:
    """The largest difference, nats, over a fixed conversation with a picture.

    `weights` and `base` are what `export_model` was given. Raises PolicyError (EXPORT_DIFFERS).
    """
    loaded = load_model(str(folder), device="cpu")
    found = probe_logprobs(loaded)
    with local_folder(base, weights=True) as source, ExitStack() as stack:
        _assign(loaded.model, _ByModule(weights, dict(open_tensors(source, stack))))
    difference = float((found - probe_logprobs(loaded)).abs().max())
    # Written so that a difference that is not a number fails, too.
    if not difference <= TOLERANCE:
        raise PolicyError(
            f"{folder}: log-probabilities differ by {difference:g} from those of the weights it was made of; "
            "the base's configuration does not fit these weights",
            reason="EXPORT_DIFFERS",
        )
    return difference


def probe_logprobs(loaded: LoadedModel) -> Tensor:
    """Log-probability, [N], of each text token of a fixed conversation after its first."""
    import torch

    from vigorl_lib.models.features import encode, encoder_outputs
    from vigorl_lib.models.inputs import TokenSequence, collate
    from vigorl_lib.models.pixels import ViewCache

    renderer = loaded.renderer
    sequence = TokenSequence.of(renderer.render(_conversation()))
    batch = collate([sequence], padding=renderer.padding, resize=loaded.resize, side="right")
    views = [ViewCache(loaded.resize).get(image) for image in batch.images]
    with torch.no_grad():
        features = encode(loaded.model, views, loaded.image_processor)
        logits = loaded.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            mm_encoder_outputs=encoder_outputs(features),
            use_cache=False,
        ).logits[0, :-1]
    labels = batch.input_ids[0, 1:]
    text = labels != renderer.image_pad
    return torch.log_softmax(logits[text].float(), dim=-1).gather(-1, labels[text][:, None])[:, 0]


class _ByModule(Mapping[str, "Tensor"]):
    """The given weights and the rest of the base under the model's names, read on access."""

    def __init__(self, given: Mapping[str, Tensor], base: Mapping[str, Any]) -> None:
        self._given, self._base = given, base
        self._names = {module_name(name): name for name in base}
        self._given_names = {module_name(name): name for name in given}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._given_names:
            return self._given[self._given_names[name]]
        tensor: Tensor = self._base[self._names[name]].get_tensor(self._names[name])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names | self._given_names)

    def __len__(self) -> int:
        return len(self._names | self._given_names)


def _assign(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Put every weight over the model's own; first what they were is destroyed, so that one left out shows."""
    import torch

    with torch.no_grad():
        state = model.state_dict()
        for tensor in model.parameters():
            tensor.fill_(float("nan"))
        for name in weights:
            state[name].copy_(weights[name])


def _conversation() -> tuple[Segment, ...]:
    from PIL import Image, ImageDraw

    from vigorl_lib.storage.images import probe

    picture = Image.new("RGB", (112, 112), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((12, 70, 44, 100), fill="navy")
    draw.ellipse((60, 16, 100, 56), fill="orange")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    prompt = Segment(Origin.PROMPT, (Message(Role.USER, (probe(buffer.getvalue()), f"\n{_QUESTION}")),))
    return prompt, Segment(Origin.DEMONSTRATION, (Message(Role.ASSISTANT, (_REPLY,)),))
