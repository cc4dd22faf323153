"""Requests in vLLM's terms, and its answers in ours. Values only: nothing is sent or awaited here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vigorl_lib.errors import PolicyError
from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.inputs import TokenSequence
from vigorl_lib.policy.base import Completion, FinishReason, Sampling, StreamDelta, TopLogprobs
from vigorl_lib.policy.intake import Prepared
from vigorl_lib.policy.stops import StopDetector

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput, RequestOutput

FORBIDDEN_BIAS = -100.0
"""Added to the logits of control tokens: the most that vLLM takes, and e**-100 of a chance."""


class VllmDialect:
    """For one tokenizer and one resize rule. `name` is the policy's, for messages."""

    def __init__(self, renderer: ChatRenderer, name: str) -> None:
        self._renderer = renderer
        self._name = name
        self._stops = StopDetector(renderer)
        self._forbidden = dict.fromkeys(renderer.forbidden, FORBIDDEN_BIAS)
        resize = renderer.resize
        self._image_settings = f"{resize.factor}-{resize.min_pixels}-{resize.max_pixels}"

    def prompt(self, prepared: Prepared) -> Any:
        """Exact tokens with one placeholder an image, the images' views, and an id for each.

        The id is the image's digest with the resize rule: the key of vLLM's caches of processed images and prefixes.
        """
        from PIL import Image as PILImage
        from vllm.inputs import TokensPrompt

        sequence = prepared.sequence
        prompt = TokensPrompt(prompt_token_ids=_one_placeholder_an_image(sequence))
        if sequence.image_spans:
            digests = [span.image.sha256 for span in sequence.image_spans]
            prompt["multi_modal_data"] = {"image": [PILImage.fromarray(prepared.views[one]) for one in digests]}
            prompt["multi_modal_uuids"] = {"image": [f"{one}-{self._image_settings}" for one in digests]}
        return prompt

    def sampling(self, sampling: Sampling, seed: int, *, whole: bool) -> Any:
        """How to sample one completion; `whole` asks for a single answer at its end."""
        return sampling_params(
            sampling,
            seed,
            whole=whole,
            stop_token_ids=[self._renderer.im_end, *sampling.stop_token_ids],
            ignore_eos=True,
            logprobs=sampling.top_logprobs,
            flat_logprobs=True,
            logit_bias=self._forbidden,
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
        )

    def scoring(self) -> Any:
        """How to get the log-prob of each token of a prompt, at temperature 1. vLLM must sample one token too."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def completion(self, output: CompletionOutput, sampling: Sampling, version: int) -> Completion:
        """Raises PolicyError (GENERATION_ABORTED) for a sample that did not end by its own rules."""
        reason = self._finish_reason(output)
        token_ids, flat = tuple(output.token_ids), output.logprobs
        tops: tuple[TopLogprobs, ...] = ()
        if sampling.top_logprobs:
            tops = tuple(_top(flat, place, sampling.top_logprobs) for place in range(len(token_ids)))
        text = self._stops.text(token_ids, sampling.stop, reason)
        return Completion(text, token_ids, _first(flat), reason, version, tops)

    def prompt_logprobs(self, output: RequestOutput) -> list[float]:
        """One per token of the prompt; the first, which nothing comes before, has 0."""
        return [0.0, *_first(output.prompt_logprobs)[1:]]

    def pieces(self) -> Pieces:
        return Pieces(self._renderer)

    def _finish_reason(self, output: CompletionOutput) -> FinishReason:
        match output.finish_reason, output.stop_reason:
            case "stop", str():
                return FinishReason.STOP_STRING
            case "stop", self._renderer.im_end:
                return FinishReason.END_OF_TURN
            case "stop", _:
                return FinishReason.STOP_TOKEN
            case "length", _:
                return FinishReason.LENGTH
        raise PolicyError(
            f"the engine of policy {self._name} ended a sample with {output.finish_reason!r}",
            reason="GENERATION_ABORTED",
            infrastructure=True,
        )


class Pieces:
    """Puts the deltas of one sample together."""

    def __init__(self, renderer: ChatRenderer) -> None:
        self._renderer = renderer
        self._token_ids: list[int] = []
        self._logprobs: Any = None
        self._last: Any = None
        self._said = ""

    def add(self, piece: CompletionOutput) -> StreamDelta:
        self._token_ids.extend(piece.token_ids)
        if self._logprobs is None:
            self._logprobs = piece.logprobs
        else:
            self._logprobs.extend(piece.logprobs)
        self._last = piece
        text = piece.text
        if isinstance(piece.stop_reason, int):
            # The token that ended the sample is none of its text.
            text = text.removesuffix(self._renderer.decode([piece.stop_reason]))
        self._said += text
        return StreamDelta(text, tuple(piece.token_ids), _first(piece.logprobs))

    def whole(self) -> CompletionOutput:
        last: CompletionOutput = self._last
        last.token_ids, last.logprobs = self._token_ids, self._logprobs
        return last

    def rest(self, text: str) -> str:
        """What of the whole text no piece has said: vLLM keeps the bytes of an unfinished character to itself."""
        return text.removeprefix(self._said) if text.startswith(self._said) else ""


def sampling_params(sampling: Sampling, seed: int, *, whole: bool, **more: Any) -> SamplingParams:
    """vLLM's parameters of one completion; `whole` asks for a single answer at its end."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        seed=seed,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        frequency_penalty=sampling.frequency_penalty,
        max_tokens=sampling.max_tokens,
        stop=list(sampling.stop),
        include_stop_str_in_output=True,
        output_kind=RequestOutputKind.FINAL_ONLY if whole else RequestOutputKind.DELTA,
        **more,
    )


def _one_placeholder_an_image(sequence: TokenSequence) -> list[int]:
    """Token ids with each image's placeholders as one, which is what vLLM expands."""
    ids: list[int] = []
    done = 0
    for span in sequence.image_spans:
        ids.extend(sequence.token_ids[done : span.start + 1])
        done = span.start + span.length
    return [*ids, *sequence.token_ids[done:]]


def _first(flat: Any) -> tuple[float, ...]:
    """Log-prob of the token at each place, which vLLM puts before the likeliest ones; 0 where there is none."""
    places = zip(flat.start_indices, flat.end_indices, strict=True)
    return tuple(flat.logprobs[start] if start < end else 0.0 for start, end in places)


def _top(flat: Any, place: int, count: int) -> TopLogprobs:
    """The likeliest tokens at a place; the sampled one stands before them and is among them again if it is one."""
    entries = range(flat.start_indices[place] + 1, flat.end_indices[place])
    return tuple((flat.token_ids[entry], flat.logprobs[entry]) for entry in entries[:count])
