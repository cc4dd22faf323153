"""The five actions on a web page: read, written, compared, and told as history. Nothing here opens a page.

    click [id]              the element with that mark
    type [id] [content]     write into it
    scroll [down] | [up]
    go_back
    stop [answer]           the end; the answer may be missing

The spelling is the reference's (arXiv 2505.23678, its web-action prompts and data).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verb(StrEnum):
    CLICK = "click"
    TYPE = "type"
    SCROLL = "scroll"
    GO_BACK = "go_back"
    STOP = "stop"


DIRECTIONS = ("down", "up")

_VERB = re.compile(r"\s*(click|type|scroll|go_back|stop)\s*", re.IGNORECASE)
_ID = re.compile(r"\[\s*(\d{1,9})\s*\]\s*")
_REST = re.compile(r"\[(.*)\]\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class WebAction:
    """`element` is the number of a mark (click, type), `text` what is typed or answered, `direction` a scroll's."""

    verb: Verb
    element: int | None = None
    text: str = ""
    direction: str = ""

    def __str__(self) -> str:
        match self.verb:
            case Verb.CLICK:
                return f"click [{self.element}]"
            case Verb.TYPE:
                return f"type [{self.element}] [{self.text}]"
            case Verb.SCROLL:
                return f"scroll [{self.direction}]"
            case Verb.GO_BACK:
                return "go_back"
            case Verb.STOP:
                return f"stop [{self.text}]"

    def same(self, other: WebAction) -> bool:
        """Whether both do the same: all parts agree, texts but for case and blanks."""
        mine, others = (" ".join(text.lower().split()) for text in (self.text, other.text))
        return (self.verb, self.element, self.direction, mine) == (other.verb, other.element, other.direction, others)


def parse_action(text: str) -> WebAction | None:
    """The action that a text is, whole, but for blanks at its ends; None for anything else.

    Content may itself hold brackets: the last one closes it.
    """
    head = _VERB.match(text)
    if head is None:
        return None
    verb, rest = Verb(head[1].lower()), text[head.end() :]
    match verb:
        case Verb.GO_BACK:
            return WebAction(verb) if not rest else None
        case Verb.STOP:
            content = _REST.fullmatch(rest)
            return WebAction(verb, text=content[1].strip()) if content else WebAction(verb) if not rest else None
        case Verb.SCROLL:
            content = _REST.fullmatch(rest)
            way = content[1].strip().lower() if content else ""
            return WebAction(verb, direction=way) if way in DIRECTIONS else None
        case Verb.CLICK:
            mark = _ID.fullmatch(rest)
            return WebAction(verb, int(mark[1])) if mark else None
        case Verb.TYPE:
            mark = _ID.match(rest)
            content = _REST.fullmatch(rest[mark.end() :]) if mark else None
            return WebAction(verb, int(mark[1]), content[1].strip()) if mark and content else None


def history_entry(action: WebAction, elements: Mapping[int, str]) -> str:
    """One earlier action as the prompt tells it: by its element's text, because marks are drawn anew on every page.

    `elements` are texts such as `[INPUT] []` by the number of their mark.
    """
    if action.element is None:
        return str(action)
    what = elements.get(action.element, f"[{action.element}]")
    return f"{action.verb.value}  {what}" + (f" [{action.text}]" if action.verb is Verb.TYPE else "")


def question(objective: str, history: Sequence[str]) -> str:
    """The question of one step; the screenshot follows it."""
    told = "\n".join(f"{number}. {entry}" for number, entry in enumerate(history, start=1)) or "None"
    return f"OBJECTIVE: {objective}\n\nPREVIOUS ACTIONS: \n{told}\n\nIMAGE:"
