"""Bring a checkpoint to a folder of this machine, once, and prove that it is the one that was asked for.

A source is a folder, `s3://bucket/prefix` or `hf://OWNER/NAME` of the Hugging Face Hub. What is fetched lies beside
its place until its digest is right and then takes that place in one rename, so whoever finds the folder finds it
whole. A fetch that was killed goes on with the file that it was at. `upload_model` is the way into storage. Nothing
here opens a checkpoint: that is `vigorl_lib.models.loading`.

The digest of a model is the SHA-256 of the text that `sha256sum` prints for its files, sorted by name; hidden files
and the commit marker do not count. In a shell, inside the folder:

    find * -type f ! -name COMMITTED | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vigorl_lib.errors import ConfigError, CorruptObject, ObjectNotFound, StorageError
from vigorl_lib.models.hub import hub_errors
from vigorl_lib.models.weights import open_parent
from vigorl_lib.storage import commit
from vigorl_lib.storage.base import TEMPORARY_PREFIX, Checksum, Storage, checksum_stream, files_below

HUB = "hf://"
RECORD = ".vigorl-model.json"
"""Says in the folder what it holds; written before the folder takes its place."""
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
"""What is taken from a repository of the Hub: a checkpoint may lie there in several formats."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REVISION = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """A model in its place; `files` gives each file's size in bytes, `digest` is `sha256:…`."""

    source: str
    revision: str
    digest: str
    files: dict[str, int]

    @property
    def size_bytes(self) -> int:
        return sum(self.files.values())


def fetch_model(
    source: str,
    folder: Path,
    *,
    digest: str = "",
    revision: str = "",
    on_file: Callable[[str], None] = lambda name: None,
) -> FetchedModel:
    """Fill `folder` from `source`, or find that this was done before.

    `digest` is what the model must have; without one, that of the source's commit marker if it has one. `revision`
    is the full commit of a repository of the Hub, which nothing else has. `on_file` hears of each file before it is
    fetched. Raises ConfigError (DIGEST_INVALID, REVISION_INVALID, MODEL_FOLDER_TAKEN), CorruptObject (MODEL_CORRUPT),
    ObjectNotFound, StorageError.
    """
    _check_arguments(source, digest, revision)
    if folder.exists():
        return _found(folder, digest)
    partial = folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}")
    partial.mkdir(parents=True, exist_ok=True)
    if source.startswith(HUB):
        _fetch_hub(source.removeprefix(HUB), revision, partial)
    else:
        storage, name = open_parent(source)
        digest = digest or _committed_digest(storage, name)
        _fetch_storage(storage, name, partial, on_file)
    model = _measured(source, revision, partial)
    if digest and model.digest != digest:
        # What is there is of no use to another try either.
        shutil.rmtree(partial)
        raise CorruptObject(
            f"{source}: expected a model of digest {digest}, found {model.digest}; the source has changed, or the "
            "digest is of another model: check both, then fetch again",
            reason="MODEL_CORRUPT",
            expected=digest,
            found=model.digest,
        )
    (partial / RECORD).write_text(json.dumps(asdict(model), indent=1, sort_keys=True), encoding="utf-8")
    try:
        partial.rename(folder)
    except OSError:
        # Another fetch of the same model was here first.
        return _found(folder, model.digest)
    return model


def fetched(folder: Path) -> FetchedModel | None:
    """What `fetch_model` put into a folder; None where it put nothing. Files are checked by their sizes.

    Raises CorruptObject (MODEL_CORRUPT).
    """
    try:
        model = FetchedModel(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    for name, size in model.files.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            raise CorruptObject(
                f"{folder / name}: expected {size} bytes, found {'no file' if found is None else found}; delete "
                f"{folder} and fetch the model again",
                reason="MODEL_CORRUPT",
                file=name,
            )
    return model


def wait_for_model(folder: Path, digest: str, timeout_s: float) -> FetchedModel:
    """The model of this digest, once somebody has fetched it into `folder`.

    Raises StorageError (MODEL_MISSING) when the time is over, otherwise as `fetch_model`.
    """
    end = time.monotonic() + timeout_s
    while not folder.exists():
        if time.monotonic() > end:
            raise StorageError(
                f"{folder}: nobody has fetched a model here within {timeout_s:g} s; look at the job that should",
                reason="MODEL_MISSING",
                folder=folder,
            )
        time.sleep(_POLL_S)
    return _found(folder, digest)


def digest_of(source: str) -> str:
    """Digest of a model in a folder or a bucket, reading all of it unless a commit marker tells."""
    storage, name = open_parent(source)
    return _committed_digest(storage, name) or _digest(
        {key: storage.checksum(f"{name}/{key}").sha256 for key in _files(storage, name)}
    )


def upload_model(folder: Path, uri: str) -> str:
    """Put a model into storage with a commit marker, or find that this was done before; its digest.

    Raises ConfigError (MODEL_FOLDER_TAKEN) where another model lies, ObjectNotFound for a folder without files,
    StorageError.
    """
    digest = digest_of(str(folder))
    storage, name = open_parent(uri)
    there = _committed_digest(storage, name)
    if there and there != digest:
        raise ConfigError(
            f"{uri} holds the model {there}, which others may rely on; upload to another place",
            reason="MODEL_FOLDER_TAKEN",
            uri=uri,
        )
    if not there:
        storage.upload_folder(folder, name)
        commit.commit(storage, name, {})
    return digest


def _check_arguments(source: str, digest: str, revision: str) -> None:
    if digest and not _DIGEST.fullmatch(digest):
        raise ConfigError(
            f"expected a digest 'sha256:' and 64 hex digits, found {digest!r}; `vigorl models digest` prints one",
            reason="DIGEST_INVALID",
        )
    hub = source.startswith(HUB)
    if hub and not _REPOSITORY.fullmatch(source.removeprefix(HUB)):
        raise ConfigError(f"expected hf://OWNER/NAME, found {source!r}", reason="STORAGE_URI", uri=source)
    if hub and not _REVISION.fullmatch(revision):
        raise ConfigError(
            f"{source}: expected a revision of 40 hex digits, found {revision!r}: branches and tags move, so name the "
            "commit",
            reason="REVISION_INVALID",
        )
    if revision and not hub:
        raise ConfigError(f"{source} has no revisions; leave it out", reason="REVISION_INVALID")


def _found(folder: Path, digest: str) -> FetchedModel:
    model = fetched(folder)
    if model is None or (digest and model.digest != digest):
        holds = "something else" if model is None else f"the model {model.digest} from {model.source}"
        raise ConfigError(
            f"{folder} holds {holds}; fetch into another folder, or delete this one",
            reason="MODEL_FOLDER_TAKEN",
            folder=folder,
        )
    return model


def _measured(source: str, revision: str, folder: Path) -> FetchedModel:
    sums: dict[str, Checksum] = {}
    for name, path in files_below(folder):
        if _counts(name):
            with path.open("rb") as stream:
                sums[name] = checksum_stream(stream)
    digest = _digest({name: checksum.sha256 for name, checksum in sums.items()})
    return FetchedModel(source, revision, digest, {name: checksum.size for name, checksum in sums.items()})


def _digest(sums: Mapping[str, str]) -> str:
    lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums, key=str.encode))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def _committed_digest(storage: Storage, name: str) -> str:
    """Empty where there is no marker."""
    if not storage.exists(f"{name}/{commit.MARKER}"):
        return ""
    objects = commit.committed_objects(storage, name)
    return _digest({key: checksum.sha256 for key, checksum in objects.items() if _counts(key)})


def _counts(name: str) -> bool:
    return name != commit.MARKER and not any(part.startswith(".") for part in name.split("/"))


def _files(storage: Storage, name: str) -> list[str]:
    """Files of a model by their names in it. Raises ObjectNotFound where there is none."""
    found = [key.removeprefix(f"{name}/") for key in storage.list(f"{name}/")]
    if wanted := [key for key in found if _counts(key)]:
        return wanted
    raise ObjectNotFound(
        f"nothing under {name}/ in {storage.uri}; check the address", reason="OBJECT_NOT_FOUND", key=name
    )


def _fetch_storage(storage: Storage, name: str, partial: Path, on_file: Callable[[str], None]) -> None:
    for key in _files(storage, name):
        target = partial / key
        if target.is_file():
            continue
        on_file(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{TEMPORARY_PREFIX}{target.name}")
        storage.download(f"{name}/{key}", temporary)
        temporary.rename(target)


def _fetch_hub(repository: str, revision: str, partial: Path) -> None:
    from huggingface_hub import snapshot_download

    check = "name and revision, and HF_TOKEN for a repository that asks for one"
    with hub_errors(f"{HUB}{repository} at {revision}", check=check):
        snapshot_download(repository, revision=revision, local_dir=partial, allow_patterns=list(HUB_FILES))
