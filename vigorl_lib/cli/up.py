"""`vigorl up`: the services as local processes, until Ctrl-C."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from vigorl_lib.jobs.local import Services


engine_option = click.option(
    "--engine",
    type=click.Choice(["transformers", "vllm"]),
    default="transformers",
    show_default=True,
    help="What runs the policy's model.",
)


def local_engine(engine: str) -> dict[str, Any]:
    """Settings of a policy's engine that fit a small model on this machine."""
    if engine == "vllm":
        return {"engine": engine, "vllm": {"compile": False}}
    return {"engine": engine}


@click.command()
@click.option(
    "--policy", "model", required=True, type=click.Path(exists=True, file_okay=False), help="Checkpoint folder."
)
@engine_option
@click.option("--name", default="student", show_default=True, help="Name that the policy answers to.")
@click.option("--trainable-by", default="", help="Run and stage that may update its weights, e.g. quickstart/grpo.")
@click.option("--teacher", "dataset", help="Serve the scripted teacher, too, for this data set of --root.")
@click.option("--root", default="runs/quickstart", show_default=True, help="Storage root of the services.")
@click.option("--port", default=0, show_default=True, help="Port of the search service; 0 takes a free one.")
def up(model: str, engine: str, name: str, trainable_by: str, dataset: str | None, root: str, port: int) -> None:
    """Start the services on this machine, print their addresses, and keep them up until Ctrl-C."""
    from vigorl_lib.jobs.local import Services

    own: dict[str, Any] = {**local_engine(engine), "name": name, "model": model, "trainable_by": trainable_by}
    if trainable_by:
        own["weights_root"] = f"{root}/runs/{trainable_by}/weights"
    policies = {name: own}
    if dataset:
        scripted = {"root": root, "dataset": dataset}
        policies["scripted-teacher"] = {
            "name": "scripted-teacher",
            "engine": "scripted",
            "model": model,
            "scripted": scripted,
        }
    configs = {key: {"policy": policy, "root": root} for key, policy in policies.items()}
    with Services(Path(root) / "services") as services:
        section = start_services(services, configs, root=root, search_listen=f"127.0.0.1:{port}")
        for service, address in services.addresses.items():
            click.echo(f"{service:<24} {address}")
        click.echo(f"\nfor other commands: --set 'services={json.dumps(section)}'")
        click.echo(
            f"to ask: vigorl solve --target {section['search']} --set policy={name} --image FILE --question TEXT"
        )
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
    """Start all services with these policies, wait until they serve, and return a `services` section."""
    services.launch("environment", "environment", {"root": root})
    services.launch("reward", "reward", {"root": root})
    admin = {name: services.folder / f"policy-{name}.admin" for name in policies}
    for name, config in policies.items():
        admin[name].unlink(missing_ok=True)
        services.launch(f"policy-{name}", "policy", {**config, "admin_address_file": str(admin[name])})
    targets = {
        "policies": {name: services.wait_ready(f"policy-{name}") for name in policies},
        # Only a policy that a run may train listens there.
        "policy_admin": {name: path.read_text().strip() for name, path in admin.items() if path.exists()},
        "environment": services.wait_ready("environment"),
        "reward": services.wait_ready("reward"),
    }
    services.launch("search", "search", {"root": root, "services": targets}, listen=search_listen)
    services.launch("evaluation", "evaluation", {"root": root, "services": targets})
    return {**targets, **{name: services.wait_ready(name) for name in ("search", "evaluation")}}
