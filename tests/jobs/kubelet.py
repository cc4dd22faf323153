"""What a kubelet makes of our pods, on this machine: containers as local processes, volumes as folders.

Commands, arguments, environment and files are those of the rendered manifests. Four things differ, because all pods
share one loopback and one file system: a service listens on a free port, a target `dns:///NAME.NAMESPACE.svc:PORT`
is rewritten to `dns:///localhost:PORT` of its local process, a mounted path is rewritten to the folder that stands
for it, and `/tmp` is another TMPDIR. No image, no uid, no security context, no network policy.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vigorl_lib.jobs.local import LocalProcess

Manifest = dict[str, Any]

SERVICES = Path(__file__).resolve().parents[2] / "services"
TARGET = re.compile(r"dns:///([a-z0-9-]+(?:\.[a-z0-9-]+)*\.svc:\d+)")
START_S = 90.0
RESTART_PAUSE_S = 0.5
"""The kubelet waits ten seconds and ever longer."""


@dataclass
class Node:
    """A machine of one namespace: what its pods may refer to, and what runs on it."""

    folder: Path
    secrets: Mapping[str, Mapping[str, bytes]]
    config_maps: dict[str, Mapping[str, str]] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    """`NAME.NAMESPACE.svc:PORT` → `localhost:PORT` of the process that stands for it."""
    running: list[Container] = field(default_factory=list)

    def start(
        self,
        pod_name: str,
        pod: Manifest,
        container: Manifest,
        *,
        arguments: Sequence[str] = (),
        operator: Mapping[str, str] | None = None,
    ) -> Container:
        """Start one container; `operator` is what an operator adds to its environment, `arguments` what we do."""
        home = self.folder / pod_name
        mounts = self._mounts(home, pod, container)
        environment = {**self._environment(container), **(operator or {})}
        variables = environment | {"OMP_NUM_THREADS": "1", "TMPDIR": mounts["/tmp"], "HOME": mounts["/tmp"]}
        variables["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = [_expand(word, environment) for word in container.get("command") or _entry_point(container["image"])]
        told = [self._local(_expand(word, environment), mounts) for word in container.get("args", [])]
        process = LocalProcess(
            f"{pod_name}/{container['name']}",
            [*command, *told, *arguments],
            home / f"{container['name']}.log",
            variables,
        )
        self.running.append(Container(process.start()))
        return self.running[-1]

    def stop(self) -> None:
        for container in reversed(self.running):
            container.process.stop()

    def _local(self, text: str, mounts: Mapping[str, str]) -> str:
        """The text with names of services and mounted paths as they are on this machine."""
        text = TARGET.sub(lambda found: f"dns:///{self.targets[found[1]]}", text)
        files = {path: folder for path, folder in mounts.items() if path.startswith("/etc/")}
        if not files:
            return text
        longest_first = "|".join(map(re.escape, sorted(files, key=len, reverse=True)))
        return re.sub(rf"({longest_first})(?=[/\"]|$)", lambda found: files[found[1]], text)

    def _mounts(self, home: Path, pod: Manifest, container: Manifest) -> dict[str, str]:
        """Mounted path → the folder or file that stands for it, filled; names in texts of ConfigMaps are rewritten."""
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {
            mount["mountPath"]: str(home / "volumes" / mount["name"] / mount.get("subPath", ""))
            for mount in container["volumeMounts"]
        }
        for name in {mount["name"] for mount in container["volumeMounts"]}:
            folder, volume = home / "volumes" / name, volumes[name]
            folder.mkdir(parents=True, exist_ok=True)
            if "secret" in volume:
                secret = self.secrets[volume["secret"]["secretName"]]
                for item in volume["secret"].get("items", [{"key": key, "path": key} for key in secret]):
                    (folder / item["path"]).write_bytes(secret[item["key"]])
            elif "configMap" in volume:
                for key, text in self.config_maps[volume["configMap"]["name"]].items():
                    (folder / key).write_text(self._local(text, mounts))
        return mounts

    def _environment(self, container: Manifest) -> dict[str, str]:
        found = {}
        for variable in container["env"]:
            if "value" in variable:
                found[variable["name"]] = variable["value"]
                continue
            reference = variable["valueFrom"]["secretKeyRef"]
            keys = self.secrets[reference["name"]]
            if reference["key"] in keys:
                found[variable["name"]] = keys[reference["key"]].decode()
            else:
                assert reference.get("optional"), f"the pod would wait for {reference}"
        return found


@dataclass
class Container:
    """A process with its restarts."""

    process: LocalProcess
    restarts: int = 0

    def kill(self) -> None:
        """SIGKILL to every process of the container at once, as when its memory limit is passed."""
        for pid in (self.process.pid, *descendants(self.process.pid)):
            os.kill(pid, signal.SIGKILL)

    @property
    def log(self) -> str:
        assert self.process.log is not None
        return self.process.log.read_text()

    def until(self, condition: Callable[[], bool], deadline_s: float) -> None:
        """Return once the condition holds; fails if the process ends or the time is over first."""
        deadline = time.monotonic() + deadline_s
        while not condition():
            assert self.process.poll() is None, self.log[-2000:]
            assert time.monotonic() < deadline, self.log[-2000:]
            time.sleep(0.02)

    def restart_on_failure(self) -> bool:
        """Start it again in the same environment if it has failed; whether it has ended well."""
        status = self.process.poll()
        if status:
            self.restarts += 1
            self.process.stop()
            time.sleep(RESTART_PAUSE_S)
            self.process.start()
        return status == 0


def deploy(node: Node, manifests: Sequence[Manifest]) -> None:
    """Run every Deployment of a rendered chart, the called before their callers; returns when all serve."""
    for manifest in manifests:
        if manifest["kind"] == "ConfigMap":
            node.config_maps[manifest["metadata"]["name"]] = manifest["data"]
    deployments = [manifest for manifest in manifests if manifest["kind"] == "Deployment"]
    services = [manifest for manifest in manifests if manifest["kind"] == "Service"]

    def calls_others(deployment: Manifest) -> bool:
        return bool(TARGET.search(node.config_maps[deployment["metadata"]["name"]]["config.json"]))

    for callers in (False, True):
        started = [
            (deployment, _serve(node, deployment)) for deployment in deployments if calls_others(deployment) == callers
        ]
        for deployment, (container, ports) in started:
            _publish(node, deployment, services, {name: _address(container, file) for name, file in ports.items()})


def _serve(node: Node, deployment: Manifest) -> tuple[Container, dict[str, Path]]:
    """One replica on free ports, and the files in which it will say which."""
    name, pod = deployment["metadata"]["name"], deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"] for port in container["ports"]}
    files = {port: node.folder / f"{name}.{port}" for port in ports & {"grpc", "grpc-admin"}}
    arguments = ["--listen=127.0.0.1:0", f"--address-file={files['grpc']}", "--metrics-port=0"]
    if "grpc-admin" in files:
        arguments += ["--set=admin.listen=127.0.0.1:0", f"--set=admin_address_file={files['grpc-admin']}"]
    if "health_listen" in node.config_maps[name]["config.json"]:
        arguments.append("--set=server.health_listen=127.0.0.1:0")
    return node.start(name, pod, container, arguments=arguments), files


def _address(container: Container, file: Path) -> str:
    container.until(file.exists, START_S)
    return file.read_text().strip()


def _publish(node: Node, deployment: Manifest, services: Sequence[Manifest], addresses: Mapping[str, str]) -> None:
    """Enter the names of the Services that select this Deployment's pods."""
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    for service in services:
        if service["spec"]["selector"].items() <= labels:
            place = service["metadata"]
            for port in service["spec"]["ports"]:
                if port["targetPort"] in addresses:
                    name = f"{place['name']}.{place.get('namespace', 'default')}.svc:{port['port']}"
                    node.targets[name] = f"localhost:{addresses[port['targetPort']].rpartition(':')[2]}"


def run_pytorch_job(node: Node, job: Manifest, port: int) -> list[Container]:
    """The containers of all pods of a PyTorchJob, in the environment that training-operator sets; rank 0's first."""
    replicas = job["spec"]["pytorchReplicaSpecs"]
    pods = [
        (f"{job['metadata']['name']}-{kind.lower()}-{number}", replica["template"]["spec"])
        for kind, replica in replicas.items()
        for number in range(replica["replicas"])
    ]
    started: list[Container] = []
    for rank, (name, pod) in enumerate(pods):
        if rank == 1:
            # On one machine every launcher takes itself for the one that the address names: the first is the master's.
            started[0].until(lambda: _listening(port), START_S)
        operator = {
            "PYTHONUNBUFFERED": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(len(pods)),
            "RANK": str(rank),
            "PET_NNODES": str(len(pods)),
            "PET_NPROC_PER_NODE": job["spec"]["nprocPerNode"],
            "PET_NODE_RANK": str(rank),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
        }
        # The operator sets it in every container of a pod, the producer's too.
        started += [node.start(name, pod, container, operator=operator) for container in pod["containers"]]
    return started


def _listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def run_indexed_job(node: Node, job: Manifest) -> list[Container]:
    """The container of each index, with the variable that the Job controller sets."""
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return [
        node.start(f"{job['metadata']['name']}-{index}", pod, container, operator={"JOB_COMPLETION_INDEX": str(index)})
        for index in range(job["spec"]["completions"])
    ]


def finish(containers: Sequence[Container], deadline_s: float) -> None:
    """Until all have ended well, restarting what fails, as `restartPolicy: OnFailure` has it."""
    deadline = time.monotonic() + deadline_s
    while True:
        ended = [container.restart_on_failure() for container in containers]
        if all(ended):
            return
        assert time.monotonic() < deadline, "\n".join(container.log[-1500:] for container in containers)
        time.sleep(0.1)


def descendants(pid: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            child = int(entry.parent.name)
            yield child
            yield from descendants(child)


def _expand(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` of known variables, and `$$` as `$`, as the kubelet reads arguments."""
    return re.sub(
        r"\$\$|\$\(([A-Za-z_]\w*)\)",
        lambda found: "$" if found[0] == "$$" else environment.get(found[1], found[0]),
        text,
    )


def _entry_point(image: str) -> list[str]:
    name = image.rpartition("/")[2].partition(":")[0].partition("@")[0]
    lines = (SERVICES / name / "Dockerfile").read_text().splitlines()
    command: list[str] = json.loads(
        next(line for line in lines if line.startswith("ENTRYPOINT ")).removeprefix("ENTRYPOINT ")
    )
    return command
