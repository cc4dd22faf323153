from __future__ import annotations

import re
from hashlib import sha256

import pytest

from vigorl_lib.domain import grammar, wire
from vigorl_lib.errors import ConfigError
from vigorl_lib.prompts import load_prompt, prompt_names

NAMES = prompt_names()
# The judge is asked about answers, not about images and points.
FAMILIES = sorted({name.split("/")[0] for name in NAMES} - {"judge"})
TAGS = {
    *(wire.THINK_OPEN, wire.THINK_CLOSE, wire.TOOL_OPEN, wire.TOOL_CLOSE),
    *(wire.ANSWER_OPEN, wire.ANSWER_CLOSE, wire.OBSERVATION_OPEN, wire.OBSERVATION_CLOSE),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_loads_with_real_newlines_and_known_tags(name: str) -> None:
    prompt = load_prompt(*name.split("/"))
    assert prompt.name == name
    assert prompt.text == prompt.text.strip() != ""
    assert "\\n" not in prompt.text
    assert "\\t" not in prompt.text
    assert "\r" not in prompt.text
    assert prompt.sha256 == sha256(prompt.text.encode()).hexdigest()
    judges = {"<count>", "</count>"} if name.startswith("judge/") else set()
    assert set(re.findall(r"</?\w+>", prompt.text)) <= TAGS | judges


def test_every_family_can_be_asked_plainly_and_with_points() -> None:
    assert {"spatial", "synthetic_search", "visual_search", "web_action", "web_grounding"} <= set(FAMILIES)
    for family in FAMILIES:
        assert {f"{family}/vanilla", f"{family}/single_turn"} <= set(NAMES)


# The tiny model's prompts are a few words: it learns the format from its chains.
WRITTEN = [name for name in NAMES if not name.startswith("synthetic_search/")]


@pytest.mark.parametrize("name", [name for name in WRITTEN if name.endswith("/multi_turn")])
def test_a_multi_turn_prompt_speaks_the_grammars_words(name: str) -> None:
    text = load_prompt(*name.split("/")).text
    for word in (
        *(wire.THINK_OPEN, wire.THINK_CLOSE, wire.TOOL_OPEN, wire.TOOL_CLOSE),
        *(wire.ANSWER_OPEN, wire.ANSWER_CLOSE, wire.TOOL_NAME),
    ):
        assert word in text
    call = re.search(re.escape(wire.TOOL_OPEN) + r"\s*(\{.*\})\s*" + re.escape(wire.TOOL_CLOSE), text)
    assert call is not None, "it shows a call"
    numbered = re.sub(r"\[\s*x\s*,\s*y\s*\]", "[3, 4]", call[1])
    turn = grammar.parse_turn(f"<think> so </think>\n<tool_call>{numbered}</tool_call>")
    assert isinstance(turn.action, grammar.Zoom), "the call that it shows can be read"


@pytest.mark.parametrize("name", [name for name in WRITTEN if name.endswith("/single_turn")])
def test_a_single_turn_prompt_asks_for_a_thought_and_an_answer_and_offers_no_tool(name: str) -> None:
    text = load_prompt(*name.split("/")).text
    assert wire.THINK_OPEN in text
    assert wire.ANSWER_OPEN in text
    assert wire.TOOL_NAME not in text


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("/vanilla")])
def test_a_vanilla_prompt_asks_for_no_points(name: str) -> None:
    text = load_prompt(*name.split("/")).text
    assert wire.TOOL_NAME not in text
    points = ("web_grounding/vanilla", "spatial_pointing/vanilla")
    assert "(x, y)" not in text or name in points, "there the answer itself is a point"


def test_an_unknown_prompt_is_refused_with_close_names() -> None:
    with pytest.raises(ConfigError) as caught:
        load_prompt("visual_search", "multi_turns")
    assert caught.value.reason == "PROMPT_UNKNOWN"
    assert "visual_search/multi_turn" in caught.value.message
    with pytest.raises(ConfigError, match="expected one of"):
        load_prompt("?", "?")


@pytest.mark.parametrize("family", ["..", "../prompts/spatial", "", "spatial/../spatial"])
def test_a_name_does_not_lead_out_of_the_folder(family: str) -> None:
    with pytest.raises(ConfigError):
        load_prompt(family, "vanilla")
