"""Data set repositories of the Hugging Face Hub, or of a mirror that speaks like it, by plain HTTP.

What is asked: which commit a revision is, which files it has with size and digest, and the bytes of a file from any
offset. The address is `HF_ENDPOINT`, the token `HF_TOKEN`. Checkpoints come through `vigorl_lib.models.fetch`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urljoin

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.util import Retry, Timeout

from vigorl_lib.data.fields import Fields
from vigorl_lib.errors import CorruptObject, DataError, StorageError
from vigorl_lib.storage.base import TEMPORARY_PREFIX, check_key, checksum_stream

ENDPOINT = "https://huggingface.co"
CONNECT_S, READ_S = 20.0, 60.0
CHUNK_BYTES = 1 << 20
TRIES = 5
"""Attempts that bring nothing new before a file is given up; one that brings bytes starts the count anew."""
BACKOFF_S = 0.5

OnBytes = Callable[[int], None]
"""Gets the number of bytes that a file has so far."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a commit; the Hub tells SHA-256 of large files, and git's digest of small ones as `blob`."""

    path: str
    size: int
    sha256: str = ""
    blob: str = ""

    @property
    def digest(self) -> str:
        return self.sha256 or self.blob


@dataclass(frozen=True, slots=True)
class Commit:
    """One state of a repository: full commit, what its card gives as licence ("" if nothing), all files."""

    repository: str
    sha: str
    licence: str
    files: tuple[HubFile, ...]


class Hub:
    """A client for one endpoint. Safe to share among threads."""

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        self._endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        token = token if token is not None else os.environ.get("HF_TOKEN", "")
        # urllib3 takes the token off where the Hub sends on to another host.
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        retry = Retry(total=TRIES, backoff_factor=BACKOFF_S, status_forcelist=(429, 500, 502, 503, 504), redirect=10)
        self._pool = urllib3.PoolManager(retries=retry, timeout=Timeout(connect=CONNECT_S, read=READ_S))

    def commit(self, repository: str, revision: str = "main") -> Commit:
        """The files of a branch, tag or commit. Raises StorageError (HUB_REFUSED, HUB_UNREACHABLE)."""
        info, _ = self._json(f"/api/datasets/{repository}/revision/{quote(revision, safe='')}", repository)
        fields = Fields(info, repository)
        sha = fields.text("sha")
        card = fields.values.get("cardData")
        licence = card.get("license") if isinstance(card, dict) else None
        files: list[HubFile] = []
        url: str | None = f"/api/datasets/{repository}/tree/{sha}?recursive=true&expand=false"
        while url:
            entries, url = self._json(url, repository)
            if not isinstance(entries, list):
                raise DataError(f"{repository}: expected a list of files from the Hub", reason="HUB_ANSWER")
            files += [_file(Fields(entry, repository)) for entry in entries if entry.get("type") == "file"]
        return Commit(repository, sha, licence if isinstance(licence, str) else "", tuple(files))

    def download(self, commit: Commit, file: HubFile, path: Path, on_bytes: OnBytes = lambda size: None) -> str:
        """Put a file at `path` and return its SHA-256; what an earlier try left, there or beside it, is made use of.

        Raises CorruptObject (DOWNLOAD_CORRUPT) where size or digest are not the Hub's, StorageError (HUB_REFUSED,
        HUB_UNREACHABLE).
        """
        if file.digest and path.is_file():
            there = _measured(file, path)
            if there.right:
                return there.sha256
        # Named after the content, so that nothing goes on with the beginning of another one.
        part = path.with_name(f"{TEMPORARY_PREFIX}{(file.digest or commit.sha)[:16]}-{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        failed = 0
        while (have := part.stat().st_size if part.exists() else 0) < file.size or not part.exists():
            try:
                self._fetch(commit, file, part, have, on_bytes)
            except (HTTPError, OSError) as error:
                if isinstance(error, StorageError):
                    raise
                failed = 0 if part.exists() and part.stat().st_size > have else failed + 1
                if failed == TRIES:
                    raise _unreachable(commit.repository, self._endpoint, error) from error
                time.sleep(BACKOFF_S * failed)
        return _verified(commit, file, part, path)

    def _fetch(self, commit: Commit, file: HubFile, part: Path, offset: int, on_bytes: OnBytes) -> None:
        url = f"{self._endpoint}/datasets/{commit.repository}/resolve/{commit.sha}/{quote(file.path)}"
        headers = self._headers | ({"Range": f"bytes={offset}-"} if offset else {})
        response = self._pool.request("GET", url, headers=headers, preload_content=False)
        try:
            if response.status not in (200, 206):
                raise _refused(commit.repository, response.status)
            # A server that knows no ranges sends all of it again.
            again = response.status == 200
            size = 0 if again else offset
            with part.open("wb" if again else "ab") as stream:
                # What has come is written even if the rest of it never does.
                while chunk := response.read1(CHUNK_BYTES):
                    stream.write(chunk)
                    size += len(chunk)
                    if size > file.size:
                        break
                    on_bytes(size)
        finally:
            response.close()
        if size < file.size:
            raise HTTPError(f"the connection ended after {size} of {file.size} bytes")

    def _json(self, address: str, repository: str) -> tuple[object, str | None]:
        """A JSON answer, and the address of the next page if there is one."""
        with _reached(repository, self._endpoint):
            response = self._pool.request("GET", urljoin(f"{self._endpoint}/", address), headers=self._headers)
        if response.status != 200:
            raise _refused(repository, response.status)
        try:
            return json.loads(response.data), _next_page(response.headers.get("Link", ""))
        except ValueError as error:
            raise DataError(
                f"{repository}: expected JSON from {self._endpoint}: {error}", reason="HUB_ANSWER"
            ) from None


def _next_page(link: str) -> str | None:
    for part in link.split(","):
        address, _, relation = part.partition(";")
        if 'rel="next"' in relation:
            return address.strip().strip("<>")
    return None


def _file(fields: Fields) -> HubFile:
    # A mirror's answer must not lead out of the folder either.
    path, size = check_key(fields.text("path")), fields.integer("size")
    if "lfs" in fields:
        # What git knows of a large file is the digest of a pointer to it.
        return HubFile(path, size, sha256=fields.nested("lfs").text("oid").removeprefix("sha256:"))
    return HubFile(path, size, blob=fields.text("oid", ""))


@dataclass(frozen=True, slots=True)
class _Measured:
    """A file as it is: `digest` is of the kind that the Hub tells of it, if it tells one."""

    size: int
    sha256: str
    digest: str
    right: bool


def _measured(file: HubFile, path: Path) -> _Measured:
    with path.open("rb") as stream:
        found = checksum_stream(stream)
    digest = _blob(path) if file.blob else found.sha256
    right = found.size == file.size and file.digest in ("", digest)
    return _Measured(found.size, found.sha256, digest, right)


def _verified(commit: Commit, file: HubFile, part: Path, path: Path) -> str:
    found = _measured(file, part)
    if not found.right:
        # Nothing of it can be trusted to go on with.
        part.unlink()
        kind = "git blob" if file.blob else "SHA-256"
        raise CorruptObject(
            f"{commit.repository}: {file.path}: expected {file.size} bytes with {kind} {file.digest or 'any'}, "
            f"found {found.size} with {found.digest}; start again",
            reason="DOWNLOAD_CORRUPT",
            file=file.path,
        )
    part.replace(path)
    return found.sha256


def _blob(path: Path) -> str:
    """Git's digest of a file's content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _reached(repository: str, endpoint: str) -> Iterator[None]:
    try:
        yield
    except HTTPError as error:
        raise _unreachable(repository, endpoint, error) from error


def _unreachable(repository: str, endpoint: str, error: Exception) -> StorageError:
    return StorageError(
        f"{repository}: {endpoint} cannot be reached or broke off ({type(error).__name__}); what is there is kept: "
        "start again, or name a mirror in HF_ENDPOINT",
        reason="HUB_UNREACHABLE",
    )


def _refused(repository: str, status: int) -> StorageError:
    return StorageError(
        f"{repository}: the Hub answered with status {status}; check name and revision, and HF_TOKEN for a repository "
        "that asks for one",
        reason="HUB_REFUSED",
        infrastructure=status >= 500 or status == 429,
        status=status,
    )
