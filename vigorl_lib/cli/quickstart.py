"""`vigorl quickstart`: the whole story as stages, each done once; killed at any moment, it continues.

It assembles the other commands and adds nothing of its own: every stage is a recipe that can be run
by hand. Services run as local processes for as long as a stage needs them.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from vigorl_lib.cli.common import recipe_options, resolve, run_async
from vigorl_lib.cli.up import engine_option, local_engine
from vigorl_lib.errors import ConfigError
from vigorl_lib.recipes.schema import RECIPES, Recipe

POLICIES = ("captions", "sft", "mix", "grpo")
"""Stages whose final models are measured, in the order in which they come from each other."""

TITLES = {
    "data": "draw synthetic scenes and captions",
    "model": "initialise the tiny model at random",
    "captions": "captions: give it eyes (DeepSpeed)",
    "search": "tree search with the scripted teacher",
    "linearize": "turn trees into chains",
    "sft": "fine-tune on chains that zoom (DeepSpeed)",
    "mix": "fine-tune on mostly direct answers: where GRPO starts",
    "student-search": "tree search with the fine-tuned student",
    "grpo": "multi-turn GRPO through the services",
    "evaluate": "measure",
    "report": "write the report",
}


@click.command()
@click.option("--setup-seconds", default=0.0, help="What the set-up took, to be told at the end.")
@click.option(
    "--stage-set",
    "stage_overrides",
    multiple=True,
    metavar="STAGE:KEY=VALUE",
    help="Override one key of one stage's recipe, e.g. captions:sft.steps=20.",
)
@engine_option
@recipe_options(default="quickstart")
def quickstart(recipe: Recipe, setup_seconds: float, stage_overrides: tuple[str, ...], engine: str) -> None:
    """The whole story on this machine, in one command."""
    _check(recipe)
    story = _Story(recipe, _by_stage(stage_overrides), engine)
    with _alone(Path(recipe.root)):
        story.claim()
        story.run()
    click.echo(story.summary(setup_seconds))


class _Story:
    def __init__(self, recipe: Recipe, overrides: dict[str, list[str]], engine: str) -> None:
        from vigorl_lib.jobs.stages import StageRunner
        from vigorl_lib.storage.base import open_storage

        self.recipe = recipe
        self.overrides = overrides
        self.engine = engine
        self.root = Path(recipe.root)
        self.storage = open_storage(recipe.root)
        self.stages = StageRunner(self.storage, f"runs/{recipe.run_id}", _announce)

    def claim(self) -> None:
        """Write what this run is made with, or refuse to continue one that was made with something else."""
        settings = {"recipe": self.recipe.model_dump(mode="json"), "stages": self.overrides, "engine": self.engine}
        key, data = f"runs/{self.recipe.run_id}/quickstart.json", json.dumps(settings, indent=2).encode()
        if not self.storage.create(key, data) and self.storage.read(key) != data:
            raise ConfigError(
                f"{self.root}: this run was begun with other settings ({key}); repeat those, or choose another --root",
                reason="RUN_DIFFERS",
            )

    def run(self) -> None:
        from vigorl_lib.cli.data import make_synthetic_data

        self._stage("data", partial(make_synthetic_data, self.recipe))
        self._stage("model", self._model)
        self._stage("captions", partial(self._sft, "captions"))
        self._stage("search", partial(self._search, "search", "scripted-teacher"))
        self._stage("linearize", self._linearize)
        self._stage("sft", partial(self._sft, "sft"))
        self._stage("mix", partial(self._sft, "mix"))
        self._stage("student-search", partial(self._search, "student-search", "student"))
        self._stage("grpo", self._grpo)
        for policy in POLICIES:
            self._stage(f"evaluate-{policy}", partial(self._evaluate, policy))
        self._stage("report", self._report)

    def summary(self, setup_seconds: float) -> str:
        """The table, the times and where the report is."""
        table = self.storage.read(f"runs/{self.recipe.run_id}/results.txt").decode()
        wall = sum(record.wall_s for record in self.stages.records)
        cpu = sum(record.cpu_s for record in self.stages.records)
        times = f"set-up {setup_seconds:.0f} s · run {wall:.0f} s wall, {cpu:.0f} s CPU"
        if self.stages.skipped:
            times += " (continued: what a killed attempt spent on an unfinished stage is not counted)"
        report = self.root / "runs" / self.recipe.run_id / "report.html"
        return f"\n{table}\n\n{times}\nreport: {report.resolve()}"

    def _stage(self, name: str, work: Callable[[], dict[str, float]]) -> None:
        self.stages.run(name, TITLES[name.split("-")[0] if name.startswith("evaluate") else name], work)

    def _recipe(self, name: str, **values: Any) -> Recipe:
        """A stage's recipe under this run's root and seed."""
        base = {"root": self.recipe.root, "seed": self.recipe.seed, **values}
        own = [f"{key}={json.dumps(value)}" for key, value in base.items()]
        return resolve(f"quickstart-{name}", (*own, *self.overrides.get(name, ())))

    def _model(self) -> dict[str, float]:
        from vigorl_lib.cli.programs import run_vigorl

        # A process of its own: this one stays free of torch.
        folder, log = self.root / "models" / "tiny", self.root / "logs" / "tiny-model.log"
        run_vigorl("data", "tiny-model", str(folder), "--seed", str(self.recipe.seed), log=log)
        return {}

    def _sft(self, stage: str) -> dict[str, float]:
        from vigorl_lib.cli.train import train_stage

        train_stage("sft", self._recipe(stage), stage=stage)
        return {}

    def _search(self, stage: str, policy: str) -> dict[str, float]:
        from vigorl_lib.cli.search import search_dataset

        with self._services({policy: self._policy(policy, "sft")}) as services:
            return run_async(search_dataset(self._recipe(stage, services=services)))

    def _linearize(self) -> dict[str, float]:
        from vigorl_lib.cli.linearize import linearize_run

        figures: dict[str, float] = {}
        for name, direct_share in (("zoom", 0.0), ("mix", 0.6)):
            recipe = self._recipe("search", **{"linearize.direct_share": direct_share})
            figures |= {f"{name}/{key}": value for key, value in linearize_run(recipe, name).items()}
        return figures

    def _grpo(self) -> dict[str, float]:
        from vigorl_lib.cli.train import train_stage

        run = f"{self.recipe.run_id}/grpo"
        policy = self._policy("student", "mix") | {
            "trainable_by": run,
            "weights_root": f"{self.recipe.root}/runs/{run}/weights",
        }
        with self._services({"student": policy}) as services:
            train_stage("grpo", self._recipe("grpo", services=services), stage="grpo")
        return {}

    def _evaluate(self, policy: str) -> dict[str, float]:
        from vigorl_lib.cli.evaluate import evaluate_policy
        from vigorl_lib.evaluation.metrics import accuracy

        with self._services({policy: self._policy(policy, policy)}) as services:
            cells = run_async(evaluate_policy(self._recipe("evaluate", services=services, policy=policy)))
        return {f"{mode}/accuracy": accuracy(records).value for (_, mode), records in cells.items()}

    def _report(self) -> dict[str, float]:
        from vigorl_lib.report.run import write_report

        write_report(self.storage, self.recipe, policies=POLICIES, stages=self.stages.records)
        return {}

    def _policy(self, name: str, model_stage: str) -> dict[str, Any]:
        """Settings of a local policy."""
        if name.startswith("scripted"):
            scripted = {"root": self.recipe.root, "dataset": self.recipe.dataset.name}
            model = str(self.root / "models" / "tiny")
            return {"name": name, "engine": "scripted", "model": model, "scripted": scripted}
        model = str(self.root / "runs" / self.recipe.run_id / model_stage / "model")
        return {
            **local_engine(self.engine),
            "name": name,
            "model": model,
            "max_batch": 128,
            "max_context_tokens": 1024,
        }

    def _services(self, policies: dict[str, dict[str, Any]]) -> Any:
        from vigorl_lib.cli.up import running_services

        configs = {name: {"policy": policy, "root": self.recipe.root} for name, policy in policies.items()}
        return running_services(self.root / "services", configs, root=self.recipe.root)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One quickstart in a folder at a time; the lock ends with its process, however that ends.

    A second one waits: whoever killed `make` may have left the first one running.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / "quickstart.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            click.echo(f"another quickstart is at work in {root}: waiting for it to end", err=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check(recipe: Recipe) -> None:
    """Stages have recipes of their own: refuse what would not reach them."""
    if "://" in recipe.root:
        raise ConfigError(
            f"--root: the quickstart keeps its run in a folder of this machine, found {recipe.root!r}",
            reason="ROOT_NOT_LOCAL",
        )
    known = {"root": recipe.root, "seed": recipe.seed, "synthetic": recipe.synthetic.model_dump()}
    same = resolve("quickstart", tuple(f"{key}={json.dumps(value)}" for key, value in known.items()))
    changed = [name for name in Recipe.model_fields if getattr(same, name) != getattr(recipe, name)]
    if changed:
        raise ConfigError(
            f"{changed[0]}: the quickstart takes --root and the keys seed and synthetic.*; "
            "set a stage's key with --stage-set STAGE:KEY=VALUE",
            reason="OVERRIDE_INVALID",
        )


def _by_stage(overrides: tuple[str, ...]) -> dict[str, list[str]]:
    """`stage:key=value` overrides by stage."""
    by_stage: dict[str, list[str]] = {}
    for override in overrides:
        stage, separator, assignment = override.partition(":")
        if not separator or not (RECIPES / f"quickstart-{stage}.yaml").is_file():
            stages = sorted(path.stem.removeprefix("quickstart-") for path in RECIPES.glob("quickstart-*.yaml"))
            raise ConfigError(
                f"--stage-set: expected STAGE:KEY=VALUE with a stage of {', '.join(stages)}, found {override!r}",
                reason="OVERRIDE_INVALID",
            )
        by_stage.setdefault(stage, []).append(assignment)
    return by_stage


def _announce(name: str, title: str) -> None:
    click.echo(click.style(f"▸ {name}", bold=True) + f"  {title}", err=True)
