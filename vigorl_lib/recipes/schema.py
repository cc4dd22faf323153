"""The schema of a recipe: the sections of all rooms under one roof, and what a run is called."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vigorl_lib.config import Section
from vigorl_lib.evaluation.config import EvaluationConfig
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.rollout.wiring import ServicesConfig
from vigorl_lib.search.config import LinearizeConfig, SearchConfig
from vigorl_lib.training.config import GrpoConfig, SftConfig
from vigorl_lib.training.trackers import TrackerName

RECIPES = Path(__file__).parent
"""Folder of the recipes that come with the package."""


class DatasetConfig(Section):
    """The data set that a stage reads."""

    name: str = "visual-search"
    split: str = "train"


class SyntheticConfig(Section):
    """How many synthetic scenes each split gets, and how many captions."""

    train: int = Field(default=2000, ge=0)
    validation: int = Field(default=100, ge=0)
    test: int = Field(default=600, ge=0)
    captions: int = Field(default=8000, ge=0)


class ModelConfig(Section):
    """The model that a recipe is made for, so that it can be checked without the model; 0 where it is not said.

    Numbers are those of the language model in its config.json; nothing is built from them.
    """

    name: str = ""
    max_pixels: int = Field(default=0, ge=0)
    """Area of the largest model view, pixels: what preprocessor_config.json of the model must say."""
    max_length: int = Field(default=0, ge=0)
    """Tokens of the longest conversation that the policy serves."""
    layers: int = Field(default=0, ge=0)
    hidden: int = Field(default=0, ge=0)
    intermediate: int = Field(default=0, ge=0)
    heads: int = Field(default=0, ge=0)
    kv_heads: int = Field(default=0, ge=0)
    vocabulary: int = Field(default=0, ge=0)
    tied: bool = False
    """Whether the output weights are the embedding."""
    vision_parameters: int = Field(default=0, ge=0)
    """Of the tower and its projector."""


class HardwareConfig(Section):
    """The accelerators of the training job that a recipe is made for; 0 where it is not said."""

    gpus: int = Field(default=0, ge=0)
    """Ranks of the trainer; policies have GPUs of their own."""
    gpu_memory_gib: float = Field(default=0.0, ge=0.0)


class Recipe(Section):
    """One run. Stages read the sections that concern them."""

    name: str = ""
    seed: int = Field(default=0, ge=0)
    root: str = "runs/default"
    """Storage: a folder or s3://bucket/prefix."""
    run_id: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The same id continues the same run."""
    policy: str = "student"
    """Name of the policy that this run drives."""
    trackers: tuple[TrackerName, ...] = ()
    """Where the metrics of training are shown besides: tensorboard, wandb, mlflow."""
    model: ModelConfig = ModelConfig()
    hardware: HardwareConfig = HardwareConfig()
    dataset: DatasetConfig = DatasetConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    task: TaskConfig = TaskConfig()
    reward: RewardConfig = RewardConfig()
    services: ServicesConfig = ServicesConfig()
    search: SearchConfig = SearchConfig()
    linearize: LinearizeConfig = LinearizeConfig()
    sft: SftConfig = SftConfig()
    grpo: GrpoConfig = GrpoConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
