"""Tokenizer of the tiny model: spells any text, and says the synthetic dialogues in few tokens.

A byte-level vocabulary guarantees an exact round trip for every string. On top of it lie whole words and
the integers of the view (a pre-token found in the vocabulary is taken whole, so there are no merges), and
the fixed pieces of the response language as added tokens. Control tokens are Qwen's. It is a plain
`PreTrainedTokenizerFast`; it is not meant for natural language, which it spells byte by byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vigorl_lib.domain import grammar, wire
from vigorl_lib.domain.geometry import Point
from vigorl_lib.models.families import IM_END, IM_START, IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
CONTROL_TOKENS = (END_OF_TEXT, IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
"""ChatML as Qwen2.5-VL writes it, without a default system message."""

LARGEST_NUMBER = 111
"""Integers up to this one are single tokens: every coordinate of a 112x112 view."""

# A comma that parts two coordinates belongs to neither, so that x and y are spelled with the same number tokens.
_PRE_TOKENS = r", (?=\d)|\d{1,3}| \(| ?\p{L}+|[^\s\p{L}\d]|\s"

_VOCABULARY_TEXT = (
    "You may zoom in with the tool, then answer. Think with points, then answer. Describe the image.",
    "The tile is at (. The dot is. The dot at is.",
    wire.BACKTRACK_PHRASE,
    wire.FORCED_ANSWER_THOUGHT,
    " red green blue yellow orange purple white black cyan pink gray",
)
"""Texts whose words are whole tokens: those of the synthetic dialogues and of their prompts."""

_QUESTION_PIECES = ("What color is the dot on the", " tile?")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, always the same one."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_PRE_TOKENS), "isolated"), byte_level])
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    for text in (*_VOCABULARY_TEXT, *(str(number) for number in range(LARGEST_NUMBER + 1)), ", 1"):
        pieces += [piece for piece, _ in splitter.pre_tokenize_str(text)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}

    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in fixed_pieces()])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def fixed_pieces() -> tuple[str, ...]:
    """Strings of the response language that are one token each.

    The tags stand alone as well, so that any dialogue can be spelled; the longest piece wins. Whatever a turn
    decides, to zoom or to answer, where, and what, stays a token of its own.
    """
    think, end = wire.THINK_OPEN, wire.THINK_CLOSE
    call = grammar.render_tool_call(Point(0, 0))
    before_point, after_point = call.split("0, 0")
    return (
        think,
        end,
        wire.TOOL_OPEN,
        wire.TOOL_CLOSE,
        wire.ANSWER_OPEN,
        wire.ANSWER_CLOSE,
        wire.OBSERVATION_OPEN,
        wire.OBSERVATION_CLOSE,
        f"{think} The",
        f"{think} The dot at (",
        " tile is at (",
        "). The dot is",
        ") is",
        f"). {end}",
        f". {end}",
        f" {end}",
        f"). {end}\n{before_point}",
        f"\n{before_point}",
        after_point,
        f". {end}\n{wire.ANSWER_OPEN}",
        f"\n{wire.ANSWER_OPEN}",
        f" {wire.ANSWER_CLOSE}",
        *_QUESTION_PIECES,
        "system\n",
        "user\n",
        "assistant\n",
        wire.observation_text()[0],
        f" {wire.BACKTRACK_PHRASE} The",
    )
