"""A teacher for synthetic scenes that knows the answers: a script, not a model, and it says so everywhere.

It looks a scene up by the image's digest and the question, so that the truth never stands in a prompt, and plays
a policy that explores: it may answer at once, zoom on the target, or zoom on a look-alike, notice, and try again.
It errs at set rates. Its words are those of `vigorl_lib.data.synthetic`; its points are in its student's model
frame. The same seed and conversation give the same turn. It is text-exact: it returns no token ids.
"""

from __future__ import annotations

import random
import re
from collections.abc import AsyncGenerator, Iterable, Sequence

from vigorl_lib.data import synthetic
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Box, Frame, FrameMap, Point, ResizeRule
from vigorl_lib.domain.grammar import Answer, Continue, Zoom, parse_turn, render_point, render_turn
from vigorl_lib.domain.seeds import derive_seed
from vigorl_lib.domain.trajectory import Origin, Role, Segment
from vigorl_lib.domain.wire import ANSWER_CLOSE, BACKTRACK_PHRASE, PREVIOUS_THOUGHT
from vigorl_lib.errors import PolicyError
from vigorl_lib.policy.base import (
    Completion,
    FinishReason,
    Generation,
    PolicyInfo,
    PolicyState,
    Sampling,
    Scored,
    StreamEvent,
    stream_whole,
)
from vigorl_lib.policy.config import PolicyConfig, ScriptedConfig

_QUESTION = re.compile(re.escape(synthetic.QUESTION).replace(r"\{color\}", r"(\w+)"))


class ScriptedTeacher:
    """Policy that plays the teacher on the scenes of `examples`; their images need no bytes."""

    def __init__(self, examples: Iterable[Example], config: PolicyConfig, resize: ResizeRule) -> None:
        self._config = config
        self._resize = resize
        self._scenes = {(example.images[0].sha256, example.question): example for example in examples}

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        if min_policy_version > 0:
            raise PolicyError(
                f"policy {self._config.name} is scripted and stays at version 0, {min_policy_version} was asked for",
                reason="POLICY_TOO_OLD",
                version=0,
            )
        example = self._look_up(prompt)
        completions = []
        for seed in seeds:
            script = _Script(example, self._config.scripted, self._resize, random.Random(derive_seed(seed, "scripted")))
            text = script.continuation(prompt)
            stopped = text.endswith(sampling.stop) if sampling.stop else False
            reason = FinishReason.STOP_STRING if stopped else FinishReason.END_OF_TURN
            completions.append(Completion(text, (), (), reason, 0))
        return Generation(tuple(prompt), tuple(completions), await self.info())

    def stream(
        self,
        prompt: Sequence[Segment],
        *,
        seed: int,
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> AsyncGenerator[StreamEvent]:
        return stream_whole(self, prompt, seed=seed, sampling=sampling, min_policy_version=min_policy_version)

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        raise PolicyError("a scripted policy has no log-probabilities", reason="NOT_SUPPORTED")

    async def info(self) -> PolicyInfo:
        return PolicyInfo(
            name=self._config.name,
            engine="scripted",
            model="scripted",
            revision=self._config.revision,
            version=0,
            trainable=False,
            token_exact=False,
            scripted=True,
            max_context_tokens=self._config.max_context_tokens,
            resize=self._resize,
        )

    async def state(self) -> PolicyState:
        return PolicyState.SERVING

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        raise PolicyError(f"policy {self._config.name} is scripted and has no weights", reason="NOT_TRAINABLE")

    async def close(self) -> None:
        """Nothing is held."""

    def _look_up(self, prompt: Sequence[Segment]) -> Example:
        user = [m for segment in prompt[:1] for m in segment.messages if m.role is Role.USER]
        # The last one: few-shot examples stand before it.
        if user and user[-1].images:
            key = (user[-1].images[0].sha256, user[-1].text.partition(PREVIOUS_THOUGHT)[0].strip())
            if key in self._scenes:
                return self._scenes[key]
        known = self._config.scripted
        raise PolicyError(
            f"policy {self._config.name} is a script and knows only the {len(self._scenes)} scenes of data set "
            f"{known.dataset}, split {' and '.join(known.splits)}; ask about one of them, serve it with other "
            "scripted.splits, or serve a model",
            reason="SCENE_UNKNOWN",
        )


class _Script:
    """What the teacher says next about one scene; `rng` holds all its chance."""

    def __init__(self, example: Example, config: ScriptedConfig, resize: ResizeRule, rng: random.Random) -> None:
        self._example = example
        self._config = config
        self._rng = rng
        self._frames = FrameMap(example.images[0].size, resize.model_size(example.images[0].size))
        named = _QUESTION.search(example.question)
        self._color = named[1] if named else "asked"

    def continuation(self, prompt: Sequence[Segment]) -> str:
        """The assistant's text that follows a conversation, without end-of-turn token."""
        turns = [segment.text for segment in prompt if segment.origin is Origin.POLICY]
        if prompt[-1].origin is Origin.FORCED:
            return f" {self._answer(self._config.error_rate)} {ANSWER_CLOSE}"
        match self._config.mode:
            case "single_turn":
                return self._direct()
            case "thought_steps":
                begun = turns or PREVIOUS_THOUGHT in prompt[0].text
                return self._second_step() if begun else render_turn(self._located(self._target_point()), Continue())
            case "multi_turn":
                return self._multi_turn(turns)

    def _multi_turn(self, turns: list[str]) -> str:
        actions = [parse_turn(text).action for text in turns]
        zooms = [action.point for action in actions if isinstance(action, Zoom)]
        if zooms and self._shows_target(zooms[-1]):
            return self._read(zooms[-1])
        point = self._target_point()
        thought = self._located(point)
        if zooms:
            return render_turn(f"{BACKTRACK_PHRASE} {thought}", Zoom(point))
        chance = self._rng.random()
        if chance < self._config.direct_rate:
            return self._direct()
        distractors = self._example.truth.distractors
        if distractors and chance < self._config.direct_rate + self._config.distractor_rate:
            point = self._point(self._rng.choice(distractors))
            thought = self._located(point)
        return render_turn(thought, Zoom(point))

    def _direct(self) -> str:
        """Locate and answer in one turn."""
        answer = self._answer(self._error_rate_unzoomed())
        thought = f"{self._located(self._target_point())} {synthetic.DOT_SENTENCE.format(answer=answer)}"
        return render_turn(thought, Answer(answer))

    def _read(self, point: Point) -> str:
        """Answer from the crop around `point`."""
        answer = self._answer(self._config.error_rate)
        thought = synthetic.DOT_AT_SENTENCE.format(point=render_point(point), answer=answer)
        return render_turn(thought, Answer(answer))

    def _second_step(self) -> str:
        answer = self._answer(self._error_rate_unzoomed())
        return render_turn(synthetic.DOT_SENTENCE.format(answer=answer), Answer(answer))

    def _error_rate_unzoomed(self) -> float:
        unseen = self._example.tags.get("size") == synthetic.SizeClass.SMALL
        return self._config.unseen_error_rate if unseen else self._config.error_rate

    def _answer(self, error_rate: float) -> str:
        truth = self._example.truth.answer
        if self._rng.random() >= error_rate:
            return truth
        return self._rng.choice([other for other in synthetic.ANSWERS if other != truth])

    def _located(self, point: Point) -> str:
        return synthetic.tile_sentence(self._color, point)

    def _target_point(self) -> Point:
        return self._point(self._example.truth.evidence[0])

    def _point(self, box: Box) -> Point:
        """A point near the middle of a box, as the student writes points."""
        middle = self._frames.point(box.center, Frame.MODEL)
        width, height = self._frames.extent(Frame.MODEL)
        return Point(self._coordinate(middle.x, width), self._coordinate(middle.y, height), Frame.MODEL)

    def _coordinate(self, value: float, extent: float) -> float:
        side = self._config.point_bin_px
        noisy = min(max(self._rng.gauss(value, self._config.point_noise_px), 0.0), extent - 1)
        return min(int(noisy // side) * side + side // 2, int(extent) - 1)

    def _shows_target(self, zoom: Point) -> bool:
        """Whether the target, and no look-alike, is what lies nearest to a zoomed point."""
        point = self._frames.point(zoom, Frame.ORIGINAL)
        truth = self._example.truth
        distance = point.distance(truth.evidence[0].center)
        return all(distance < point.distance(other.center) for other in truth.distractors)
