"""The committed stubs are what the protos give."""

from __future__ import annotations

from pathlib import Path

import pytest

from vigorl_lib.rpc.gen.vigorl.common.v1 import image_pb2
from vigorl_lib.rpc.generate import GENERATED, PROTOS, generate

pytest.importorskip("grpc_tools")


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.py*"))
        if "__pycache__" not in path.parts
    }


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    generate(PROTOS, tmp_path / "gen")
    assert files_of(tmp_path / "gen") == files_of(GENERATED)


def test_descriptors_keep_the_names_of_the_protos() -> None:
    assert image_pb2.DESCRIPTOR.name == "vigorl/common/v1/image.proto"
    assert image_pb2.Image.DESCRIPTOR.full_name == "vigorl.common.v1.Image"
