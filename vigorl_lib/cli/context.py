"""`vigorl context`: the installations that this user talks to, by name, and how to reach one for once by options.

The file and its meaning are in `vigorl_lib.rollout.contexts`; this is what a user types.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from vigorl_lib.config import validate
from vigorl_lib.rollout.contexts import contexts_path, read_contexts, told, write_contexts
from vigorl_lib.rollout.wiring import ServicesConfig

SERVICES = ("search", "evaluation", "environment", "reward")
_POLICIES = "policies"
_ADMIN = "policy_admin"


def client_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options `--target --tls --tls-ca … --token-file`; the command gets them as `reach`, plain `services` values."""

    file = click.Path(exists=True, dir_okay=False, path_type=Path)

    @click.option(
        "--target",
        "targets",
        multiple=True,
        metavar="[SERVICE=]HOST:PORT",
        help="Address of the search service, or of SERVICE: evaluation, environment, reward, policies.NAME.",
    )
    @click.option("--tls", is_flag=True, help="Speak TLS; the public authorities are believed.")
    @click.option("--tls-ca", type=file, help="PEM file of the servers' authority; TLS then.")
    @click.option("--tls-certificate", type=file, help="PEM file of one's own certificate (mTLS).")
    @click.option("--tls-key", type=file, help="PEM file of its key.")
    @click.option("--authority", help="Name in the servers' certificates, where it is not the target's.")
    @click.option("--token-file", type=file, help="File with the bearer token; otherwise $VIGORL_AUTH__TOKEN.")
    @functools.wraps(command)
    def wrapped(
        targets: tuple[str, ...],
        tls: bool,
        tls_ca: Path | None,
        tls_certificate: Path | None,
        tls_key: Path | None,
        authority: str | None,
        token_file: Path | None,
        **rest: Any,
    ) -> None:
        files = {"tls_ca": tls_ca, "tls_certificate": tls_certificate, "tls_key": tls_key, "token_file": token_file}
        client = {key: str(path.absolute()) for key, path in files.items() if path is not None}
        settings: dict[str, Any] = {**client, **({"tls": True} if tls else {})}
        if authority:
            settings["authority"] = authority
        command(reach={**_addresses(targets), **({"client": settings} if settings else {})}, **rest)

    return wrapped


def laid_over(base: ServicesConfig, reach: Mapping[str, Any]) -> ServicesConfig:
    """A services section with plain values of `client_options` over it. Raises ConfigError (RECIPE_INVALID)."""
    values = told(base)
    both = {key: {**values.get(key, {}), **value} if isinstance(value, dict) else value for key, value in reach.items()}
    return validate(ServicesConfig, {**values, **both}, source="options")


@click.group()
def context() -> None:
    """Installations by name: set, use, list, show, remove. VIGORL_CONTEXTS names another file for them."""


@context.command("set")
@click.argument("name")
@client_options
def set_(name: str, reach: dict[str, Any]) -> None:
    """Write the context NAME; one of that name is replaced. The first one is used at once."""
    if not reach.keys() - {"client"}:
        raise click.UsageError("--target HOST:PORT is missing: where is the search service, or an ingress before it?")
    made = laid_over(ServicesConfig(), reach)
    path = contexts_path()
    contexts = read_contexts(path).put(name, made)
    write_contexts(path, contexts)
    click.echo(f"{name} written to {path}" + (", and in use" if contexts.current == name else ""))
    if made.client.token_file is not None and not made.client.speaks_tls:
        click.echo("the token will go over the wire unencrypted: there is neither --tls-ca nor --tls", err=True)


@context.command()
@click.argument("name")
def use(name: str) -> None:
    """Make NAME the context of commands that are given none."""
    path = contexts_path()
    write_contexts(path, read_contexts(path).use(name))
    click.echo(f"{name} is in use")


@context.command("list")
def list_() -> None:
    """List the contexts; the one in use has a star."""
    contexts = read_contexts(contexts_path())
    for name, services in sorted(contexts.contexts.items()):
        star = "*" if name == contexts.current else " "
        click.echo(f"{star} {name:<20} {' '.join(_lines(services))}".rstrip())


@context.command()
@click.argument("name", required=False)
def show(name: str | None) -> None:
    """Show the context NAME, or the one in use; of a token, only where it is."""
    click.echo(yaml.safe_dump(told(read_contexts(contexts_path()).get(name)), sort_keys=False), nl=False)


@context.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget the context NAME."""
    path = contexts_path()
    write_contexts(path, read_contexts(path).remove(name))
    click.echo(f"{name} removed")


def _addresses(targets: tuple[str, ...]) -> dict[str, Any]:
    """`[SERVICE=]HOST:PORT` as keys of a services section."""
    found: dict[str, Any] = {}
    for target in targets:
        service, separator, address = target.rpartition("=")
        service = service if separator else "search"
        group, _, name = service.partition(".")
        _check(target, address, known=service in SERVICES or (group in (_POLICIES, _ADMIN) and bool(name)))
        if name:
            found.setdefault(group, {})[name] = address
        else:
            found[service] = address
    return found


def _check(target: str, address: str, *, known: bool) -> None:
    if not known:
        services = ", ".join((*SERVICES, f"{_POLICIES}.NAME", f"{_ADMIN}.NAME"))
        raise click.BadParameter(f"{target!r}: a target is SERVICE=HOST:PORT, SERVICE one of {services}")
    for one in address.split(","):
        host, _, port = one.strip().removeprefix("dns:///").rpartition(":")
        if not host or not port.isdigit() or "/" in host:
            raise click.BadParameter(f"{target!r}: expected HOST:PORT without a scheme, for example localhost:50051")


def _lines(services: ServicesConfig) -> list[str]:
    addresses = [f"{name}={address}" for name, address in told(services).items() if isinstance(address, str)]
    return addresses + [f"policies.{name}={address}" for name, address in services.policies.items()]
