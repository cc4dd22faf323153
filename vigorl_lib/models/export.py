"""A complete Hugging Face folder from weights that are read one tensor at a time.

The weights may come from anywhere: a dictionary, a training checkpoint, shards of another trainer. What they lack,
and everything that is not a weight (configuration, tokenizer, processor), comes from a base: a checkpoint in the
same format. At most one output shard is in memory. Each file is read back and compared before the folder takes its
name, so a folder that is there is whole. `check_logprobs` goes further and opens the result as a model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigorl_lib.errors import ConfigError, PolicyError
from vigorl_lib.models.loading import CONFIG, DType, local_folder
from vigorl_lib.storage.base import TEMPORARY_PREFIX
from vigorl_lib.storage.commit import MARKER

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SHARD_BYTES = 4 << 30
"""Size at which the next file is begun; a single tensor may be larger."""
HEAD, EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"

_INDEX = "model.safetensors.index.json"
_WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written; `size_bytes` counts the weights, `changed` the tensors that differ from the base's."""

    folder: Path
    files: tuple[str, ...]
    tensors: int
    size_bytes: int
    changed: int


def module_name(name: str) -> str:
    """Name in the loaded model of a tensor of a checkpoint's file; a name of the model stays as it is.

    Files of the older families put the tower beside the language model, not both below `model`.

    >>> module_name("visual.merger.ln_q.weight")
    'model.visual.merger.ln_q.weight'
    >>> module_name("model.layers.0.mlp.up_proj.weight")
    'model.language_model.layers.0.mlp.up_proj.weight'
    """
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith("model.") and not name.startswith(("model.visual.", "model.language_model.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name


def export_model(
    weights: Mapping[str, Tensor],
    base: str,
    folder: Path,
    *,
    dtype: DType = "auto",
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Write `weights` and the rest of `base` (a folder or URI) as a complete checkpoint in `folder`.

    Names of `weights` are those of the model or of its files; the result has the base's names. `dtype` "auto" keeps
    the type of each of the base's tensors, or that of its configuration where the base has no weights. A mapping that
    reads on access is read twice, to write and to compare. Raises ConfigError (MODEL_FOLDER_TAKEN), PolicyError
    (WEIGHTS_MISMATCH, WEIGHTS_UNREADABLE, CHECKPOINT_MISSING, CHECKPOINT_INVALID, EXPORT_CORRUPT).
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} holds something already; export into another folder, or delete it",
            reason="MODEL_FOLDER_TAKEN",
            folder=folder,
        )
    partial = folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with local_folder(base, weights=True) as source, ExitStack() as stack:
        plan = _Plan.of(weights, source, dtype, stack)
        _copy_rest(source, partial, dtype)
        files = _write(plan, partial, shard_bytes)
        changed = _compare(plan, partial, files)
    partial.rename(folder)
    size = sum((folder / name).stat().st_size for name in files)
    return Exported(folder, tuple(files), len(plan.shapes), size, changed)


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the model reads its output weights from its embedding; files need them only once."""
    return bool(config.get("tie_word_embeddings", (config.get("text_config") or {}).get("tie_word_embeddings", False)))


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which tensors are written under which names, and where each comes from."""

    given: Mapping[str, Tensor]
    keys: Mapping[str, str]
    """Name written → key in `given`; what is not here comes from the base."""
    shapes: Mapping[str, tuple[int, ...]]
    base: Mapping[str, Any]
    """Name → the open safetensors file of the base that has it."""
    dtype: torch.dtype | None
    """None keeps the base's."""

    @classmethod
    def of(cls, given: Mapping[str, Tensor], source: Path, dtype: DType, stack: ExitStack) -> _Plan:
        import torch

        config = json.loads((source / CONFIG).read_bytes()) if (source / CONFIG).is_file() else {}
        base = dict(open_tensors(source, stack))
        by_module = {module_name(key): key for key in given}
        if is_tied(config):
            # A head beside the embedding would be stale in the base and is a second copy in the others.
            _check_tied(given, by_module)
            by_module.pop(HEAD, None)
            base.pop(HEAD, None)
        if base:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name, file in base.items()}
        else:
            shapes = {by_module.get(name, name): shape for name, shape in _described_shapes(source).items()}
        keys = {name: by_module.pop(module_name(name)) for name in shapes if module_name(name) in by_module}
        missing = [name for name in shapes if name not in keys and name not in base]
        if missing or by_module:
            unknown = [f"unknown: {key}" for key in by_module.values()]
            raise _mismatch([f"missing: {name}" for name in missing] + unknown)
        kind = dtype if dtype != "auto" or base else config.get("dtype", config.get("torch_dtype", "bfloat16"))
        return cls(given, keys, shapes, base, None if kind == "auto" else getattr(torch, str(kind)))

    def read(self, name: str) -> Tensor:
        """The tensor as it is written."""
        tensor = self.given[self.keys[name]].detach().cpu() if name in self.keys else self._of_base(name)
        if (found := tuple(tensor.shape)) != self.shapes[name]:
            raise _mismatch([f"{name} is {found} and should be {self.shapes[name]}"])
        return tensor.to(self._dtype_of(name)).contiguous()

    def differs(self, name: str, written: Tensor) -> bool:
        """Whether a tensor was written that is not the base's own."""
        import torch

        if name not in self.keys:
            return False
        return name not in self.base or not torch.equal(self._of_base(name).to(written.dtype), written)

    def _of_base(self, name: str) -> Tensor:
        tensor: Tensor = self.base[name].get_tensor(name)
        return tensor

    def _dtype_of(self, name: str) -> torch.dtype:
        if self.dtype is not None:
            return self.dtype
        # No element is read, unless it is the only one.
        stored = self.base[name].get_slice(name)[:0] if self.shapes[name] else self._of_base(name)
        found: torch.dtype = stored.dtype
        return found


def open_tensors(folder: Path, stack: ExitStack) -> Iterator[tuple[str, Any]]:
    """Each tensor's name and the file that has it. Raises PolicyError (WEIGHTS_UNREADABLE)."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            file = stack.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise PolicyError(f"{path}: not readable as safetensors ({error})", reason="WEIGHTS_UNREADABLE") from error
        for name in file.keys():  # noqa: SIM118
            yield name, file


def _check_tied(given: Mapping[str, Tensor], by_module: Mapping[str, str]) -> None:
    import torch

    if HEAD not in by_module or EMBEDDING not in by_module:
        return
    if not torch.equal(given[by_module[HEAD]], given[by_module[EMBEDDING]]):
        raise _mismatch([f"{HEAD} differs from the embedding to which the configuration ties it"])


def _described_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Without weights of a base, its configuration alone says what a whole model has, under the model's own names."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyError(
            f"{folder}: expected weights, or a {CONFIG} that describes the model; found neither ({error})",
            reason="CHECKPOINT_INVALID",
        ) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {name: shape for name, shape in shapes.items() if name != HEAD or not is_tied(config.to_dict())}


def _copy_rest(source: Path, folder: Path, dtype: DType) -> None:
    """Everything of the base that is not a weight, nor about its own way into its folder."""
    for path in sorted(source.iterdir()):
        skipped = path.name.startswith(".") or path.name == MARKER or path.name.endswith(_WEIGHT_SUFFIXES)
        if path.is_file() and not skipped:
            shutil.copyfile(path, folder / path.name)
    if dtype != "auto" and (folder / CONFIG).is_file():
        config = json.loads((folder / CONFIG).read_bytes())
        config.pop("torch_dtype", None)
        (folder / CONFIG).write_text(json.dumps(config | {"dtype": dtype}, indent=2), encoding="utf-8")


def _write(plan: _Plan, folder: Path, shard_bytes: int) -> dict[str, list[str]]:
    """Write the tensors shard by shard; file name → tensors in it."""
    from safetensors.torch import save_file

    written: list[list[str]] = []
    shard: dict[str, Tensor] = {}
    total = 0
    for name in plan.shapes:
        tensor = plan.read(name)
        held = sum(one.nbytes for one in shard.values())
        if shard and held + tensor.nbytes > shard_bytes:
            save_file(shard, _part(folder, len(written)), metadata={"format": "pt"})
            written.append(list(shard))
            shard = {}
        # A tensor that only looks at a part of a file's memory would be refused, or written whole.
        shard[name] = tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor
        total += tensor.nbytes
    save_file(shard, _part(folder, len(written)), metadata={"format": "pt"})
    written.append(list(shard))
    names = _file_names(len(written))
    for number, name in enumerate(names):
        _part(folder, number).rename(folder / name)
    files = dict(zip(names, written, strict=True))
    if len(files) > 1:
        where = {tensor: file for file, tensors in files.items() for tensor in tensors}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / _INDEX).write_text(json.dumps(index, indent=1, sort_keys=True), encoding="utf-8")
    return files


def _part(folder: Path, number: int) -> Path:
    return folder / f"{TEMPORARY_PREFIX}{number}"


def _file_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _compare(plan: _Plan, folder: Path, files: Mapping[str, list[str]]) -> int:
    """Read everything back and compare it bit by bit; how many tensors are not the base's."""
    import torch
    from safetensors import safe_open

    changed = 0
    for file_name, names in files.items():
        with safe_open(folder / file_name, framework="pt") as file:
            for name in names:
                written = file.get_tensor(name)
                expected = plan.read(name)
                if not torch.equal(written.view(torch.uint8), expected.view(torch.uint8)):
                    raise PolicyError(
                        f"{folder / file_name}: {name} was read back with other values; check the disk, export again",
                        reason="EXPORT_CORRUPT",
                    )
                changed += plan.differs(name, written)
    return changed


def _mismatch(problems: list[str]) -> PolicyError:
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return PolicyError(
        f"the weights do not fit the model: {'; '.join(problems[:_SHOWN])}{more}", reason="WEIGHTS_MISMATCH"
    )
