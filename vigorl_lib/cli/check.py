"""`vigorl check`: does an installation work? One small call to each of its parts, and one file to its storage.

It says which part fails and how long each takes. It measures nothing, and changes nothing but for one object in
storage that it takes away again.
"""

from __future__ import annotations

import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from vigorl_lib.cli.common import context_option, resolve, run_async
from vigorl_lib.cli.context import client_options, laid_over
from vigorl_lib.errors import PolicyError, RemoteError, RewardError, StorageError, VigorlError
from vigorl_lib.recipes.schema import Recipe
from vigorl_lib.rollout.contexts import as_overrides, contexts_path, read_contexts
from vigorl_lib.rollout.wiring import LOCAL, ServicesConfig

if TYPE_CHECKING:
    from vigorl_lib.domain.image import Image
    from vigorl_lib.policy.client import PolicyClient
    from vigorl_lib.rpc.channels import Connections

_SIDE_PX = 448
_QUESTION = "What color is the middle of the picture?"
_ANSWER = "blue"
_MAX_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to try; `run` returns what there is to say about it, or raises a VigorlError."""

    name: str
    run: Callable[[], Awaitable[str]]


@click.command()
@click.option("--recipe", "recipe_name", default="quickstart", show_default=True, help="Name or YAML file.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="services=…, as `vigorl up` prints it.")
@click.option("--root", help="Storage to write one object to and read it back: a folder or s3://bucket/prefix.")
@click.option(
    "--solve", "solvers", multiple=True, metavar="NAME", help="Policies the search service is asked with; all."
)
@context_option
@client_options
def check(
    recipe_name: str,
    overrides: tuple[str, ...],
    root: str | None,
    solvers: tuple[str, ...],
    context: str | None,
    reach: dict[str, Any],
) -> None:
    """Try each part of an installation: health, crop, generate, score, solve, storage. Exit code 1 if one fails.

    What is tried is what has an address: by --target, --context or --set services=…, or else the context in use.
    """
    contexts = read_contexts(contexts_path())
    if context is None and not (reach or overrides or root) and contexts.current:
        context = contexts.current
    base = ServicesConfig() if context is None else contexts.get(context)
    recipe = resolve(recipe_name, (*as_overrides(laid_over(base, reach)), *overrides), root=root)
    if not list(_targets(recipe.services)) and root is None:
        raise click.UsageError("nothing to check: give --target, --context, --set services=… or --root")
    if not run_async(_check(recipe, root, solvers)):
        raise SystemExit(1)


async def _check(recipe: Recipe, root: str | None, solvers: tuple[str, ...]) -> bool:
    from vigorl_lib.rpc.channels import Connections

    connections = Connections(recipe.services.client)
    failed = total = 0
    async with AsyncExitStack() as stack:
        stack.push_async_callback(connections.close)
        for step in _steps(recipe, root, solvers, connections, stack):
            begin, total = time.monotonic(), total + 1
            try:
                said, verdict = await step.run(), click.style("ok  ", fg="green")
            except VigorlError as error:
                said, verdict, failed = f"{error.reason}: {error.message}", click.style("fail", fg="red"), failed + 1
            click.echo(f"{verdict}  {step.name:<32} {(time.monotonic() - begin) * 1e3:8.1f} ms  {said}")
    click.echo(f"{total} checks, {failed} failed" if failed else f"{total} checks, all ok")
    return not failed


def _steps(
    recipe: Recipe, root: str | None, solvers: tuple[str, ...], connections: Connections, stack: AsyncExitStack
) -> Iterator[Step]:
    from vigorl_lib.policy.client import PolicyClient

    services, image = recipe.services, _picture()
    for name, target in _targets(services):
        yield Step(f"health {name}", partial(_health, connections, target))
    if root is not None:
        yield Step("storage round trip", partial(_round_trip, root))
    if services.environment != LOCAL:
        yield Step("crop", partial(_crop, connections, services.environment, image))
    for name, target in services.policies.items():
        client = PolicyClient(target, name, connections=connections)
        stack.push_async_callback(client.close)
        yield Step(f"generate {name}", partial(_generate, client, image))
    if services.reward != LOCAL:
        yield Step("score", partial(_score, connections, services.reward, image))
    if services.search:
        for name in solvers or services.policies or (recipe.policy,):
            yield Step(f"solve {name}", partial(_solve, connections, name, recipe, image))


def _targets(services: ServicesConfig) -> Iterator[tuple[str, str]]:
    """Every component that has an address, by name."""
    for name, target in services.policies.items():
        yield f"policy {name}", target
    for name in ("environment", "reward", "search", "evaluation"):
        target = getattr(services, name)
        if target not in ("", LOCAL):
            yield name, target


async def _health(connections: Connections, target: str) -> str:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    replicas = target.split(",")
    for replica in replicas:
        connection = connections.to(replica.strip())
        stub = connection.stub(health_pb2_grpc.HealthStub)
        try:
            answer = await connection.call(stub.Check, health_pb2.HealthCheckRequest())
        except RemoteError as error:
            if error.reason != "UNIMPLEMENTED":
                raise
            # A gateway routes by gRPC service, and Health is the same one for all that lie behind its host.
            return f"{replica} answers and serves no health checks, as a gateway does: not asked"
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            raise RemoteError(f"{replica} answers {status}: it is up and not ready", reason="NOT_SERVING")
    return target


async def _round_trip(root: str) -> str:
    import asyncio
    from uuid import uuid4

    from vigorl_lib.storage.base import open_storage

    def work() -> str:
        storage, key, data = open_storage(root), f"checks/{uuid4().hex}", uuid4().bytes
        storage.check()
        storage.write(key, data)
        found = storage.read(key)
        storage.delete(key)
        if found != data or storage.exists(key):
            raise StorageError(f"{root}: an object does not read back as it was written", reason="STORAGE_UNFAITHFUL")
        return storage.uri

    return await asyncio.to_thread(work)


async def _crop(connections: Connections, target: str, image: Image) -> str:
    from vigorl_lib.domain.geometry import Point, ResizeRule
    from vigorl_lib.environment.client import EnvironmentClient
    from vigorl_lib.environment.config import ZoomConfig

    resize = ResizeRule(factor=28, min_pixels=28 * 28, max_pixels=_SIDE_PX**2)
    middle = Point(_SIDE_PX / 2, _SIDE_PX / 2)
    client = EnvironmentClient(target, connections=connections)
    _, shown = await client.crop(image, middle, config=ZoomConfig(window_model_px=112, shown_px=224), resize=resize)
    return f"{shown.size.width}x{shown.size.height} px"


async def _generate(client: PolicyClient, image: Image) -> str:
    from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
    from vigorl_lib.policy.base import Sampling

    info = await client.info()
    if info.scripted:
        return "a script, which answers only about its own scenes: not asked"
    prompt = Segment(Origin.PROMPT, (Message(Role.USER, (image, f"\n{_QUESTION}")),))
    sampling = Sampling(temperature=0.0, max_tokens=_MAX_TOKENS)
    (completion,) = (await client.generate([prompt], seeds=[0], sampling=sampling)).completions
    if not completion.text and not completion.token_ids:
        raise PolicyError(f"policy {info.name} answered with nothing at all", reason="GENERATION_EMPTY")
    tokens = f"{len(completion.token_ids)} tokens" if info.token_exact else f"{len(completion.text)} characters"
    return f"{tokens} of {info.model} at version {info.version}"


async def _score(connections: Connections, target: str, image: Image) -> str:
    from vigorl_lib.domain.example import Example, GroundTruth
    from vigorl_lib.domain.grammar import SINGLE_TURN, Answer, parse_turn, render_turn
    from vigorl_lib.domain.trajectory import StopReason, Trajectory, TurnRecord
    from vigorl_lib.reward.base import Score
    from vigorl_lib.reward.client import RewardClient
    from vigorl_lib.reward.config import RewardConfig

    text = render_turn(f"The middle at (224, 224) is {_ANSWER}.", Answer(_ANSWER))
    turn = TurnRecord(parse_turn(text, SINGLE_TURN), text, "end_of_turn")
    example = Example("check", _QUESTION, (image,), GroundTruth(_ANSWER))
    trajectory = Trajectory("check/check/0", "check", SINGLE_TURN.name, "check", (), (turn,), StopReason.ANSWERED)
    (score,) = await RewardClient(target, connections=connections).score([(example, trajectory)], config=RewardConfig())
    if not isinstance(score, Score):
        raise score
    if not score.correct:
        raise RewardError(f"{_ANSWER!r} for {_ANSWER!r} was scored as {score.outcome}", reason="SCORE_WRONG")
    return f"reward {score.total:g}"


async def _solve(connections: Connections, policy: str, recipe: Recipe, image: Image) -> str:
    from vigorl_lib.domain.trajectory import Trajectory
    from vigorl_lib.search.client import SearchClient

    zoom = recipe.task.zoom.model_copy(update={"max_turns": 1})
    task = recipe.task.model_copy(update={"max_turn_tokens": _MAX_TOKENS, "zoom": zoom})
    search = SearchClient(recipe.services.search, connections=connections)
    async with (
        _within(recipe.services.client.timeout_s),
        aclosing(search.solve(image, _QUESTION, policy=policy, task=task)) as events,
    ):
        async for event in events:
            if isinstance(event, Trajectory):
                if event.error.startswith("SCENE_UNKNOWN"):
                    return "a script, which answers only about its own scenes: it was reached and said so"
                if event.stop.is_error:
                    raise RemoteError(f"the conversation broke off: {event.error}", reason="SOLVE_FAILED")
                return f"ended with {event.stop}"
    raise RemoteError("the search service ended its answer without a result", reason="SOLVE_FAILED")


@asynccontextmanager
async def _within(timeout_s: float) -> AsyncIterator[None]:
    """A deadline for a stream, which has none of its own."""
    import asyncio

    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise RemoteError(f"no end after {timeout_s:g} s", reason="DEADLINE_EXCEEDED") from None


def _picture() -> Image:
    """A blue square on a grey ground."""
    from PIL import Image as PILImage

    from vigorl_lib.storage.images import probe

    picture = PILImage.new("RGB", (_SIDE_PX, _SIDE_PX), (128, 128, 128))
    picture.paste((0, 0, 255), (_SIDE_PX // 4, _SIDE_PX // 4, 3 * _SIDE_PX // 4, 3 * _SIDE_PX // 4))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return probe(buffer.getvalue())
