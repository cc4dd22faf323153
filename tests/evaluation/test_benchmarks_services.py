"""Every benchmark's miniature end to end through the real services, asked in each of its ways."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.evaluation.benchmark_files import PER_BENCHMARK, write_benchmark_files
from tests.pictures import encoded
from tests.rollout.support import RESIZE, WordPolicy
from tests.services.conftest import serving
from vigorl_lib.cli.benchmark import evaluate_benchmarks
from vigorl_lib.cli.main import cli
from vigorl_lib.config import load
from vigorl_lib.data.datasets import find_manifest, read_dataset
from vigorl_lib.data.importers import import_folder
from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.geometry import Frame, FrameMap, Point
from vigorl_lib.domain.grammar import Answer, Zoom, render_turn
from vigorl_lib.domain.trajectory import Origin, Role, Segment
from vigorl_lib.domain.wire import ANSWER_CLOSE, ANSWER_OPEN, THINK_OPEN, TOOL_NAME
from vigorl_lib.errors import ConfigError, DataError, PolicyError
from vigorl_lib.evaluation.benchmarks import BENCHMARKS
from vigorl_lib.evaluation.benchmarks.importing import import_benchmark
from vigorl_lib.evaluation.benchmarks.table import HEADER, render_results, results_to_json
from vigorl_lib.evaluation.run import read_records
from vigorl_lib.models.tiny import build_tiny
from vigorl_lib.policy.config import PolicyConfig, ScriptedConfig
from vigorl_lib.recipes.schema import RECIPES, Recipe
from vigorl_lib.rollout.wiring import ServicesConfig
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import add_PolicyServiceServicer_to_server
from vigorl_lib.rpc.server import Service, registrar
from vigorl_lib.search.shards import ALL
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_services.environment.__main__ import EnvironmentServiceConfig
from vigorl_services.environment.__main__ import build as build_environment
from vigorl_services.evaluation.__main__ import EvaluationServiceConfig
from vigorl_services.evaluation.__main__ import build as build_evaluation
from vigorl_services.policy.__main__ import PolicyServiceConfig
from vigorl_services.policy.__main__ import build as build_policy
from vigorl_services.policy.server import PolicyServer
from vigorl_services.reward.__main__ import RewardServiceConfig
from vigorl_services.reward.__main__ import build as build_reward

TINY = "tiny"
SCRIPT = "scripted"
CONTEXT = 4096
ASKED = ["single_turn", "multi_turn", "direct"]

Say = Callable[[Example], str]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage with every benchmark."""
    files, root = tmp_path_factory.mktemp("published"), tmp_path_factory.mktemp("root")
    write_benchmark_files(files)
    for name, benchmark in BENCHMARKS.items():
        import_benchmark(open_storage(str(root)), benchmark, files / name)
    return root


@pytest.fixture(scope="module")
def examples(root: Path) -> dict[tuple[str, str], Example]:
    """All questions, by their first image and text; the same one may be in two benchmarks."""
    storage = open_storage(str(root))
    read = [
        example
        for name, benchmark in BENCHMARKS.items()
        for example in read_dataset(storage, ImageStore(storage), name, benchmark.split)
    ]
    return {(example.images[0].sha256, example.question): example for example in read}


def right(example: Example) -> str:
    """The answer, points in the model frame."""
    truth, size = example.truth, example.images[0].size
    if truth.kind is not AnswerKind.POINT:
        return truth.answer
    assert truth.box is not None
    corners = truth.region or (truth.box.center,)
    middle = Point(
        sum(corner.x for corner in corners) / len(corners),
        sum(corner.y for corner in corners) / len(corners),
        Frame.ORIGINAL,
    )
    point = FrameMap(size, RESIZE.model_size(size)).point(middle, Frame.MODEL)
    return f"({point.x:.2f}, {point.y:.2f})"


def wrong(example: Example) -> str:
    """An answer of the right kind that is not it."""
    match example.truth.kind:
        case AnswerKind.POINT:
            return "(0, 0)"
        case AnswerKind.CHOICE:
            return next(choice for choice in example.truth.choices if choice != example.truth.answer)
        case AnswerKind.ACTION:
            return "click [999]"
        case _:
            return "something else"


def unreadable(example: Example) -> str:
    return "I see (1, 2) and (3, 4), maybe"


class Script:
    """Says what `say` gives, in the form that the prompt asks for; zooms once where it can."""

    def __init__(self, examples: dict[tuple[str, str], Example], say: Say) -> None:
        self._examples, self._say = examples, say

    def __call__(self, prompt: Sequence[Segment], index: int) -> str:
        system, *rest = (message for segment in prompt[:1] for message in segment.messages)
        user = next(message for message in rest if message.role is Role.USER)
        answer = self._say(self._examples[user.images[0].sha256, user.text.strip()])
        if THINK_OPEN not in system.text:
            return f"{ANSWER_OPEN} {answer} {ANSWER_CLOSE}"
        turns = sum(segment.origin is Origin.POLICY for segment in prompt)
        if TOOL_NAME in system.text and not turns:
            return render_turn("A look (20, 20).", Zoom(Point(20, 20)))
        return render_turn("So it is (20, 20).", Answer(answer))


@asynccontextmanager
async def services(root: Path, script: Script) -> AsyncIterator[dict[str, Any]]:
    """A `services` section: environment, reward, and a policy service that serves the script."""

    @asynccontextmanager
    async def build_script(config: PolicyServiceConfig) -> AsyncIterator[Service]:
        server = PolicyServer(WordPolicy(script, exact=False), SCRIPT, config.open_images())
        register = registrar(add_PolicyServiceServicer_to_server, server)
        yield Service("vigorl.policy.v1.PolicyService", register, probe=ready)

    async def ready() -> None:
        """A script always is."""

    engine = PolicyConfig(name=SCRIPT, engine="scripted", model="none", scripted=ScriptedConfig(root=str(root)))
    async with (
        serving(build_script, PolicyServiceConfig(policy=engine, root=str(root))) as policy,
        serving(build_environment, EnvironmentServiceConfig(root=str(root))) as environment,
        serving(build_reward, RewardServiceConfig()) as reward,
    ):
        yield {"policies": {SCRIPT: policy}, "environment": environment, "reward": reward}


def recipe(root: Path, run_id: str, services: dict[str, Any], **evaluation: object) -> Recipe:
    overrides = [
        f"root={root}",
        f"run_id={run_id}",
        f"policy={SCRIPT}",
        f"services={json.dumps(services)}",
        *(f"evaluation.{name}={json.dumps(value)}" for name, value in evaluation.items()),
    ]
    return load(Recipe, "benchmarks", folder=RECIPES, overrides=overrides, environment={})


@pytest.mark.parametrize(
    ("say", "share", "unread"),
    [(right, 1.0, 0), (wrong, 0.0, 0), (unreadable, 0.0, None)],
    ids=lambda v: getattr(v, "__name__", ""),
)
async def test_who_knows_every_answer_is_right_in_every_benchmark_and_prompt(
    root: Path, examples: dict[tuple[str, str], Example], say: Say, share: float, unread: int | None
) -> None:
    async with services(root, Script(examples, say)) as section:
        prompts = ["single_turn", "vanilla", "direct", "multi_turn"]
        asked = recipe(root, f"knows-{say.__name__}", section, modes=prompts)
        results = await evaluate_benchmarks(asked, ALL, "all", None)
    rows = results_to_json(results)
    assert {row["benchmark"] for row in rows} == set(BENCHMARKS)
    for row in rows:
        what = (row["benchmark"], row["prompt"])
        assert row["accuracy"]["n"] == PER_BENCHMARK[row["benchmark"]], what
        assert row["accuracy"]["value"] == share, what
        if unread is not None:
            assert row["not_parseable"] == unread, what
    assert len(rows) == sum(len(benchmark.prompts) for benchmark in BENCHMARKS.values())
    if unread is None:
        of_points = [row for row in rows if row["benchmark"] == "screenspot-v2"]
        assert all(row["not_parseable"] == row["accuracy"]["n"] for row in of_points), "not a point: told apart"
    zoomed = [record.zooms for record in results["vstar"][SCRIPT, "multi_turn"]]
    assert zoomed == [1, 1, 1]
    table = render_results(results)
    assert table.splitlines()[0].split() == " ".join(HEADER).split()
    assert "ViGoRL-3B 86.5 ±1.9" in table
    values = [row.split() for row in table.splitlines() if row.startswith("vstar") and " category " in row]
    assert {"attribute", "relation", "mean"} <= {word for row in values for word in row}
    crossed = next(row for row in rows if row["benchmark"] == "screenspot")["by_category"]["platform × element"]
    assert {value: figures["n"] for value, figures in crossed.items()} == {
        "desktop × icon": 1,
        "mobile × icon": 1,
        "web × icon": 1,
        "web × text": 1,
    }


async def test_the_references_evaluation_finds_the_answer_anywhere_in_what_was_said(
    root: Path, examples: dict[tuple[str, str], Example]
) -> None:
    def wordy(example: Example) -> str:
        x, _, y = right(example).strip("()").partition(", ")
        return (
            f"({float(x):.0f}, {float(y):.0f})"
            if example.truth.kind is AnswerKind.POINT
            else f"it is {right(example)}, or not"
        )

    async with services(root, Script(examples, wordy)) as section:
        asked = recipe(root, "lenient", section)
        lenient = asked.model_copy(update={"reward": asked.reward.model_copy(update={"rule": "reference.evaluation"})})
        shares = {
            name: [result["accuracy"]["value"] for result in results_to_json({name: cells})]
            for name, cells in (await evaluate_benchmarks(lenient, ALL, "all", None)).items()
        }
    assert shares.pop("web-action") == [0.6], "a click and a typing with words around them have too many words"
    assert all(share == [1.0] for share in shares.values()), shares


async def test_benchmarks_are_scored_again_without_asking(root: Path, examples: dict[tuple[str, str], Example]) -> None:
    async with services(root, Script(examples, lambda example: f"it is {right(example)}")) as section:
        asked = recipe(root, "again", section)
        strict = await evaluate_benchmarks(asked, ALL, "realworldqa", None)
    async with services(root, Script({}, right)) as section:
        away = recipe(root, "again", section)
        assert await evaluate_benchmarks(away, ALL, "realworldqa", None, rescore=True) == strict
        lenient = away.model_copy(update={"reward": away.reward.model_copy(update={"rule": "reference.evaluation"})})
        (cell,) = (await evaluate_benchmarks(lenient, ALL, "realworldqa", None, rescore=True))["realworldqa"].values()
        assert all(record.correct for record in cell)


async def test_greedy_answers_that_are_remembered_are_not_asked_for_in_another_run(
    root: Path, examples: dict[tuple[str, str], Example]
) -> None:
    async with services(root, Script(examples, right)) as section:
        first = await evaluate_benchmarks(recipe(root, "cached-1", section, cache_answers=True), ALL, "vstar", None)
    async with services(root, Script({}, right)) as knows_nothing:
        again = recipe(root, "cached-2", knows_nothing, cache_answers=True)
        assert await evaluate_benchmarks(again, ALL, "vstar", None) == first
        with pytest.raises(PolicyError, match="3 of 3 samples failed"):
            await evaluate_benchmarks(recipe(root, "cached-3", knows_nothing), ALL, "vstar", None)
    assert [record.zooms for record in first["vstar"][SCRIPT, "multi_turn"]] == [1, 1, 1], "both turns are remembered"


async def test_a_sample_that_fails_does_not_keep_the_other_benchmarks_from_their_table(
    root: Path, examples: dict[tuple[str, str], Example]
) -> None:
    def failing(example: Example) -> str:
        if (example.task, example.example_id) == ("vstar", first):
            raise PolicyError("the engine is gone", reason="ENGINE_FAILED")
        return right(example)

    storage = open_storage(str(root))
    first = read_dataset(storage, ImageStore(storage), "vstar", "test")[0].example_id
    async with services(root, Script(examples, failing)) as section:
        command = ["eval", "--benchmark", "all", "--root", str(root), "--run-id", "fails", "--policy", SCRIPT]
        command += ["--set", f"services={json.dumps(section)}"]
        printed = await asyncio.to_thread(CliRunner().invoke, cli, command)
    assert isinstance(printed.exception, PolicyError)
    assert printed.exception.reason == "EVALUATION_INCOMPLETE"
    assert f"fails/vstar/{SCRIPT}/multi_turn: 1 of 3 samples failed, first {first}: ENGINE_FAILED" in str(
        printed.exception
    )
    table = [line.split() for line in printed.stdout.partition("\n\n")[0].splitlines()[2:]]
    assert {row[0]: row[3] for row in table} == {
        name: str(PER_BENCHMARK[name] - (name == "vstar")) for name in BENCHMARKS
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for the benchmarks' prompts, which it spells byte by byte."""
    folder = tmp_path_factory.mktemp("tiny")
    build_tiny(folder, seed=0)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = CONTEXT
    (folder / "config.json").write_text(json.dumps(config))
    return folder


async def test_the_command_measures_all_benchmarks_by_the_services_and_prints_the_table(
    root: Path, tiny: Path, tmp_path: Path
) -> None:
    engine = PolicyConfig(name=TINY, engine="transformers", model=str(tiny), max_context_tokens=CONTEXT)
    async with (
        serving(build_policy, PolicyServiceConfig(policy=engine, root=str(root))) as policy,
        serving(build_environment, EnvironmentServiceConfig(root=str(root))) as environment,
        serving(build_reward, RewardServiceConfig()) as reward,
    ):
        parts = {"policies": {TINY: policy}, "environment": environment, "reward": reward}
        targets = ServicesConfig.model_validate(parts)
        config = EvaluationServiceConfig(root=str(root), services=targets)
        async with serving(build_evaluation, config) as evaluation:
            command = ["eval", "--benchmark", "all", "--limit", "2", "--policy", TINY, "--root", str(root)]
            command += ["--set", f"services={json.dumps({**parts, 'evaluation': evaluation})}"]
            command += ["--set", "task.max_turn_tokens=6", "--set", f"evaluation.modes={json.dumps(ASKED)}"]
            printed = await asyncio.to_thread(CliRunner().invoke, cli, command, catch_exceptions=False)
    assert printed.exit_code == 0, printed.output
    header, _, *rows = [line.split() for line in printed.stdout.partition("\n\n")[0].splitlines()]
    assert header == " ".join(HEADER).split()
    wanted = {(name, prompt) for name, one in BENCHMARKS.items() for prompt in ASKED if prompt in one.prompts}
    assert {(row[0], row[2]): row[3] for row in rows} == {
        (name, prompt): str(min(2, PER_BENCHMARK[name])) for name, prompt in wanted
    }
    for name, prompt in wanted:
        assert "context_overflow" not in stops(root, name, prompt)


def stops(root: Path, name: str, prompt: str) -> set[str]:
    storage = open_storage(str(root))
    records = read_records(storage, RunLayout(storage, f"benchmarks/{name}").evaluation(TINY, prompt))
    assert records
    return {record.stop for record in records}


def test_files_are_imported_first_where_the_command_says_where_they_are(tmp_path: Path) -> None:
    write_benchmark_files(tmp_path / "files")
    root = str(tmp_path / "root")
    command = ["benchmark", "import", "vstar", str(tmp_path / "files" / "vstar"), "--root", root]
    printed = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert "vstar: 3 questions" in printed.stderr
    assert "the source has 191" in printed.stderr
    missing = CliRunner().invoke(cli, ["eval", "--benchmark", "blink", "--root", root])
    assert isinstance(missing.exception, DataError)
    assert missing.exception.reason == "BENCHMARK_NOT_IMPORTED"
    record = tmp_path / "mine.jsonl"
    record.write_text('{"id": "a", "image": "a.png", "question": "What?", "answer": "it"}')
    (tmp_path / "a.png").write_bytes(encoded(28, 28))
    import_folder(open_storage(root), record, tmp_path, "blink", "val")
    by_recipe = ["eval", "--recipe", "benchmarks", "--set", "evaluation.benchmark=blink", "--root", root]
    missing = CliRunner().invoke(cli, by_recipe)
    assert "no questions of blink" in str(missing.exception), "a data set of that name that is not the benchmark"
    command = ["eval", "--benchmark", "all", "--files", str(tmp_path / "files"), "--root", root]
    asked = CliRunner().invoke(cli, command)
    assert isinstance(asked.exception, ConfigError), "no address for the policy; but the files are there by then"
    assert find_manifest(open_storage(root), "sat2") is not None
    listed = CliRunner().invoke(cli, ["benchmark", "list"])
    assert "realworldqa: RealWorldQA" in listed.output


def test_options_that_mean_nothing_without_a_benchmark_are_refused(tmp_path: Path) -> None:
    refused = CliRunner().invoke(cli, ["eval", "--files", str(tmp_path)])
    assert refused.exit_code == 2
    assert "--files needs --benchmark" in refused.output
    resolved = CliRunner().invoke(cli, ["eval", "--benchmark", "all", "--dry-run"])
    assert json.loads(resolved.output)["name"] == "benchmarks"
    named = CliRunner().invoke(cli, ["eval", "--benchmark", "all", "--recipe", "quickstart", "--dry-run"])
    assert json.loads(named.output)["name"] == "quickstart"
