"""From conversation to token ids: segments are rendered here, once, and nowhere else.

The layout is ChatML as the Qwen families' own templates write it; `tests/models/test_chat.py` compares the
two. A segment that has token ids is never touched; the others get theirs by their origin:

    PROMPT         every message with its header and end, then the assistant's header
    DEMONSTRATION  the text and `<|im_end|>`, so that a learner learns to stop
    POLICY, FORCED the text alone
    OBSERVATION    the end of the assistant's turn unless that was sampled, the message, the assistant's header

Text of users, environments and teachers is plain text even where it spells a control token: it can never
open a turn or stand for an image. This module loads no weights and decodes no image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import ImageSpan, Message, Origin, Role, Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.families import IM_END, IM_START, IMAGE_PAD, VISION_END, VISION_START

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


class ChatRenderer:
    """Renders segments for one tokenizer and one resize rule. Safe to use from several threads."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, resize: ResizeRule) -> None:
        self.resize = resize
        self._tokenizer: Tokenizer = tokenizer.backend_tokenizer
        self._literal: Tokenizer | None = None
        controls = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._control = re.compile("|".join(map(re.escape, sorted(controls, key=len, reverse=True))) or r"(?!)")
        self.im_end = self._id(IM_END)
        self.im_start = self._id(IM_START)
        self.image_pad = self._id(IMAGE_PAD)
        self._vision_start, self._vision_end = self._id(VISION_START), self._id(VISION_END)
        self.forbidden = tuple(sorted(self._id(token) for token in controls if token != IM_END))
        """Control tokens that no policy may sample: each would end, open or illustrate the turn behind our back."""
        self.padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.im_end
        self._preamble = self._template_preamble(tokenizer)

    def render(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """The same segments, each with token ids; image placeholders are expanded and named by spans."""
        rendered: list[Segment] = []
        open_turn = False
        for segment in segments:
            done = segment if segment.token_ids is not None else self._render(segment, open_turn)
            rendered.append(done)
            if done.token_ids:
                open_turn = done.origin not in (Origin.PROMPT, Origin.OBSERVATION) and done.token_ids[-1] != self.im_end
        return tuple(rendered)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; control tokens in it are spelled, not obeyed."""
        tokenizer = self._literal_tokenizer() if self._control.search(text) else self._tokenizer
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Exact text of token ids, control tokens included."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def _render(self, segment: Segment, open_turn: bool) -> Segment:
        writer = _Writer(self)
        match segment.origin:
            case Origin.PROMPT:
                if segment.messages and segment.messages[0].role is not Role.SYSTEM:
                    writer.ids.extend(self._preamble)
                for message in segment.messages:
                    writer.message(message)
                writer.header(Role.ASSISTANT)
            case Origin.OBSERVATION:
                if open_turn:
                    writer.control(self.im_end)
                writer.text("\n")
                for message in segment.messages:
                    writer.message(message)
                writer.header(Role.ASSISTANT)
            case Origin.POLICY | Origin.FORCED | Origin.DEMONSTRATION:
                writer.text(segment.text)
                if segment.origin is Origin.DEMONSTRATION:
                    writer.control(self.im_end)
        writer.flush()
        return segment.rendered(tuple(writer.ids), tuple(writer.spans))

    def _literal_tokenizer(self) -> Tokenizer:
        if self._literal is None:
            # A copy, because the switch is a property of the whole tokenizer and others encode with it.
            literal = type(self._tokenizer).from_str(self._tokenizer.to_str())
            literal.encode_special_tokens = True
            self._literal = literal
        return self._literal

    def _id(self, token: str) -> int:
        index: int | None = self._tokenizer.token_to_id(token)
        if index is None:
            raise PolicyError(
                f"expected a tokenizer with the control token {token}, found none; is this a Qwen-VL checkpoint?",
                reason="CHECKPOINT_UNSUPPORTED",
                token=token,
            )
        return index

    def _template_preamble(self, tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
        """What the checkpoint's own template puts before a conversation that brings no system message."""
        if tokenizer.chat_template is None:
            return ()
        bare = str(tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False))
        preamble = bare[: max(bare.rfind(f"{IM_START}user"), 0)]
        return tuple(self._tokenizer.encode(preamble, add_special_tokens=False).ids)


class _Writer:
    """Collects ids; neighbouring pieces of text are tokenised together, as the template would."""

    def __init__(self, renderer: ChatRenderer) -> None:
        self._renderer = renderer
        self._text: list[str] = []
        self.ids: list[int] = []
        self.spans: list[ImageSpan] = []

    def text(self, text: str) -> None:
        self._text.append(text)

    def control(self, *token_ids: int) -> None:
        self.flush()
        self.ids.extend(token_ids)

    def flush(self) -> None:
        if text := "".join(self._text):
            self.ids.extend(self._renderer.encode(text))
        self._text.clear()

    def header(self, role: Role) -> None:
        self.control(self._renderer.im_start)
        self.text(f"{role}\n")

    def message(self, message: Message) -> None:
        self.header(message.role)
        for part in message.parts:
            if isinstance(part, Image):
                self._image(part)
            else:
                self.text(part)
        self.control(self._renderer.im_end)
        self.text("\n")

    def _image(self, image: Image) -> None:
        renderer = self._renderer
        length = renderer.resize.visual_tokens(image.size)
        self.control(renderer._vision_start)
        self.spans.append(ImageSpan(len(self.ids), length, image))
        self.control(*[renderer.image_pad] * length, renderer._vision_end)
