"""Opening and saving checkpoints and weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from vigorl_lib.errors import PolicyError, StorageError
from vigorl_lib.models.loading import LoadedModel, describe, load_model, load_renderer, save_model
from vigorl_lib.models.tiny import RESIZE, build_tiny
from vigorl_lib.models.weights import FILE_NAME, assign_weights, fetch_weights, read_weights, write_weights
from vigorl_lib.storage import commit
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.config import S3Settings
from vigorl_lib.storage.s3 import S3Storage


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint to spoil."""
    return shutil.copytree(tiny_folder, tmp_path / "checkpoint")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_checkpoint_says_its_family_and_frame_without_loading_weights(tiny_folder: Path) -> None:
    family, resize = describe(str(tiny_folder))
    assert family.name == "qwen2_5_vl"
    assert resize == RESIZE
    assert load_renderer(str(tiny_folder)).resize == RESIZE


def test_saving_and_loading_again_keeps_every_weight(tiny: LoadedModel, tmp_path: Path) -> None:
    save_model(tiny.model, tiny.tokenizer, tiny.image_processor, tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"))
    for (name, old), new in zip(tiny.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(old, new), name
    assert again.resize == tiny.resize


def test_a_folder_without_checkpoint_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"found no config\.json") as caught:
        load_model(str(tmp_path))
    assert caught.value.reason == "CHECKPOINT_MISSING"
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("change", [{"model_type": "llama"}, {"architectures": ["Qwen2_5_VLModel"]}])
def test_another_architecture_is_refused_by_name(copy: Path, change: dict[str, object]) -> None:
    edit_json(copy / "config.json", **change)
    with pytest.raises(PolicyError, match=r"llama|Qwen2_5_VLModel") as caught:
        load_model(str(copy))
    assert caught.value.reason == "CHECKPOINT_UNSUPPORTED"


@pytest.mark.parametrize("spoil", ["cut", "gone", "not json", "shape", "short", "no tokenizer"])
def test_a_spoilt_checkpoint_is_refused_in_one_line(copy: Path, spoil: str) -> None:
    weights = copy / FILE_NAME
    if spoil == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif spoil == "gone":
        weights.unlink()
    elif spoil == "not json":
        (copy / "config.json").write_text("{")
    elif spoil == "shape":
        config = json.loads((copy / "config.json").read_text())
        edit_json(copy / "config.json", text_config=config["text_config"] | {"intermediate_size": 128})
    elif spoil == "short":
        tensors = read_weights(copy)
        tensors.pop("lm_head.weight")
        write_weights(tensors, copy)
    else:
        (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(PolicyError) as caught:
        load_model(str(copy))
    assert caught.value.reason == "CHECKPOINT_INVALID"
    assert "\n" not in caught.value.message


def publish(tensors: dict[str, torch.Tensor], root: Path, name: str = "000001") -> str:
    (root / name).mkdir(parents=True)
    write_weights(tensors, root / name)
    commit.commit(open_storage(str(root)), name, {})
    return str(root / name)


def test_published_weights_arrive_exactly(tiny: LoadedModel, tmp_path: Path) -> None:
    wanted = {name: torch.randn_like(tensor) for name, tensor in tiny.model.state_dict().items()}
    build_tiny(tmp_path / "other", seed=5)
    model = load_model(str(tmp_path / "other")).model
    assign_weights(model, fetch_weights(publish(wanted, tmp_path / "weights")))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


def test_weights_without_marker_or_with_other_bytes_are_not_read(tiny: LoadedModel, tmp_path: Path) -> None:
    uri = publish(dict(tiny.model.state_dict()), tmp_path)
    file = Path(uri) / FILE_NAME
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StorageError) as caught:
        fetch_weights(uri)
    assert caught.value.reason == "OBJECT_CORRUPT"
    (Path(uri) / commit.MARKER).unlink()
    with pytest.raises(StorageError) as caught:
        fetch_weights(uri)
    assert caught.value.reason == "NOT_COMMITTED"


def test_a_checkpoint_and_its_weights_load_from_a_bucket(
    tiny: LoadedModel,
    tiny_folder: Path,
    tmp_path: Path,
    s3_settings: S3Settings,
    s3_storage: S3Storage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("endpoint", "access_key", "secure"):
        monkeypatch.setenv(f"VIGORL_S3__{name.upper()}", str(getattr(s3_settings, name)))
    monkeypatch.setenv("VIGORL_S3__SECRET_KEY", s3_settings.secret_key.get_secret_value())
    s3_storage.upload_folder(tiny_folder, "checkpoint")
    uri = f"{s3_storage.uri}/checkpoint"
    assert load_renderer(uri).forbidden == tiny.renderer.forbidden
    expected = tiny.model.state_dict()
    for marked in (False, True):
        if marked:
            commit.commit(s3_storage, "checkpoint", {})
        loaded = load_model(uri).model.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())
    # A whole checkpoint names its tensors as the format does, a published version as the model does.
    file = write_weights(expected, tmp_path)
    s3_storage.write("weights/000001/model.safetensors", file.read_bytes())
    commit.commit(s3_storage, "weights/000001", {})
    fetched = fetch_weights(f"{s3_storage.uri}/weights/000001")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fetched.items())


@pytest.mark.parametrize("spoil", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_change_nothing(tiny_folder: Path, spoil: str) -> None:
    model = load_model(str(tiny_folder)).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    if spoil == "missing":
        tensors.pop("lm_head.weight")
    elif spoil == "unknown":
        tensors["stray"] = torch.zeros(1)
    else:
        tensors["lm_head.weight"] = torch.zeros(2, 2)
    with pytest.raises(PolicyError) as caught:
        assign_weights(model, tensors)
    assert caught.value.reason == "WEIGHTS_MISMATCH"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
