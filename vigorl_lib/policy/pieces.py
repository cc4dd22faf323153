"""The pieces of a completion as its tokens come one by one, for an engine that gives tokens and no text."""

from __future__ import annotations

from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.policy.base import Completion, StreamDelta

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class TokenPieces:
    """Pieces of one completion. A character comes with the token that has its last byte."""

    def __init__(self, renderer: ChatRenderer) -> None:
        self._renderer = renderer
        self._unsaid: list[int] = []
        self._said = 0
        self._tokens = 0

    def add(self, token_id: int, logprob: float) -> StreamDelta:
        """A token that does not end the completion, so that all its text is text of the completion."""
        self._tokens += 1
        self._unsaid.append(token_id)
        text = self._renderer.decode(self._unsaid)
        if text.endswith(_UNFINISHED):
            text = ""
        else:
            self._unsaid.clear()
        self._said += len(text)
        return StreamDelta(text, (token_id,), (logprob,))

    def rest(self, completion: Completion) -> StreamDelta:
        """What of the whole completion no piece has said."""
        return StreamDelta(
            completion.text[self._said :],
            completion.token_ids[self._tokens :],
            completion.logprobs[self._tokens :],
        )
