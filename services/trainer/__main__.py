"""Training processes: `python -m vigorl_services.trainer sft|grpo|producer --recipe NAME --set key=value`.

The same command under torchrun, PyTorchJob, TrainJob (ranks from their environment) or alone (one rank). A
stage writes below `runs/<run id>/<stage>`; the same command again continues it. SIGTERM ends a stage between two
steps, with a checkpoint and status 0. The producer is one process a GRPO run, needs no torch, and runs beside the
learner.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

from vigorl_lib.config import load
from vigorl_lib.data.datasets import read_dataset
from vigorl_lib.domain.example import Example
from vigorl_lib.errors import ConfigError, DataError, VigorlError
from vigorl_lib.recipes.schema import RECIPES, Recipe
from vigorl_lib.rollout.wiring import connect
from vigorl_lib.rpc.logs import setup_logging
from vigorl_lib.rpc.loop import run_loop
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.patient import PatientStorage
from vigorl_lib.storage.run_config import write_run_config
from vigorl_lib.training.trackers import tracking

log = logging.getLogger("vigorl.trainer")


def sft(recipe: Recipe, layout: RunLayout) -> None:
    from vigorl_lib.training.sft import train_sft

    with tracking(recipe.trackers, layout) as on_step:
        model = train_sft(recipe.sft, storage=layout.storage, run_id=layout.run_id, seed=recipe.seed, on_step=on_step)
    log.info("model: %s", model)


def grpo(recipe: Recipe, layout: RunLayout) -> None:
    from vigorl_lib.training.grpo import train_grpo
    from vigorl_lib.training.transfer import WeightSender

    backend = recipe.grpo.weight_transfer
    sender = None if backend == "none" else WeightSender(recipe.services, recipe.policy, backend, layout.run_id)
    with tracking(recipe.trackers, layout) as on_step:
        model = train_grpo(
            recipe.grpo,
            task=recipe.task,
            storage=layout.storage,
            run_id=layout.run_id,
            sender=sender,
            on_step=on_step,
        )
    log.info("model: %s", model)


def producer(recipe: Recipe, layout: RunLayout) -> None:
    run_loop(_produce(recipe, layout))


async def _produce(recipe: Recipe, layout: RunLayout) -> None:
    from vigorl_lib.training.producer import Producer

    images = ImageStore(layout.storage)
    source = recipe.dataset
    examples = read_dataset(layout.storage, images, source.name, source.split, with_images=False)
    validation: list[Example] = []
    if recipe.grpo.validation.every:
        found = read_dataset(layout.storage, images, source.name, recipe.grpo.validation.split, with_images=False)
        validation = found[: recipe.grpo.validation.examples]
    async with connect(recipe.services, recipe.policy) as wired:
        await Producer(
            recipe.grpo,
            recipe.task,
            recipe.reward,
            wired,
            examples=examples,
            layout=layout,
            images=images,
            seed=recipe.seed,
            validation=validation,
        ).run()


COMMANDS = {"sft": (sft, "sft"), "grpo": (grpo, "grpo"), "producer": (producer, "grpo")}
"""Command → what it does and the stage that it works on by default."""


def _train(work: Callable[[Recipe, RunLayout], None], recipe: Recipe, layout: RunLayout) -> None:
    """Work until the stage is done, or SIGTERM ends it between two steps; both are a good end."""
    from vigorl_lib.training.ranks import StageStopped

    write_run_config(layout, recipe.model_dump(mode="json"))
    try:
        work(recipe, layout)
    except StageStopped as stopped:
        log.info("%s", stopped.message)


def _layout(recipe: Recipe, stage: str) -> RunLayout:
    """Where the stage lies. Raises StorageError at once where storage is not there; later outages are waited out."""
    storage = open_storage(recipe.root)
    storage.check()
    return RunLayout(PatientStorage(storage), f"{recipe.run_id}/{stage}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vigorl_services.trainer", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--recipe", required=True, help="name of a recipe, or a YAML file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--stage", help="name of the stage within the run; by default sft or grpo")
    parser.add_argument("--log-level", default="info")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    setup_logging(f"trainer-{arguments.command}", arguments.log_level)
    work, stage = COMMANDS[arguments.command]
    try:
        recipe = load(Recipe, arguments.recipe, folder=RECIPES, overrides=arguments.overrides)
        layout = _layout(recipe, arguments.stage or stage)
        if arguments.command == "producer":
            work(recipe, layout)
        else:
            _train(work, recipe, layout)
    except VigorlError as error:
        # The last line of the log is what whoever started this process shows.
        log.error("%s: %s", error.reason, error.message)
        return 2 if isinstance(error, ConfigError | DataError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
