"""Greedy answers that are remembered: what counts as the same question, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.rpc.fakes import FakePolicy
from vigorl_lib.domain.geometry import Size
from vigorl_lib.domain.image import Image, digest
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.policy.base import Generation, Sampling
from vigorl_lib.policy.cached import FOLDER, CachedPolicy
from vigorl_lib.storage.folder import FolderStorage

GREEDY = Sampling(temperature=0.0, max_tokens=8)
PICTURE = Image(digest(b"a"), "image/png", Size(28, 28), b"a")


def asked(text: str = "What?", image: Image = PICTURE) -> list[Segment]:
    return [Segment(Origin.PROMPT, (Message(Role.USER, (image, text)),))]


async def answer(
    policy: CachedPolicy, prompt: Sequence[Segment], sampling: Sampling = GREEDY, seed: int = 1
) -> Generation:
    return await policy.generate(prompt, seeds=[seed], sampling=sampling)


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path)


async def test_the_same_greedy_question_is_asked_once_also_by_another_process(storage: FolderStorage) -> None:
    engine = FakePolicy()
    first = await answer(CachedPolicy(engine, storage), asked())
    again = CachedPolicy(engine, storage)
    second = await answer(again, asked(), seed=2)
    assert (again.hits, again.misses, len(engine.prompts)) == (1, 0, 1)
    assert second.completions == first.completions
    assert second.prompt == first.prompt, "with the tokens and the image's bytes"
    assert second.prompt[0].images[0].data == b"a"


@pytest.mark.parametrize(
    "prompt",
    [
        asked("Why?"),
        asked(image=Image(digest(b"b"), "image/png", Size(28, 28), b"b")),
        [*asked(), Segment(Origin.FORCED, (Message(Role.ASSISTANT, ("so",)),))],
    ],
    ids=["text", "image", "prefix"],
)
async def test_another_question_is_another_answer(storage: FolderStorage, prompt: list[Segment]) -> None:
    engine = FakePolicy()
    policy = CachedPolicy(engine, storage)
    await answer(policy, asked())
    await answer(policy, prompt)
    assert (policy.hits, policy.misses) == (0, 2)


async def test_other_sampling_or_other_weights_are_asked_again(storage: FolderStorage) -> None:
    engine = FakePolicy()
    policy = CachedPolicy(engine, storage)
    await answer(policy, asked())
    await answer(policy, asked(), Sampling(temperature=0.0, max_tokens=9))
    assert (policy.hits, policy.misses) == (0, 2)
    engine.version = 2
    later = CachedPolicy(engine, storage)
    await answer(later, asked())
    assert (later.hits, later.misses) == (0, 1)


async def test_weights_that_change_in_between_are_noticed_and_nothing_is_kept_under_the_old_ones(
    storage: FolderStorage,
) -> None:
    engine = FakePolicy()
    policy = CachedPolicy(engine, storage)
    await answer(policy, asked())
    engine.version = 2
    await answer(policy, asked("Why?"))
    assert len(list(storage.list(FOLDER))) == 1
    await answer(policy, asked("Why?"))
    assert len(list(storage.list(FOLDER))) == 2


async def test_what_is_sampled_is_never_remembered(storage: FolderStorage) -> None:
    engine = FakePolicy()
    policy = CachedPolicy(engine, storage)
    for _ in range(2):
        await answer(policy, asked(), Sampling(temperature=1.0, max_tokens=8))
        await policy.generate(asked(), seeds=[1, 2], sampling=GREEDY)
    assert (policy.hits, policy.misses, len(engine.prompts)) == (0, 0, 4)


async def test_a_broken_entry_costs_one_question(storage: FolderStorage) -> None:
    engine = FakePolicy()
    await answer(CachedPolicy(engine, storage), asked())
    (key,) = storage.list(FOLDER)
    storage.write(key, b'{"version": 1}')
    policy = CachedPolicy(engine, storage)
    await answer(policy, asked())
    await answer(policy, asked())
    assert (policy.hits, policy.misses) == (1, 1)
