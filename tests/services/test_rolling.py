"""Rolling updates: real processes are replaced one after the other under constant load, and no request fails.

The addresses behind the service's name change as a headless service's do: a pod is there once it is ready, and it
leaves before its SIGTERM, as the chart's preStop makes sure. How often each server answered is read from its log.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.policy.test_transformers import publish
from tests.rpc.fakes import prompt_of
from tests.services.conftest import ZOOM
from tests.services.test_environment import RESIZE, TURNS
from vigorl_lib.domain.example import Example
from vigorl_lib.environment.client import EnvironmentClient
from vigorl_lib.policy.base import Sampling
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.policy.config import PolicyConfig

START_TIMEOUT_S = 120.0
LEAVING_S = 0.2
"""Stands for the chart's preStop: an address has left its name that long before the process is told to end."""
RUN = "run/grpo"


@dataclass
class Pod:
    """A service's process, its address and its log."""

    child: subprocess.Popen[str]
    log: Path
    address: str = ""
    admin: str = ""

    def answered(self, method: str) -> int:
        """Calls of `method` that it answered; the only ones that it refused asked for an image that it never saw."""
        records = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        calls = [record for record in records if record["msg"] == "call" and record["method"].endswith(f"/{method}")]
        assert {record["reason"] for record in calls if record["code"] != "OK"} <= {"IMAGE_NOT_CACHED"}
        return sum(record["code"] == "OK" for record in calls)


@dataclass
class Rollout:
    """The pods of one service by the addresses that its name has."""

    service: str
    folder: Path
    config: Callable[[int], dict[str, Any]]
    pods: list[Pod] = field(default_factory=list)
    ready: list[Pod] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return [pod.admin if host == "admin" else pod.address for pod in self.ready]

    async def start(self, listen: str = "127.0.0.1:0") -> Pod:
        """A new pod, once it is ready."""
        pod, address, admin = await asyncio.to_thread(self._launch, listen)
        self.pods.append(pod)
        async with asyncio.timeout(START_TIMEOUT_S):
            while not address.exists():
                assert pod.child.poll() is None, pod.log.read_text()
                await asyncio.sleep(0.02)
        pod.address = address.read_text().strip()
        pod.admin = admin.read_text().strip() if admin.exists() else ""
        self.ready.append(pod)
        return pod

    def _launch(self, listen: str) -> tuple[Pod, Path, Path]:
        """The pod, and the files that its addresses will be in."""
        number = next(self._numbers)
        config, log, address = (self.folder / f"{number}.{name}" for name in ("json", "log", "address"))
        config.write_text(json.dumps(self.config(number)))
        command = [sys.executable, "-m", f"vigorl_services.{self.service}", "--config", str(config)]
        command += ["--listen", listen, "--log-level", "debug", "--address-file", str(address)]
        with log.open("w") as errors:
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, text=True)
        return Pod(child, log), address, self.folder / f"{number}.admin"

    async def stop(self, pod: Pod, *, leaving_s: float = LEAVING_S) -> None:
        """SIGTERM after `leaving_s`; returns when the drained process has ended."""
        self.ready.remove(pod)
        await asyncio.sleep(leaving_s)
        pod.child.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(pod.child.wait, START_TIMEOUT_S) == 0, pod.log.read_text()[-2000:]

    def answered(self, method: str) -> int:
        return sum(pod.answered(method) for pod in self.pods)


@contextmanager
def rollout(service: str, folder: Path, config: Callable[[int], dict[str, Any]]) -> Iterator[Rollout]:
    made = Rollout(service, folder, config)
    try:
        yield made
    finally:
        for pod in made.pods:
            pod.child.kill()
            pod.child.wait()


@dataclass
class Load:
    """What constant callers got; a call that fails ends its caller and the test."""

    answers: list[Any] = field(default_factory=list)

    async def more(self, count: int) -> None:
        """Wait until so many further calls have been answered."""
        wanted = len(self.answers) + count
        async with asyncio.timeout(START_TIMEOUT_S):
            while len(self.answers) < wanted:  # noqa: ASYNC110 - the callers count
                await asyncio.sleep(0.01)


@asynccontextmanager
async def constant_load(call: Callable[[int], Awaitable[Any]], *, callers: int, pause_s: float) -> AsyncIterator[Load]:
    load, over = Load(), asyncio.Event()
    numbers = itertools.count()

    async def caller() -> None:
        while not over.is_set():
            load.answers.append(await call(next(numbers)))
            await asyncio.sleep(pause_s)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(caller())
        yield load
        over.set()


async def test_environments_are_replaced_without_a_failed_request(tmp_path: Path, examples: list[Example]) -> None:
    images = [example.images[0] for example in examples]
    with rollout("environment", tmp_path, lambda number: {"server": {"drain_s": 20.0}}) as pods:
        first = [await pods.start(), await pods.start()]
        client = EnvironmentClient("dns:///environment:50051", resolve=pods.resolve)
        episodes = [await client.start(image, mode="multi_turn", config=ZOOM, resize=RESIZE) for image in images]

        async def step(number: int) -> Any:
            which = number % len(images)
            return which, await client.step(episodes[which].state, TURNS[0], images[which])

        async with constant_load(step, callers=6, pause_s=0.01) as load:
            for old in first:
                await load.more(20)
                await pods.start()
                await load.more(20)
                await pods.stop(old)
            await load.more(20)
        await client.close()
        assert pods.answered("Step") == len(load.answers), "none was answered twice"
        for which in range(len(images)):
            outcomes = [outcome for asked, outcome in load.answers if asked == which]
            assert all(outcome == outcomes[0] for outcome in outcomes), "whichever replica answered"
        # An image belongs to one replica, by hash: of two, one may have none of these few.
        assert sum(pod.answered("Step") for pod in pods.pods[:2]) >= 20, "those that went"
        assert sum(pod.answered("Step") for pod in pods.pods[2:]) >= 20, "those that came"


async def test_replicas_of_a_fixed_list_end_and_come_back_at_their_addresses(
    tmp_path: Path, examples: list[Example]
) -> None:
    """No name is looked up: the client itself finds that a replica has gone, and that it is back."""
    image = examples[0].images[0]
    with rollout("environment", tmp_path, lambda number: {"server": {"drain_s": 20.0}}) as pods:
        first = [await pods.start(), await pods.start()]
        client = EnvironmentClient(",".join(pod.address for pod in first))
        episode = await client.start(image, mode="multi_turn", config=ZOOM, resize=RESIZE)

        async def step(number: int) -> Any:
            return await client.step(episode.state, TURNS[0], image)

        async with constant_load(step, callers=6, pause_s=0.01) as load:
            for old in first:
                await load.more(20)
                await pods.stop(old, leaving_s=0.0)
                await load.more(20)
                await pods.start(old.address)
            await load.more(20)
        await client.close()
        assert pods.answered("Step") == len(load.answers)
        assert all(outcome == load.answers[0] for outcome in load.answers)


async def test_policies_are_replaced_and_given_weights_without_a_failed_request(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """One replica fewer at a time, as where no GPU is to spare, and new weights while one of two is replaced."""
    weights = tmp_path / "weights"
    policy = PolicyConfig(name="student", model=str(tiny_folder), trainable_by=RUN, weights_root=str(weights))

    def config(number: int) -> dict[str, Any]:
        told = policy.model_dump(mode="json", exclude_defaults=True)
        return {"policy": told, "admin_address_file": str(tmp_path / f"{number}.admin"), "server": {"drain_s": 30.0}}

    with rollout("policy", tmp_path, config) as pods:
        first = [await pods.start(), await pods.start()]
        client = PolicyClient("dns:///policy:50051", "student", admin="dns:///admin:50052", resolve=pods.resolve)

        async def generate(number: int) -> Any:
            prompt = prompt_of(f"question {number}")
            answer = await client.generate(prompt, seeds=[number], sampling=Sampling(max_tokens=12))
            (completion,) = answer.completions
            return completion.policy_version

        async with constant_load(generate, callers=4, pause_s=0.02) as load:
            await load.more(8)
            await pods.stop(first[0])
            await load.more(8)
            uri = publish(weights, 1, policy)
            await pods.start()
            assert (await client.update_weights(version=1, uri=uri, run_id=RUN)).version == 1
            updated_at = len(load.answers)
            await load.more(8)
            await pods.stop(first[1])
            await load.more(8)
        await client.close()
        assert pods.answered("Generate") == len(load.answers), "none was answered twice"
        assert set(load.answers) == {0, 1}
        assert set(load.answers[updated_at + 4 :]) == {1}, "a replacement starts with the weights that are wanted"


def test_a_service_that_is_process_1_drains_on_sigterm(tmp_path: Path) -> None:
    """In a container it is, and the kernel gives process 1 no default handler."""
    (tmp_path / "reward.json").write_text("{}")
    command = [sys.executable, "-m", "vigorl_services.reward", "--config", str(tmp_path / "reward.json")]
    isolated = ["unshare", "--fork", "--pid", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*isolated, "true"], check=False).returncode:
        pytest.skip("unshare may not make a process namespace here")
    with subprocess.Popen([*isolated, *command], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert json.loads(parent.stdout.readline())["pid"] == 1
            (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
            os.kill(int(child), signal.SIGTERM)
            assert parent.wait(START_TIMEOUT_S) == 0
        finally:
            parent.kill()
