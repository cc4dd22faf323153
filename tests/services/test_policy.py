"""The policy service over the real engines: the same tokens as in process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.embedded import open_embedded
from tests.services.conftest import DATASET, serving
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.errors import ConfigError, PolicyError
from vigorl_lib.policy.base import Sampling
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.policy.config import PolicyConfig, ScriptedConfig
from vigorl_services.policy.__main__ import PolicyServiceConfig, build


def question_of(example: Example) -> tuple[Segment, ...]:
    messages = (
        Message(Role.SYSTEM, ("Answer the question.",)),
        Message(Role.USER, (*example.images, f"\n{example.question}")),
    )
    return (Segment(Origin.PROMPT, messages),)


async def test_the_tiny_model_says_the_same_through_grpc(tiny_folder: Path, examples: list[Example]) -> None:
    config = PolicyConfig(name="student", model=str(tiny_folder), max_context_tokens=100)
    prompt, sampling = question_of(examples[0]), Sampling(max_tokens=6)
    local = open_embedded(config)
    here = await local.generate(prompt, seeds=[1, 2], sampling=sampling)
    async with serving(build, PolicyServiceConfig(policy=config)) as address:
        client = PolicyClient(address, "student")
        there = await client.generate(prompt, seeds=[1, 2], sampling=sampling)
        assert there.prompt == here.prompt
        assert [c.token_ids for c in there.completions] == [c.token_ids for c in here.completions]
        assert [c.text for c in there.completions] == [c.text for c in here.completions]
        assert there.policy == here.policy
        scored = await client.score(there.prompt)
        assert scored.segments[0].logprobs == pytest.approx(
            (await local.score(here.prompt)).segments[0].logprobs, abs=1e-5
        )
        _, *deltas, end = [event async for event in client.stream(prompt, seed=1, sampling=sampling)]
        streamed = end.completion
        assert [delta.token_ids for delta in deltas] == [(token,) for token in streamed.token_ids]
        assert end.engine_seconds > 0.0
        assert (streamed.text, streamed.token_ids) == (here.completions[0].text, here.completions[0].token_ids)
        with pytest.raises(PolicyError) as too_long:
            await client.generate((*prompt, *prompt, *prompt, *prompt), seeds=[1], sampling=sampling)
        with pytest.raises(ConfigError) as not_ours:
            await client.update_weights(version=1, uri="nowhere", run_id="r")
        assert (too_long.value.reason, not_ours.value.reason) == ("CONTEXT_OVERFLOW", "ADMIN_TARGET_MISSING")
        await client.close()
    await local.close()


async def test_the_scripted_teacher_says_that_it_is_one(tiny_folder: Path, root: Path, examples: list[Example]) -> None:
    config = PolicyConfig(
        name="scripted-teacher",
        engine="scripted",
        model=str(tiny_folder),
        scripted=ScriptedConfig(root=str(root), dataset=DATASET),
    )
    async with serving(build, PolicyServiceConfig(policy=config)) as address:
        client = PolicyClient(address, "scripted-teacher")
        generation = await client.generate(question_of(examples[0]), seeds=[1, 2, 3], sampling=Sampling())
        assert generation.policy.scripted
        assert all("<think>" in completion.text for completion in generation.completions)
        await client.close()
