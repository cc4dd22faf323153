"""Put a finished model folder where others fetch it: a repository of the Hugging Face Hub, or storage.

The way back is `vigorl_lib.models.fetch`.
"""

from __future__ import annotations

from pathlib import Path

from vigorl_lib.errors import ConfigError
from vigorl_lib.models.fetch import HUB, upload_model
from vigorl_lib.models.hub import hub_errors


def publish_model(folder: Path, uri: str) -> str:
    """Upload `folder` to `hf://OWNER/NAME` (made private where it is not there) or a storage URI.

    Returns how to name what was uploaded: the repository's commit, or the model's digest. Credentials are the Hub
    client's own (`HF_TOKEN`). Raises ConfigError (STORAGE_URI), StorageError (HUB_REFUSED, HUB_UNREACHABLE), and as
    `upload_model`.
    """
    if not uri.startswith(HUB):
        return upload_model(folder, uri)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    name, api = uri.removeprefix(HUB), HfApi()
    try:
        with hub_errors(uri, check="the name, and that HF_TOKEN may write there"):
            api.create_repo(name, private=True, exist_ok=True)
            done = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model exported by ViGoRL")
    except HFValidationError as error:
        raise ConfigError(f"expected hf://OWNER/NAME, found {uri!r} ({error})", reason="STORAGE_URI") from error
    return f"{uri} at {done.oid}"
