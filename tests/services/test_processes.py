"""Services as real processes: start, drain, kill and restart, and one clear line for what a user can mend."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.services.conftest import ZOOM
from tests.services.test_environment import RESIZE, TURNS
from vigorl_lib.domain.example import Example
from vigorl_lib.environment.client import EnvironmentClient

START_TIMEOUT_S = 60.0


@contextmanager
def process(name: str, config: dict[str, object], folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A service's process; killed at the end if it still runs."""
    (folder / f"{name}.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", f"vigorl_services.{name}", "--config", str(folder / f"{name}.json"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def address_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, child.stderr and child.stderr.read()
    return str(json.loads(line)["address"])


def test_a_service_says_where_it_is_and_drains_on_sigterm(tmp_path: Path) -> None:
    address_file = tmp_path / "address"
    with process("reward", {}, tmp_path, "--address-file", str(address_file)) as child:
        address = address_of(child)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not address_file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert address_file.read_text().strip() == address
        child.send_signal(signal.SIGTERM)
        assert child.wait(START_TIMEOUT_S) == 0


@pytest.mark.parametrize(
    ("name", "config", "arguments", "words"),
    [
        ("reward", {"servr": {}}, [], ["unknown key 'servr'", "did you mean 'server'"]),
        ("reward", {}, ["--set", "server.drain_s=soon"], ["server.drain_s", "soon"]),
        ("reward", {}, ["--listen", "nonsense"], ["host:port", "nonsense"]),
        ("reward", {}, ["--listen", "0.0.0.0:0"], ["VIGORL_AUTH__TOKEN"]),
        ("policy", {"policy": {"name": "student", "model": "/nowhere"}}, [], ["/nowhere"]),
        ("search", {"root": "x", "services": {"policy": {}}}, [], ["services", "policy"]),
    ],
)
def test_a_wrong_setting_is_one_line_and_no_traceback(
    name: str, config: dict[str, object], arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    with process(name, config, tmp_path, *arguments) as child:
        _, errors = child.communicate(timeout=START_TIMEOUT_S)
        assert child.returncode in (1, 2)
    lines = [line for line in errors.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: ")
    assert all(word in lines[0] for word in words), lines[0]


def test_a_busy_port_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    with process("reward", {}, tmp_path) as first:
        address = address_of(first)
        with process("reward", {}, tmp_path, "--listen", address) as second:
            _, errors = second.communicate(timeout=START_TIMEOUT_S)
        assert second.returncode == 2
        assert address in errors.splitlines()[-1]
        assert "Traceback" not in errors


async def test_an_episode_survives_kill_9_of_its_server(tmp_path: Path, examples: list[Example]) -> None:
    image = examples[0].images[0]
    with process("environment", {}, tmp_path) as first:
        address = address_of(first)
        client = EnvironmentClient(address)
        episode = await client.start(image, mode="multi_turn", config=ZOOM, resize=RESIZE)
        outcome = await client.step(episode.state, TURNS[0], image)
        os.kill(first.pid, signal.SIGKILL)
        first.wait(START_TIMEOUT_S)
    with process("environment", {}, tmp_path, "--listen", address) as second:
        assert address_of(second) == address
        again = await client.step(episode.state, TURNS[0], image)
        assert again == outcome, "the new server never saw the image or the episode"
        await client.close()


@pytest.mark.parametrize("killed", ["engine", "server"])
def test_a_server_and_the_process_of_its_engine_end_together(tmp_path: Path, tiny_folder: Path, killed: str) -> None:
    with process("policy", {"policy": {"name": "tiny", "model": str(tiny_folder)}}, tmp_path) as server:
        address_of(server)
        (engine,) = psutil.Process(server.pid).children()
        (engine if killed == "engine" else server).send_signal(signal.SIGKILL)
        assert server.wait(START_TIMEOUT_S) == (1 if killed == "engine" else -signal.SIGKILL)
        _, alive = psutil.wait_procs([engine], timeout=10)
        # Nobody may be left in a container to collect it.
        assert all(child.status() == psutil.STATUS_ZOMBIE for child in alive)
        assert killed == "server" or "has ended with code -9" in str(server.stderr and server.stderr.read())
