"""`vigorl jobs`: training, search and evaluation as jobs on a cluster."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import click
import yaml

from vigorl_lib.cli.common import resolve
from vigorl_lib.config import load
from vigorl_lib.errors import ConfigError
from vigorl_lib.jobs.explain import ClusterError
from vigorl_lib.jobs.manifests import Api, manifests
from vigorl_lib.jobs.pods import Manifest
from vigorl_lib.jobs.spec import JOBS, JobSpec, Kind
from vigorl_lib.recipes.schema import RECIPES, Recipe

if TYPE_CHECKING:
    from vigorl_lib.jobs.cluster import Cluster
    from vigorl_lib.jobs.status import JobStatus


@click.group()
@click.option("-n", "--namespace", help="Namespace; by default the job description's, or `default`.")
@click.option("--context", help="Context of the kubeconfig.")
@click.pass_context
def jobs(ctx: click.Context, namespace: str | None, context: str | None) -> None:
    """Jobs on a cluster: render, submit, list, status, logs, cancel."""
    ctx.obj = (namespace, context)


def job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Argument KIND and the options that describe a job; the command gets `spec` and `api`."""

    @click.argument("kind", type=click.Choice(get_args(Kind)))
    @click.option("--recipe", "recipe_name", help="Name or YAML file; by default quickstart-KIND.")
    @click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one key of the recipe.")
    @click.option("--root", help="Storage root: s3://bucket/prefix.")
    @click.option("--run-id", required=True, help="Name of the run; the same name continues it.")
    @click.option("--job", "job_file", default="job", help="YAML file that describes the job (image, GPUs, queue, …).")
    @click.option("--job-set", multiple=True, metavar="KEY=VALUE", help="Override one key of the job, e.g. gpus=8.")
    @click.option("--api", type=click.Choice(get_args(Api)), default="pytorchjob", show_default=True)
    @functools.wraps(command)
    def wrapped(
        kind: str,
        recipe_name: str | None,
        overrides: tuple[str, ...],
        root: str | None,
        run_id: str,
        job_file: str,
        job_set: tuple[str, ...],
        api: Api,
        **rest: Any,
    ) -> None:
        name = recipe_name or f"quickstart-{kind}"
        recipe = resolve(name, overrides, root=root, run_id=run_id).model_dump(mode="json")
        base = name if (RECIPES / f"{name}.yaml").is_file() else f"quickstart-{kind}"
        packaged = load(Recipe, base, folder=RECIPES, environment={}).model_dump(mode="json")
        unchanged = [section for section, values in recipe.items() if packaged[section] == values]
        chosen = click.get_current_context().obj[0]
        namespace = (f"namespace={chosen}",) if chosen else ()
        told = {"kind": kind, "run": run_id, "recipe": recipe, "base": base, "unchanged": unchanged}
        # The environment's VIGORL_* settings are the recipe's, not the job's.
        settings = (*job_set, *namespace, *(f"{key}={json.dumps(value)}" for key, value in told.items()))
        spec = load(JobSpec, job_file, folder=JOBS, overrides=settings, environment={})
        # YAML reads JSON's 1e-05 as text; these are the exact numbers.
        command(click.get_current_context(), spec=spec.model_copy(update={"recipe": recipe}), api=api, **rest)

    return wrapped


@jobs.command()
@job_options
def render(ctx: click.Context, spec: JobSpec, api: Api) -> None:
    """Print the YAML that `kubectl create -f -` takes."""
    click.echo(to_yaml(manifests(spec, api=api)), nl=False)


@jobs.command()
@click.option("--dry-run", type=click.Choice(["none", "client", "server"]), default="none", help="As kubectl's.")
@click.option("--watch", is_flag=True, help="Follow the job's state to its end.")
@job_options
def submit(ctx: click.Context, spec: JobSpec, api: Api, dry_run: str, watch: bool) -> None:
    """Submit a job; refused while one of that run and stage is there."""
    objects = manifests(spec, api=api)
    if dry_run == "client":
        click.echo(to_yaml(objects), nl=False)
        return
    cluster = _cluster(ctx, spec.namespace)
    if dry_run == "server":
        checked = cluster.check(objects)
        click.echo(f"{checked['kind']} {spec.name}: the cluster would take it (nothing was made)")
        return
    cluster.submit(objects)
    click.echo(f"{objects[-1]['kind']} {spec.name} created in namespace {spec.namespace}")
    if watch:
        _follow(cluster, spec.name)


@jobs.command("list")
@click.pass_context
def list_(ctx: click.Context) -> None:
    """List the jobs of the namespace."""
    rows = [(s.name, s.kind, s.run, s.state, s.created) for s in _cluster(ctx).jobs()]
    for row in [("NAME", "KIND", "RUN", "STATE", "CREATED"), *rows]:
        click.echo("{:<40} {:<11} {:<24} {:<10} {}".format(*row).rstrip())


@jobs.command()
@click.argument("name")
@click.option("--watch", is_flag=True, help="Follow the state to the job's end.")
@click.pass_context
def status(ctx: click.Context, name: str, watch: bool) -> None:
    """Show a job's state, and what keeps its pods from running."""
    cluster = _cluster(ctx)
    if watch:
        _follow(cluster, name)
        return
    _show(cluster.status(name))


@jobs.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the container ends.")
@click.option("--container", help="Container, for example producer.")
@click.option("--pod", help="Pod; by default the first one.")
@click.pass_context
def logs(ctx: click.Context, name: str, follow: bool, container: str | None, pod: str | None) -> None:
    """Print a job's log."""
    for line in _cluster(ctx).logs(name, container=container, pod=pod, follow=follow):
        click.echo(line)


@jobs.command()
@click.argument("name")
@click.pass_context
def cancel(ctx: click.Context, name: str) -> None:
    """End a job and its pods; its run keeps what it wrote."""
    kind = _cluster(ctx).cancel(name)
    click.echo(f"{kind} {name} deleted; submit it again and it continues from its last checkpoint")


def to_yaml(objects: list[Manifest]) -> str:
    """All objects of a job as one stream of YAML documents."""
    return yaml.dump_all(objects, Dumper=_Plain, explicit_start=True, sort_keys=False, width=4096)


class _Plain(yaml.SafeDumper):
    """Without anchors, which a reader of a manifest does not expect."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _cluster(ctx: click.Context, namespace: str = "default") -> Cluster:
    try:
        from vigorl_lib.jobs.cluster import Cluster

        return Cluster.open(ctx.obj[0] or namespace, context=ctx.obj[1])
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed; `pip install 'vigorl[k8s]'` brings it", reason="EXTRA_MISSING"
        ) from None


def _follow(cluster: Cluster, name: str) -> None:
    for status in cluster.watch(name):
        _show(status)
    if status.state == "Failed":
        raise ClusterError(f"{name} failed; `vigorl jobs logs {name}` shows why", reason="JOB_FAILED", name=name)


def _show(status: JobStatus) -> None:
    click.echo(f"{status.kind} {status.name}: {status.state}" + (f": {status.message}" if status.message else ""))
    for line in status.trouble:
        click.echo(f"  {line}")
