"""The state of a job, read from what its operator wrote into it: one vocabulary over three operators.

Pure reading of objects; no calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SUCCEEDED, FAILED, RUNNING, SUSPENDED, PENDING = "Succeeded", "Failed", "Running", "Suspended", "Pending"

CONDITIONS = {"Succeeded": SUCCEEDED, "Complete": SUCCEEDED, "Failed": FAILED, "Suspended": SUSPENDED}
"""What a condition means, the first that holds; Kubeflow v1 says Succeeded, Trainer v2 and batch say Complete."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job at one moment."""

    name: str
    kind: str
    """PyTorchJob, TrainJob or Job."""
    run: str
    state: str
    """Pending, Suspended, Running, Restarting, Succeeded or Failed."""
    message: str
    created: str
    """RFC 3339; empty where the server gives none."""
    trouble: tuple[str, ...] = ()
    """What keeps pods from running, one line a pod."""

    @property
    def ended(self) -> bool:
        return self.state in (SUCCEEDED, FAILED)


def read_status(kind: str, job: dict[str, Any], *, trouble: tuple[str, ...] = ()) -> JobStatus:
    """The status of an object as the API server gives it."""
    metadata, status = job["metadata"], job.get("status") or {}
    state, message = _state(status)
    return JobStatus(
        name=metadata["name"],
        kind=kind,
        run=(metadata.get("labels") or {}).get("vigorl.dev/run", ""),
        state=state,
        message=message,
        created=metadata.get("creationTimestamp") or "",
        trouble=trouble,
    )


def pod_trouble(pods: Iterable[Any]) -> tuple[str, ...]:
    """Why pods of the official client's model do not run: no node, no image, no secret, out of memory."""
    found = []
    for pod in pods:
        found += [
            f"{pod.metadata.name}: {condition.reason}: {condition.message}"
            for condition in pod.status.conditions or []
            if condition.type == "PodScheduled" and condition.status == "False"
        ]
        for container in pod.status.container_statuses or []:
            waiting, ended = container.state.waiting, container.state.terminated or container.last_state.terminated
            if waiting is not None and waiting.reason not in ("ContainerCreating", "PodInitializing"):
                found.append(
                    f"{pod.metadata.name}/{container.name}: {waiting.reason}: {waiting.message or ''}".rstrip(": ")
                )
            if ended is not None and ended.exit_code:
                found.append(
                    f"{pod.metadata.name}/{container.name}: ended with exit code {ended.exit_code} ({ended.reason})"
                )
    return tuple(found)


def _state(status: dict[str, Any]) -> tuple[str, str]:
    holding = {c["type"]: c.get("message", "") for c in status.get("conditions") or [] if c.get("status") == "True"}
    for condition, state in CONDITIONS.items():
        if condition in holding:
            return state, holding[condition]
    for state in ("Restarting", RUNNING):
        if state in holding:
            return state, holding[state]
    # Trainer v2 and batch have no condition for it: pods that are under way say so.
    active = status.get("active") or sum(part.get("active", 0) for part in status.get("jobsStatus") or [])
    return (RUNNING, "") if active else (PENDING, holding.get("Created", ""))
