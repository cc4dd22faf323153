"""What the Hugging Face Hub's own client raises, as our errors. Data sets have their own way there (`data.hub`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vigorl_lib.errors import StorageError


@contextmanager
def hub_errors(what: str, *, check: str) -> Iterator[None]:
    """`check` says what a refusal may come from. Raises StorageError (HUB_REFUSED, HUB_UNREACHABLE)."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise StorageError(
            f"{what}: the Hub answered with status {status}; check {check}",
            reason="HUB_REFUSED",
            infrastructure=status >= 500 or status == 429,
            status=status,
        ) from error
    except OSError as error:
        raise StorageError(
            f"{what}: the Hub cannot be reached ({type(error).__name__}); check the way there, and that HF_HUB_OFFLINE "
            "is not 1",
            reason="HUB_UNREACHABLE",
        ) from error
