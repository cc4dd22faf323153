"""A language model that decides whether a free answer is right.

The judge is a policy like any other: one behind an address, or an engine of this process, such as an
OpenAI-compatible endpoint. A reply that cannot be read as a verdict is asked for again with another seed, and
fails in the end; it never counts as wrong. Verdicts are remembered by everything that they depend on, and what is
asked several times at once, as by the rollouts of one group, is asked once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from hashlib import sha256
from weakref import WeakValueDictionary

from vigorl_lib.domain.cache import ByteCache
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.domain.wire import ANSWER_CLOSE, ANSWER_OPEN
from vigorl_lib.errors import RewardError
from vigorl_lib.policy.base import Policy
from vigorl_lib.prompts import load_prompt
from vigorl_lib.reward.asking import ask_until_read, judge_name, open_judge_policy
from vigorl_lib.reward.base import Verdict
from vigorl_lib.reward.config import JudgeConfig

MAX_ANSWER_CHARACTERS = 4000
"""A longer answer is cut before it is shown; nobody can say so much and mean one thing."""

_VERDICT = re.compile(rf"{ANSWER_OPEN}\s*(right|wrong)\s*{ANSWER_CLOSE}", re.IGNORECASE)


class Judge:
    """Owns its policy."""

    def __init__(self, policy: Policy, config: JudgeConfig, load: Callable[[Image], Image] | None = None) -> None:
        self._policy = policy
        self._load = load
        self._config = config
        self._prompt = load_prompt("judge", "answer")
        self._room = asyncio.Semaphore(config.in_flight)
        self._known: ByteCache[Verdict] = ByteCache(config.cache_entries, lambda _: 1)
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @classmethod
    def open(cls, config: JudgeConfig, load: Callable[[Image], Image] | None = None) -> Judge:
        """`load` gives the bytes of an image that came without them; else the judge must know it by its digest.

        Raises what opening the engine raises; a policy behind an address is not asked before the first verdict.
        """
        return cls(open_judge_policy(config), config, load)

    async def verdict(self, example: Example, answer: str) -> Verdict:
        """Raises RewardError (JUDGE_TIMEOUT, JUDGE_UNREADABLE), and what the policy raises."""
        asked = self._digest(example, answer)
        turn = self._asking.setdefault(asked, asyncio.Lock())
        try:
            async with turn, self._room, asyncio.timeout(self._config.timeout_s):
                judge = judge_name(await self._policy.info())
                key = f"{judge} {asked}"
                return self._known.get(key) or self._known.put(key, await self._ask(example, answer, judge))
        except TimeoutError as error:
            raise RewardError(
                f"{example.example_id}: the judge gave no verdict within {self._config.timeout_s:g} s",
                reason="JUDGE_TIMEOUT",
                infrastructure=True,
            ) from error

    async def close(self) -> None:
        await self._policy.close()

    async def _ask(self, example: Example, answer: str, judge: str) -> Verdict:
        prompt = await asyncio.to_thread(self._conversation, example, answer)
        right = await ask_until_read(
            self._policy, prompt, _read, self._config, subject=example.example_id, wanted="a verdict"
        )
        return Verdict(right, judge)

    def _conversation(self, example: Example, answer: str) -> list[Segment]:
        text = (
            f"Question: {example.question}\n\nReference answer: {example.truth.answer}\n\n"
            f"Answer of the student: {answer[:MAX_ANSWER_CHARACTERS]}"
        )
        images: tuple[Image, ...] = example.images if self._config.with_image else ()
        if self._load is not None:
            images = tuple(image if image.data is not None else self._load(image) for image in images)
        messages = (Message(Role.SYSTEM, (self._prompt.text,)), Message(Role.USER, (*images, text)))
        return [Segment(Origin.PROMPT, messages)]

    def _digest(self, example: Example, answer: str) -> str:
        """Of everything that a verdict depends on but the judge."""
        images = [image.sha256 for image in example.images] if self._config.with_image else []
        parts = [self._prompt.sha256, example.question, example.truth.answer, answer, *images]
        return sha256("\x00".join(parts).encode()).hexdigest()


def _read(said: str) -> bool | None:
    found = _VERDICT.findall(said)
    return found[-1].lower() == "right" if found else None
