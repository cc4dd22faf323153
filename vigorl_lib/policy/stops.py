"""Finds the end of a turn in a growing list of token ids without decoding all of it again.

A stop string can only be completed by a token whose text holds the string's last character; what such a token
completes is then looked up in the text of the last few tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.policy.base import FinishReason, Sampling


class StopDetector:
    """Stop rule of one tokenizer. For one thread."""

    def __init__(self, renderer: ChatRenderer) -> None:
        self._renderer = renderer
        self._texts: dict[int, str] = {}

    def finished(self, token_ids: Sequence[int], sampling: Sampling) -> FinishReason | None:
        """Why sampling ends after these tokens, None if it goes on."""
        last = token_ids[-1]
        if last == self._renderer.im_end:
            return FinishReason.END_OF_TURN
        if last in sampling.stop_token_ids:
            return FinishReason.STOP_TOKEN
        if sampling.stop and self._completes(token_ids, last, sampling.stop):
            return FinishReason.STOP_STRING
        return FinishReason.LENGTH if len(token_ids) >= sampling.max_tokens else None

    def text(self, token_ids: Sequence[int], stop: tuple[str, ...], reason: FinishReason) -> str:
        """Text of a finished turn: without the token that ended it, and up to the end of its stop string.

        A tokenizer may join the stop string's last character with what follows, so the token ids can say a
        little more than the text.
        """
        if reason in (FinishReason.END_OF_TURN, FinishReason.STOP_TOKEN):
            return self._renderer.decode(token_ids[:-1])
        text = self._renderer.decode(token_ids)
        if reason is FinishReason.STOP_STRING:
            ends = [position + len(string) for string in stop if (position := text.find(string)) >= 0]
            return text[: min(ends)] if ends else text
        return text

    def _completes(self, token_ids: Sequence[int], last: int, stop: tuple[str, ...]) -> bool:
        text = self._texts.get(last)
        if text is None:
            text = self._texts[last] = self._renderer.decode([last])
        for string in stop:
            if string[-1] in text:
                # Every token spells at least one byte, so this many are sure to hold the whole string.
                tail = self._renderer.decode(token_ids[-len(string.encode()) :])
                if string in tail:
                    return True
        return False
