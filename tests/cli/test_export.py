"""`vigorl export`: a run's checkpoint or another trainer's shards become a folder, and go where they are wanted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.training.support import sft_values
from vigorl_lib.cli.main import cli
from vigorl_lib.data.datasets_synthetic import make_synthetic
from vigorl_lib.errors import ConfigError, ObjectNotFound
from vigorl_lib.models.fetch import digest_of
from vigorl_lib.models.loading import load_model
from vigorl_lib.models.tiny import build_tiny
from vigorl_lib.models.weights import read_weights
from vigorl_lib.storage.base import open_storage
from vigorl_lib.training.config import SftConfig
from vigorl_lib.training.sft import train_sft


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps whose checkpoints are those of steps 2 and 3, and the model of step 4."""
    folder = tmp_path_factory.mktemp("export")
    storage = open_storage(str(folder))
    build_tiny(folder / "tiny", seed=0)
    make_synthetic(storage, "visual-search", {"train": 8}, 0, captions=40)
    rule = {"every": 1, "keep": 2, "best_metric": "loss", "best_mode": "max"}
    config = SftConfig.model_validate(sft_values(steps=4, checkpoint=rule))
    train_sft(config, storage=storage, run_id="run/sft", seed=3)
    return folder


def export(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["export", *arguments], catch_exceptions=False)
    return result.output


def test_a_checkpoint_is_written_compared_and_uploaded(root: Path, tmp_path: Path) -> None:
    run = ("--root", str(root), "--run-id", "run/sft")
    told = export(str(tmp_path / "new"), *run, "--upload", str(tmp_path / "shared" / "m"))
    assert "run/sft at step 3" in told
    assert "log-probabilities differ by 0.0e+00 at most" in told
    assert digest_of(str(tmp_path / "shared" / "m")) == digest_of(str(tmp_path / "new"))
    # The loss falls, so by `max` the first checkpoint is the best.
    assert "at step 1" in export(str(tmp_path / "best"), *run, "--step", "best", "--no-logprobs")
    new, best = (load_model(str(tmp_path / name), device="cpu").model.state_dict() for name in ("new", "best"))
    assert any(not torch.equal(new[name], best[name]) for name in new)


def test_shards_are_written_with_the_configuration_beside_them(root: Path, tmp_path: Path) -> None:
    weights = read_weights(root / "tiny")
    torch.save(weights, tmp_path / "model_world_size_1_rank_0.pt")
    told = export(str(tmp_path / "out"), "--fsdp", str(tmp_path), "--base", str(root / "tiny"), "--dtype", "bfloat16")
    assert "log-probabilities differ by 0.0e+00 at most" in told
    written = read_weights(tmp_path / "out")
    assert all(torch.equal(written[name], weights[name].bfloat16()) for name in weights)


def test_what_cannot_be_exported_is_told(root: Path, tmp_path: Path) -> None:
    run = ("--root", str(root), "--run-id", "run/sft")
    for arguments, reason in ((("--root", "x"), "EXPORT_SOURCE"), ((*run, "--step", "last"), "STEP_INVALID")):
        with pytest.raises(ConfigError) as wrong:
            export(str(tmp_path / "out"), *arguments)
        assert wrong.value.reason == reason
    with pytest.raises(ObjectNotFound) as missing:
        export(str(tmp_path / "out"), *run, "--step", "2000")
    assert missing.value.reason == "NOT_COMMITTED"


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's API as making a repository and one commit of small files asks for."""

    asked: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.path, body))
        if self.path == "/api/repos/create":
            if json.loads(body)["name"].endswith("closed"):
                self._answer(403, {"error": "no"})
            else:
                self._answer(200, {"url": f"http://{self.headers['Host']}/team/vlm", "id": "team/vlm"})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            told = [{"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for path in files]
            self._answer(200, {"files": told})
        else:
            self._answer(200, {"commitUrl": f"http://{self.headers['Host']}/team/vlm/commit/abc", "commitOid": "abc"})

    def do_GET(self) -> None:
        self._answer(404 if "closed" in self.path else 200, {"sha": "0" * 40, "id": "team/vlm", "siblings": []})

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def publish(folder: Path, uri: str, endpoint: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the Hub's client reads its settings when it is imported."""
    code = (
        "import sys; from pathlib import Path; from vigorl_lib.models.publish import publish_model\n"
        "print(publish_model(Path(sys.argv[1]), sys.argv[2]))"
    )
    settings = {"HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", code, str(folder), uri]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=60)


def test_a_model_is_committed_to_a_private_repository_of_the_hub(hub: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = publish(tmp_path, "hf://team/vlm", hub)
    assert done.stdout.strip() == "hf://team/vlm at abc", done.stderr
    made = json.loads(next(body for path, body in Hub.asked if path == "/api/repos/create"))
    assert "vlm" in made["name"]
    assert made.get("private") is True or made.get("visibility") == "private"
    assert any("/commit/" in path and b"config.json" in body for path, body in Hub.asked)


def test_a_refusal_of_the_hub_is_told(hub: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = publish(tmp_path, "hf://team/closed", hub)
    assert "HF_TOKEN may write there" in done.stderr
    assert "hf_secret" not in done.stderr
