"""Checkpoints in Hugging Face format: open one, say clearly what is wrong with it, save one.

A checkpoint is a folder, or a folder in storage, with config.json, the tokenizer, preprocessor_config.json and
safetensors. `load_renderer` reads what rendering needs and no weights; `load_model` reads all of it. The
parts are loaded one by one, because transformers' joint processor needs torchvision for videos, which we have not.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.errors import ObjectNotFound, PolicyError
from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.families import Family, family_of
from vigorl_lib.models.weights import open_parent
from vigorl_lib.storage import commit
from vigorl_lib.storage.base import open_storage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2VLImageProcessorPil

CONFIG, PREPROCESSOR, LEGACY_TEMPLATE = "config.json", "preprocessor_config.json", "chat_template.json"

DType = Literal["auto", "float32", "bfloat16", "float16"]
"""`auto` is what the checkpoint says."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A checkpoint in memory; `model` is in evaluation mode."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    image_processor: Qwen2VLImageProcessorPil
    family: Family
    resize: ResizeRule
    renderer: ChatRenderer


def load_model(uri: str, *, dtype: DType = "auto", device: str = "auto", max_pixels: int = 0) -> LoadedModel:
    """Load a checkpoint from a folder or a storage URI.

    `max_pixels` lowers the area of the largest model view; 0 leaves it to the checkpoint. `device` "auto" takes a
    CUDA device if there is one. Attention is flash-attn 2 on CUDA where it is installed, PyTorch's own otherwise.
    Raises PolicyError (CHECKPOINT_MISSING, CHECKPOINT_INVALID, CHECKPOINT_UNSUPPORTED).
    """
    family, resize = describe(uri, max_pixels=max_pixels)
    with local_folder(uri, weights=True) as folder:
        tokenizer, image_processor = load_tokenizer(folder), _load_image_processor(folder)
        model = _load_weights(folder, dtype, _device(device))
    return LoadedModel(model, tokenizer, image_processor, family, resize, ChatRenderer(tokenizer, resize))


def load_renderer(uri: str) -> ChatRenderer:
    """Only what turns conversations into token ids; reads no weights. Raises as `load_model`."""
    _, resize = describe(uri)
    with local_folder(uri, weights=False) as folder:
        return ChatRenderer(load_tokenizer(folder), resize)


def describe(uri: str, *, max_pixels: int = 0) -> tuple[Family, ResizeRule]:
    """What a checkpoint is and how it sees images, by two JSON files alone: a wrong folder costs no import of torch."""
    config, preprocessor = read_json(uri, CONFIG), read_json(uri, PREPROCESSOR)
    family = family_of(config)
    size = preprocessor.get("size") or {}
    # Checkpoints of the older families name the area limits themselves.
    low = preprocessor.get("min_pixels") or size.get("shortest_edge")
    high = preprocessor.get("max_pixels") or size.get("longest_edge")
    patch, merge = preprocessor.get("patch_size", family.patch_size), preprocessor.get("merge_size", family.merge_size)
    if not low or not high:
        raise _invalid(uri, f"{PREPROCESSOR} names no pixel limits")
    if patch * merge != family.factor:
        raise _invalid(uri, f"{PREPROCESSOR} has patches of {patch} px, {family.name} has {family.patch_size}")
    if max_pixels:
        high = max(min(int(high), max_pixels), int(low), family.factor**2)
    return family, ResizeRule(factor=family.factor, min_pixels=int(low), max_pixels=int(high))


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, image_processor: Qwen2VLImageProcessorPil, folder: Path
) -> None:
    """Write a complete checkpoint that `load_model` and any other reader of the format opens."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor.save_pretrained(folder)


def read_json(uri: str, name: str) -> dict[str, Any]:
    """A JSON file of a checkpoint. Raises PolicyError (CHECKPOINT_MISSING, CHECKPOINT_INVALID)."""
    try:
        values = json.loads(open_storage(uri).read(name))
    except ObjectNotFound:
        raise PolicyError(
            f"{uri}: expected a checkpoint in Hugging Face format, found no {name}",
            reason="CHECKPOINT_MISSING",
            checkpoint=uri,
        ) from None
    except ValueError:
        raise _invalid(uri, f"{name} is not valid JSON") from None
    if not isinstance(values, dict):
        raise _invalid(uri, f"{name} is not a JSON object")
    return values


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _invalid(folder, f"the tokenizer cannot be read ({_first_line(error)})") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise _invalid(folder, "expected a tokenizer.json, found a tokenizer of another kind")
    # Older checkpoints keep the template that counts beside the processor, where no tokenizer looks for it; the
    # released ViGoRL ones bring their system prompt by it.
    if (folder / LEGACY_TEMPLATE).is_file() and not (folder / "chat_template.jinja").is_file():
        tokenizer.chat_template = str(read_json(str(folder), LEGACY_TEMPLATE).get("chat_template", ""))
        if not tokenizer.chat_template:
            raise _invalid(folder, f"{LEGACY_TEMPLATE} names no chat_template")
    return tokenizer


def _load_image_processor(folder: Path) -> Qwen2VLImageProcessorPil:
    from transformers import Qwen2VLImageProcessorPil

    try:
        # The PIL variant on every machine, so that a policy and its learner see the same pixels everywhere.
        return Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _invalid(folder, f"{PREPROCESSOR} cannot be read ({_first_line(error)})") from error


def _load_weights(folder: Path, dtype: DType, device: str) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging
    from transformers.utils.import_utils import is_flash_attn_2_available

    from vigorl_lib.models.vision_batch import batch_equal_windows

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    attention = "flash_attention_2" if device.startswith("cuda") and is_flash_attn_2_available() else "sdpa"
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise _invalid(folder, f"the weights cannot be read ({_first_line(error)})") from error
    model, report = loaded
    # A weight that is not in the files would silently stay random.
    if missing := sorted(report["missing_keys"]):
        raise _invalid(folder, f"the weights lack {missing[0]} ({len(missing)} missing in all)")
    batch_equal_windows(model)
    ready: PreTrainedModel = model.to(device).eval()
    return ready


def _device(device: str) -> str:
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _invalid(checkpoint: object, problem: str) -> PolicyError:
    return PolicyError(f"{checkpoint}: {problem}", reason="CHECKPOINT_INVALID", checkpoint=checkpoint)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


@contextmanager
def local_folder(uri: str, *, weights: bool) -> Iterator[Path]:
    """The folder behind a URI; a bucket's is downloaded, without its weights if not wanted, and removed after use."""
    storage, name = open_parent(uri)
    if (folder := storage.local_path(name)) is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not weights:
            for key in storage.list(f"{name}/"):
                if not key.endswith(".safetensors"):
                    (folder / key.rpartition("/")[2]).write_bytes(storage.read(key))
        elif commit.committed(storage, name) is not None:
            commit.fetch(storage, name, folder)
        else:
            storage.download_folder(name, folder)
        yield folder
