"""`vigorl up`: the four services as local processes, until Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from vigorl_lib.jobs.local import Services


@click.command()
@click.option(
    "--policy", "model", required=True, type=click.Path(exists=True, file_okay=False), help="Checkpoint folder."
)
@click.option("--name", default="student", show_default=True, help="Name that the policy answers to.")
@click.option("--root", default="runs/up", show_default=True, help="Storage root of the services.")
@click.option("--port", default=0, show_default=True, help="Port of the search service; 0 takes a free one.")
def up(model: str, name: str, root: str, port: int) -> None:
    """Start the services on this machine and print their addresses."""
    from vigorl_lib.jobs.local import Services

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with Services(Path(root) / "services") as services:
        policy = {"policy": {"name": name, "engine": "transformers", "model": model}, "root": root}
        start_services(services, {name: policy}, root=root, search_listen=f"127.0.0.1:{port}")
        for service, address in services.addresses.items():
            click.echo(f"{service:<18} {address}")
        click.echo(f"ask: vigorl solve --target {services.addresses['search']} --image FILE --question TEXT")
        services.wait()


@contextmanager
def running_services(folder: Path, policies: dict[str, dict[str, Any]], *, root: str) -> Iterator[dict[str, Any]]:
    """The services for as long as the block runs, as a `services` section."""
    from vigorl_lib.jobs.local import Services

    with Services(folder) as services:
        yield start_services(services, policies, root=root)


def start_services(
    services: Services, policies: dict[str, dict[str, Any]], *, root: str, search_listen: str = "127.0.0.1:0"
) -> dict[str, Any]:
    """Start environment, reward, the policies and search, wait until all serve, and return a `services` section."""
    services.launch("environment", "environment", {"root": root})
    services.launch("reward", "reward", {"root": root})
    for name, config in policies.items():
        services.launch(f"policy-{name}", "policy", config)
    targets = {
        "policies": {name: services.wait_ready(f"policy-{name}") for name in policies},
        "environment": services.wait_ready("environment"),
        "reward": services.wait_ready("reward"),
    }
    services.launch("search", "search", {"root": root, "services": targets}, listen=search_listen)
    return {**targets, "search": services.wait_ready("search")}
