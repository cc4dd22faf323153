"""Wrong branches of any depth and length, and chains of searches in another frame, played to the environment."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from PIL import Image as PILImage

from tests.search.support import RESIZE, TASK, ZOOM, WrittenPolicy, answer, example, said, search_one, searching, zoom
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Frame, Point, Size
from vigorl_lib.domain.grammar import MULTI_TURN, Zoom, parse_turn, render_turn
from vigorl_lib.domain.image import Image, digest
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, Trajectory
from vigorl_lib.domain.wire import BACKTRACK_PHRASE
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.prompts import Prompt, load_prompt
from vigorl_lib.search import drafts
from vigorl_lib.search.config import LinearizeConfig, SearchConfig
from vigorl_lib.search.linearize import ChainTask, kind_of, linearize
from vigorl_lib.search.tree import Tree

DISTANCE_PX = 16.0
RULES = ZOOM.model_copy(update={"max_turns": 6, "min_distance_px": DISTANCE_PX})
SINGLE = Prompt("single", "Think, then answer.", "")
ALL = LinearizeConfig(
    max_chains_per_example=1000,
    max_corrected_per_example=1000,
    max_wrong_turns=3,
    max_turns=12,
    validation_share=0.0,
    single_turn=False,
)


def wandering(seed: int) -> WrittenPolicy:
    rng = random.Random(seed)

    def write(prompt: Sequence[Segment], index: int) -> str:
        if len(said(prompt)) < rng.randint(1, 4):
            return zoom(rng.randrange(4, 108), rng.randrange(4, 108), f"Perhaps the tile {rng.randrange(1000)} at")
        return answer(rng.choice(["pink", "cyan"]))

    return WrittenPolicy(write)


@pytest.fixture(scope="module")
def question() -> Example:
    """On a picture that looks different everywhere: a crop in the wrong place must show."""
    noise = random.Random(0).randbytes(448 * 448 * 3)
    buffer = io.BytesIO()
    PILImage.frombytes("RGB", (448, 448), noise).save(buffer, "PNG", compress_level=1)
    data = buffer.getvalue()
    return replace(example(), images=(Image(digest(data), "image/png", Size(448, 448), data),))


@pytest.fixture
async def tree(question: Example) -> Tree:
    config = SearchConfig(simulations=6, children=3, rollouts_per_child=2, dedup_radius_px=0)
    task = TASK.model_copy(update={"zoom": RULES})
    return (await search_one(searching(wandering(3), config, task=task), question))[0]


def spoken(chain: Trajectory) -> list[str]:
    return [segment.text for segment in chain.segments if segment.origin is Origin.DEMONSTRATION]


async def replay(chain: Trajectory, question: Example, rules: ZoomConfig) -> list[Message]:
    """What the environment says to a chain's turns."""
    environment, image = ZoomEnvironment(threads=1), question.images[0]
    state = (await environment.start(image, mode="multi_turn", config=rules, resize=RESIZE)).state
    observed = []
    for text in spoken(chain):
        outcome = await environment.step(state, text, image)
        assert outcome.invalid is None
        state = outcome.state
        observed += [outcome.observation] if outcome.observation else []
    await environment.close()
    return observed


def shown(chain: Trajectory) -> list[Message]:
    return [segment.messages[0] for segment in chain.segments if segment.origin is Origin.OBSERVATION]


async def test_corrected_chains_from_any_depth_replay_to_the_same_crops(tree: Tree, question: Example) -> None:
    chains = linearize([tree], ALL, ChainTask(SINGLE, rules=RULES), seed=0).train
    astray, depths = set(), set()
    for chain in chains:
        assert await replay(chain, question, RULES) == shown(chain)
        turns = [parse_turn(text, MULTI_TURN) for text in spoken(chain)]
        assert turns == [record.turn for record in chain.turns]
        trained = [s.trained for s in chain.segments if s.origin is Origin.DEMONSTRATION]
        if all(trained):
            continue
        back = next(k for k, turn in enumerate(turns) if turn.thought.startswith(BACKTRACK_PHRASE))
        # The wrong branch is one run of turns that ends where the way back begins; all else is trained.
        first = trained.index(False)
        assert trained == [True] * first + [False] * (back - first) + [True] * (len(trained) - back)
        astray.add(back - first)
        depths.add(first)
    assert astray == {1, 2, 3}
    assert depths >= {0, 1, 2}


async def test_a_chain_that_the_environment_would_refuse_is_not_made(tree: Tree) -> None:
    strict = linearize([tree], ALL, ChainTask(SINGLE, rules=RULES), seed=0).train
    careless, hasty = (
        linearize([tree], ALL, ChainTask(SINGLE, rules=RULES.model_copy(update=change)), seed=0).train
        for change in ({"min_distance_px": 0.0}, {"max_turns": 5})
    )
    assert 0 < len(strict) < len(careless)
    corrected = [[chain for chain in chains if kind_of(chain) == "corrected"] for chains in (strict, hasty)]
    assert 0 < len(corrected[1]) < len(corrected[0])
    assert max(len(chain.turns) for chain in corrected[1]) == 5


async def test_chains_of_a_search_in_the_normalized_frame_are_asked_and_answered_in_pixels(question: Example) -> None:
    """The teacher spoke of 0 to 1000; the student is to be asked for pixels, since its demonstrations are in them."""
    ways = iter([Point(900, 900, Frame.NORMALIZED), Point(100, 100, Frame.NORMALIZED)])

    def write(prompt: Sequence[Segment], index: int) -> str:
        if not said(prompt):
            point = next(ways)
            return render_turn(f"The tile at ({point.x:g}, {point.y:g}).", Zoom(point))
        return answer("pink" if "900" in said(prompt)[0] else "cyan", "The dot at (500, 500).")

    task = TASK.model_copy(update={"point_frame": "normalized", "family": "visual_search"})
    config = SearchConfig(simulations=1, children=2, rollouts_per_child=1, dedup_radius_px=0)
    (tree, _) = await search_one(searching(WrittenPolicy(write), config, task=task), question)
    pixels = load_prompt(task.family, task.prompt_name)
    assert tree.root.prefix.segments[0].messages[0].text != pixels.text
    chains = linearize([tree], ALL, ChainTask(SINGLE), seed=0).train
    assert len(chains) == 2
    for chain in chains:
        assert chain.segments[0].messages[0].text == pixels.text
        assert "(56, 56)" in spoken(chain)[-1]
        assert await replay(chain, question, ZOOM) == shown(chain)


async def test_a_huge_tree_has_its_pairs_drawn_by_seed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs grow with the square of the rollouts; the draw is repeatable and misses no right rollout by itself."""
    task = ChainTask(SINGLE, rules=RULES)
    whole = linearize([tree], ALL, task, seed=0).train
    monkeypatch.setattr(drafts, "MAX_PAIRS", 20)
    some = linearize([tree], ALL, task, seed=0).train
    texts = {tuple(spoken(chain)) for chain in whole}
    assert {tuple(spoken(chain)) for chain in some} < texts
    assert linearize([tree], ALL, task, seed=0).train == some
    direct = [chain for chain in whole if kind_of(chain) == "direct"]
    assert len([chain for chain in some if kind_of(chain) == "direct"]) == len(direct)


async def test_examples_that_the_teacher_was_shown_do_not_stand_in_chains(tree: Tree) -> None:
    shown = (Message(Role.USER, ("An example's question",)), Message(Role.ASSISTANT, ("An example's reply",)))
    for rollout in tree.rollouts:
        opening, *rest = rollout.trajectory.segments
        system, question = opening.messages
        taught = replace(opening, messages=(system, *shown, question))
        rollout.trajectory = replace(rollout.trajectory, segments=(taught, *rest))
    chains = linearize([tree], ALL.model_copy(update={"single_turn": True}), ChainTask(SINGLE), seed=0).train
    assert {chain.mode for chain in chains} == {"multi_turn", "single_turn"}
    for chain in chains:
        assert [message.role for message in chain.segments[0].messages] == [Role.SYSTEM, Role.USER]
        assert chain.segments[0].messages[1].text == question.text
