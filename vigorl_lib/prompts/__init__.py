"""System prompts: one text file per task family and mode, with real newlines.

`load_prompt(family, name)` reads `<family>/<name>.txt` of this package. A prompt is data: it is named,
and its digest is written into whatever was made with it. The files ask for points in pixels of the image shown;
for another frame the same prompt is given with that frame's unit, and nothing else in it changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from vigorl_lib.domain.geometry import NORMALIZED_EXTENT, Frame
from vigorl_lib.errors import ConfigError

PIXEL_UNIT = "whole pixels of"
"""How the files name the unit of points; they name it nowhere else and in no other words."""
NORMALIZED_UNIT = f"whole numbers from 0 to {NORMALIZED_EXTENT} across"

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Prompt:
    """`name` is `family/file`; `sha256` is that of the text."""

    name: str
    text: str
    sha256: str


NO_PROMPT = Prompt("checkpoint", "", sha256(b"").hexdigest())
"""Nothing of ours: the checkpoint's chat template brings the system prompt that it was trained with."""


@lru_cache
def load_prompt(family: str, name: str, frame: Frame = Frame.MODEL) -> Prompt:
    """The prompt of a family and mode, asking for points in `frame`.

    Raises ConfigError (PROMPT_UNKNOWN) that names close ones.
    """
    known = prompt_names()
    # Membership, not existence: names come with requests, and `..` must not lead out of the folder.
    if f"{family}/{name}" not in known:
        close = get_close_matches(f"{family}/{name}", known, n=3) or known
        raise ConfigError(
            f"no prompt {family}/{name}; expected one of {', '.join(close)}", reason="PROMPT_UNKNOWN", family=family
        )
    text = (FOLDER / family / f"{name}.txt").read_text(encoding="utf-8").strip()
    if frame is Frame.NORMALIZED:
        text = text.replace(PIXEL_UNIT, NORMALIZED_UNIT)
    return Prompt(f"{family}/{name}", text, sha256(text.encode()).hexdigest())


def asking_for_pixels(text: str) -> str:
    """A prompt's text that asks for points in any frame, asking for pixels of the image shown (the model frame)."""
    return text.replace(NORMALIZED_UNIT, PIXEL_UNIT)


def prompt_names() -> list[str]:
    """All prompts as `family/name`."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in FOLDER.glob("*/*.txt"))
