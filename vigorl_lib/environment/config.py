"""Settings of the zoom environment; they travel with each request, so services hold none of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vigorl_lib.config import Section
from vigorl_lib.domain.geometry import Border
from vigorl_lib.domain.wire import Spelling

MAX_SHOWN_PX = 4096
"""A request must not make a server fill its memory with one crop."""


class ZoomConfig(Section):
    """How a zoom is cut, shown and limited."""

    window_model_px: int = Field(default=364, gt=0)
    """Side of the square window in model-frame pixels (twice the reference's crop offset)."""
    window_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Side of the window as a share of the model frame's longer side, instead of a number of pixels; 0 is off."""
    shown_px: int = Field(default=672, gt=0, le=MAX_SHOWN_PX)
    """Side in pixels at which the window is shown; rounded to the model's resize factor."""
    border: Border = Border.SHIFT
    source: Literal["original", "model"] = "original"
    """Frame that pixels are cut from; `model` adds no detail and is the reference's way."""
    dot: bool = False
    """Draw a red dot at the point."""
    max_turns: int = Field(default=5, ge=1)
    """Assistant turns at most, the answer included."""
    max_zooms: int = Field(default=0, ge=0)
    """Zooms granted at most, such as a policy server's limit of images less one; 0 leaves it to `max_turns`."""
    on_invalid: Literal["tell", "ignore", "stop"] = "tell"
    """What a turn that cannot be acted on leads to: an observation that says why, a bare go-on, or the end."""
    max_invalid_turns: int = Field(default=2, ge=0)
    """The episode ends with `invalid_turns` once more turns than this were invalid."""
    min_distance_px: float = Field(default=0.0, ge=0.0)
    """A zoom nearer than this (model frame) to an earlier one is `repeated`; 0 allows every point."""
    observation: Spelling = Spelling.GRPO
    """How the crop is announced."""
    strict: bool = True
    """Strict parse of a turn; lenient takes the first thought and action wherever they stand."""
