"""The environment service answers as the environment in this process does."""

from __future__ import annotations

import pytest

from tests.services.conftest import ZOOM, serving
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Frame, Point, ResizeRule
from vigorl_lib.domain.grammar import Answer, Zoom, render_turn
from vigorl_lib.environment.client import EnvironmentClient
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.errors import DataError, EpisodeError
from vigorl_services.environment.__main__ import EnvironmentServiceConfig, build

RESIZE = ResizeRule(28, 784, 12544)
TURNS = (
    render_turn("There. (38, 66)", Zoom(Point(38, 66))),
    "no turn at all",
    render_turn("Far out.", Zoom(Point(999, 66))),
    render_turn("The dot at (38, 66) is pink.", Answer("pink")),
)


async def test_every_outcome_equals_the_local_one(examples: list[Example]) -> None:
    local = ZoomEnvironment()
    async with serving(build, EnvironmentServiceConfig()) as address:
        remote = EnvironmentClient(address)
        image = examples[0].images[0]
        opened = [await e.start(image, mode="multi_turn", config=ZOOM, resize=RESIZE) for e in (local, remote)]
        assert opened[0] == opened[1]
        state = opened[0].state
        for text in TURNS:
            here, there = await local.step(state, text, image), await remote.step(state, text, image)
            assert here == there
            if here.crop_image is not None and there.observation is not None:
                assert there.observation.images[0].data == here.crop_image.data
            state = here.state
        assert here.stop is not None
        for either in (local, remote):
            with pytest.raises(EpisodeError, match="ended after 4 turns") as caught:
                await either.step(state, TURNS[0], image)
            assert caught.value.reason == "EPISODE_OVER"
        await remote.close()
    await local.close()


async def test_any_replica_goes_on_with_an_episode(examples: list[Example]) -> None:
    image = examples[0].images[0]
    async with (
        serving(build, EnvironmentServiceConfig()) as first,
        serving(build, EnvironmentServiceConfig()) as second,
    ):
        one, other = EnvironmentClient(first), EnvironmentClient(second)
        episode = await one.start(image, mode="multi_turn", config=ZOOM, resize=RESIZE)
        outcome = await other.step(episode.state, TURNS[0], image)
        assert outcome.crop is not None
        assert (await one.step(outcome.state, TURNS[3], image)).stop is not None
        await one.close()
        await other.close()


async def test_a_state_that_was_changed_or_belongs_elsewhere_is_refused(examples: list[Example]) -> None:
    image = examples[0].images[0]
    async with serving(build, EnvironmentServiceConfig()) as address:
        client = EnvironmentClient(address)
        state = (await client.start(image, mode="multi_turn", config=ZOOM, resize=RESIZE)).state
        changed = bytes([*state[:-1], state[-1] ^ 1])
        for bad, with_image in ((changed, image), (b"", image), (state, examples[1].images[0])):
            with pytest.raises(EpisodeError) as caught:
                await client.step(bad, TURNS[3], with_image)
            assert caught.value.reason == "STATE_INVALID"
        await client.close()


async def test_a_key_from_the_environment_seals_states(
    examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = examples[0].images[0]
    local = ZoomEnvironment()
    state = (await local.start(image, mode="multi_turn", config=ZOOM, resize=RESIZE)).state
    monkeypatch.setenv("VIGORL_STATE__KEY", "of this installation")
    async with serving(build, EnvironmentServiceConfig()) as address:
        client = EnvironmentClient(address)
        with pytest.raises(EpisodeError):
            await client.step(state, TURNS[3], image)
        await client.close()
    await local.close()


async def test_a_crop_alone_and_a_point_outside(examples: list[Example]) -> None:
    image = examples[0].images[0]
    async with serving(build, EnvironmentServiceConfig()) as address:
        client = EnvironmentClient(address)
        crop, shown = await client.crop(image, Point(38, 66, Frame.MODEL), config=ZOOM, resize=RESIZE)
        assert shown.size == crop.shown
        with pytest.raises(DataError):
            await client.crop(image, Point(-1, 66, Frame.MODEL), config=ZOOM, resize=RESIZE)
        await client.close()


async def test_images_by_digest_come_from_storage(examples: list[Example], root: object) -> None:
    async with serving(build, EnvironmentServiceConfig(root=str(root))) as address:
        client = EnvironmentClient(address)
        reference = examples[0].images[0].without_data()
        episode = await client.start(reference, mode="multi_turn", config=ZOOM, resize=RESIZE)
        assert episode.model_size.area > 0
        await client.close()
