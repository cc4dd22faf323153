"""Downloads: what is chosen, proved, gone on with and unpacked, against a hub on loopback that misbehaves."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.hub_server import COMMIT, FakeHub, serving
from tests.evaluation.benchmark_files import write_benchmark_files
from tests.fixtures_s3 import s3_environment
from vigorl_lib.data import hub as hub_module
from vigorl_lib.data.archives import unpack
from vigorl_lib.data.download import Plan, download, plan_download
from vigorl_lib.data.hub import Hub
from vigorl_lib.data.sources import DataSource, data_sources, find_source
from vigorl_lib.domain.image import digest
from vigorl_lib.errors import ConfigError, CorruptObject, DataError, StorageError
from vigorl_lib.evaluation.benchmarks import BENCHMARKS
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.config import S3Settings
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.s3 import S3Storage


def tar_of(members: dict[str, bytes], link: tuple[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        if link is not None:
            info = tarfile.TarInfo(link[0])
            info.type, info.linkname = tarfile.SYMTYPE, link[1]
            tar.addfile(info)
    return buffer.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as container:
        for name, data in members.items():
            container.writestr(name, data)
    return buffer.getvalue()


INSIDE = {"task/a.jsonl": b'{"id": 1}\n', "task/images/a.png": b"x" * 5000, "task/._a.jsonl": b"a Mac's"}
FILES = {
    "README.md": b"words",
    "data/test-00000.parquet": b"p" * 3000,
    "data/small.json": b"[]",
    "task.tar": tar_of(INSIDE),
    "pictures/all.zip": zip_of({"b.png": b"z" * 200}),
}


def source(*patterns: str) -> DataSource:
    return DataSource("mine", "Mine", "team/data", patterns or ("data/*", "*.tar", "*.zip"), 0, "", "test", "")


@pytest.fixture
def fake() -> Iterator[FakeHub]:
    with serving(FakeHub(dict(FILES))) as hub:
        yield hub


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "BACKOFF_S", 0.0)
    monkeypatch.setattr(hub_module, "TRIES", 3)


def planned(fake: FakeHub, uri: str, *patterns: str) -> tuple[Plan, Hub]:
    hub = Hub(fake.url, token="")
    return plan_download(source(*patterns), uri, hub), hub


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WANTED = {
    "data/test-00000.parquet": FILES["data/test-00000.parquet"],
    "data/small.json": b"[]",
    "task/a.jsonl": INSIDE["task/a.jsonl"],
    "task/images/a.png": INSIDE["task/images/a.png"],
    "pictures/b.png": b"z" * 200,
}


def test_chosen_files_come_and_archives_are_unpacked_where_they_lay(fake: FakeHub, tmp_path: Path) -> None:
    target = tmp_path / "target"
    plan, hub = planned(fake, str(target))
    assert plan.size_bytes == sum(len(data) for name, data in FILES.items() if name != "README.md")
    assert not target.exists()
    seen: list[tuple[str, int, int]] = []
    download(plan, hub, target / ".scratch", lambda *told: seen.append(told))
    found = contents(target)
    record = json.loads(found.pop(".vigorl-download-mine.json"))
    assert found == WANTED
    assert (record["commit"], record["licence"], record["repository"]) == (COMMIT, "mit", "team/data")
    assert record["files"]["task.tar"]["unpacked"] == 2
    assert record["files"]["data/test-00000.parquet"]["sha256"] == digest(WANTED["data/test-00000.parquet"])
    assert seen[-1][1:] == (plan.size_bytes, plan.size_bytes)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_a_second_call_asks_for_no_file_again(fake: FakeHub, tmp_path: Path) -> None:
    plan, hub = planned(fake, str(tmp_path / "t"))
    download(plan, hub, tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()
    fake.requests.clear()
    (tmp_path / "t" / "data" / "small.json").unlink()
    plan, hub = planned(fake, str(tmp_path / "t"))
    assert [file.path for file in plan.waiting] == ["data/small.json"]
    download(plan, hub, tmp_path / "scratch")
    assert fake.fetched == [("data/small.json", "")]


def test_another_commit_brings_only_what_changed(fake: FakeHub, tmp_path: Path) -> None:
    plan, hub = planned(fake, str(tmp_path / "t"))
    download(plan, hub, tmp_path / "scratch")
    fake.commit = "f" * 40
    fake.files["task.tar"] = tar_of({"task/a.jsonl": b"another"})
    plan, hub = planned(fake, str(tmp_path / "t"))
    assert [file.path for file in plan.waiting] == ["task.tar"]


def test_a_broken_connection_goes_on_where_it_ended(fake: FakeHub, tmp_path: Path) -> None:
    fake.broken_after = 1300
    plan, hub = planned(fake, str(tmp_path / "t"), "data/test*")
    download(plan, hub, tmp_path / "scratch")
    assert contents(tmp_path / "t")["data/test-00000.parquet"] == WANTED["data/test-00000.parquet"]
    assert [asked for _, asked in fake.fetched] == ["", "bytes=1300-", "bytes=2600-"]


def test_a_killed_download_goes_on_in_another_process(fake: FakeHub, tmp_path: Path) -> None:
    fake.broken_after = 1000
    plan, hub = planned(fake, str(tmp_path / "t"), "*.tar")

    class Killed(BaseException):
        pass

    def kill(what: str, done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        download(plan, hub, tmp_path / "scratch", kill)
    fake.broken_after = None
    fake.requests.clear()
    plan, hub = planned(fake, str(tmp_path / "t"), "*.tar")
    download(plan, hub, tmp_path / "scratch")
    assert fake.fetched == [("task.tar", "bytes=1000-")]
    assert (tmp_path / "t" / "task" / "a.jsonl").read_bytes() == INSIDE["task/a.jsonl"]


def test_one_that_is_killed_while_it_unpacks_is_not_fetched_again(fake: FakeHub, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(what: str, done: int, total: int) -> None:
        if what == "task.tar: 1 files":
            raise Killed

    plan, hub = planned(fake, str(tmp_path / "t"), "*.tar")
    with pytest.raises(Killed):
        download(plan, hub, tmp_path / "scratch", kill)
    fake.requests.clear()
    plan, hub = planned(fake, str(tmp_path / "t"), "*.tar")
    download(plan, hub, tmp_path / "scratch")
    assert fake.fetched == []
    assert (tmp_path / "t" / "task" / "images" / "a.png").exists()


def test_files_that_are_there_already_are_proved_and_taken(fake: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "t" / "data").mkdir(parents=True)
    (tmp_path / "t" / "data" / "small.json").write_bytes(b"[]")
    (tmp_path / "t" / "data" / "test-00000.parquet").write_bytes(b"another content")
    plan, hub = planned(fake, str(tmp_path / "t"), "data/*")
    download(plan, hub, tmp_path / "scratch")
    assert fake.fetched == [("data/test-00000.parquet", "")]
    assert contents(tmp_path / "t")["data/test-00000.parquet"] == WANTED["data/test-00000.parquet"]


def test_a_path_of_the_hub_that_leads_out_of_the_folder_is_refused(fake: FakeHub, tmp_path: Path) -> None:
    fake.files["../outside"] = b"x"
    with pytest.raises(StorageError) as caught:
        planned(fake, str(tmp_path / "t"), "*outside")
    assert caught.value.reason == "KEY_INVALID"


def test_a_server_without_ranges_begins_anew(fake: FakeHub, tmp_path: Path) -> None:
    fake.broken_after, fake.ranges = 1300, False
    plan, hub = planned(fake, str(tmp_path / "t"), "data/test*")
    with pytest.raises(StorageError, match="start again") as caught:
        download(plan, hub, tmp_path / "scratch")
    assert (caught.value.reason, caught.value.infrastructure) == ("HUB_UNREACHABLE", True)
    fake.broken_after = None
    download(plan, hub, tmp_path / "scratch")
    assert contents(tmp_path / "t")["data/test-00000.parquet"] == WANTED["data/test-00000.parquet"]


@pytest.mark.parametrize(
    ("name", "told"), [("task.tar", "SHA-256 0000"), ("data/small.json", "git blob 0000")], ids=["large", "small"]
)
def test_bytes_of_another_digest_are_refused_and_not_kept(fake: FakeHub, tmp_path: Path, name: str, told: str) -> None:
    fake.told_digest[name] = "0" * 64
    plan, hub = planned(fake, str(tmp_path / "t"), name)
    with pytest.raises(CorruptObject, match=rf"{name}: expected .* {told}") as caught:
        download(plan, hub, tmp_path / "scratch")
    assert caught.value.reason == "DOWNLOAD_CORRUPT"
    assert contents(tmp_path) == {}


def test_a_file_that_is_longer_than_told_is_refused(fake: FakeHub, tmp_path: Path) -> None:
    plan, hub = planned(fake, str(tmp_path / "t"), "data/small.json")
    fake.files["data/small.json"] = b"[" + b" " * 50 + b"]"
    with pytest.raises(CorruptObject, match="expected 2 bytes"):
        download(plan, hub, tmp_path / "scratch")


@pytest.mark.parametrize(("status", "infrastructure"), [(404, False), (401, False), (503, True)])
def test_a_refusal_says_what_to_check(fake: FakeHub, tmp_path: Path, status: int, infrastructure: bool) -> None:
    fake.status = status
    with pytest.raises(StorageError) as caught:
        planned(fake, str(tmp_path / "t"))
    assert caught.value.infrastructure is infrastructure
    if status != 503:
        assert "HF_TOKEN" in caught.value.message


def test_no_way_to_the_hub_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be reached"):
        plan_download(source(), str(tmp_path / "t"), Hub("http://127.0.0.1:9", token=""))


def test_a_pattern_without_files_tells_what_there_is(fake: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file like \*\.bin; it holds README\.md, data, pictures, task\.tar"):
        planned(fake, str(tmp_path / "t"), "*.bin")


def test_the_token_goes_to_the_hub_and_no_further(fake: FakeHub, tmp_path: Path) -> None:
    with serving(FakeHub(dict(FILES), broken_after=1500)) as store:
        fake.elsewhere = store.url
        hub = Hub(fake.url, token="hf_secret")
        plan = plan_download(source("data/test*"), str(tmp_path / "t"), hub)
        download(plan, hub, tmp_path / "scratch")
        assert {headers.get("authorization") for _, headers in fake.requests} == {"Bearer hf_secret"}
        assert [asked for _, asked in store.fetched] == ["", "bytes=1500-"]
        assert {headers.get("authorization") for _, headers in store.requests} == {None}
    assert contents(tmp_path / "t")["data/test-00000.parquet"] == WANTED["data/test-00000.parquet"]


def test_a_bucket_gets_the_same_files(
    fake: FakeHub, tmp_path: Path, s3_storage: S3Storage, s3_settings: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_environment(s3_settings).items():
        monkeypatch.setenv(name, value)
    plan, hub = planned(fake, f"{s3_storage.uri}/mine")
    download(plan, hub, tmp_path / "scratch")
    found = {key.removeprefix("mine/"): s3_storage.read(key) for key in s3_storage.list("mine/")}
    assert json.loads(found.pop(".vigorl-download-mine.json"))["commit"] == COMMIT
    assert found == WANTED
    assert planned(fake, f"{s3_storage.uri}/mine")[0].waiting == []


@pytest.mark.parametrize(
    "data",
    [
        tar_of({"../outside.txt": b"x"}),
        tar_of({"/etc/../../outside.txt": b"x"}),
        tar_of({"a.txt": b"x"}, link=("b.txt", "/etc/hostname")),
        tar_of({"a.txt": b"x"}, link=("b.txt", "../../outside.txt")),
    ],
    ids=["parent", "hidden parent", "link to a file of the machine", "link to a parent"],
)
def test_a_tar_that_leads_out_of_its_folder_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError) as caught:
        unpack(tmp_path / "x.tar", FolderStorage(tmp_path / "t"), "in")
    assert caught.value.reason == "ARCHIVE_UNSAFE"
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"x.tar", "a.txt"}


def test_a_link_within_a_tar_becomes_a_copy(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_of({"in/a.txt": b"text"}, link=("in/b.txt", "a.txt")))
    storage = open_storage(str(tmp_path / "t"))
    assert unpack(tmp_path / "x.tar", storage, "") == 2
    assert storage.read("in/b.txt") == b"text"


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "..\\outside.txt"])
def test_a_zip_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.zip").write_bytes(zip_of({name: b"x"}))
    with pytest.raises(DataError) as caught:
        unpack(tmp_path / "x.zip", FolderStorage(tmp_path / "t"), "in")
    assert caught.value.reason == "ARCHIVE_UNSAFE"


@pytest.mark.parametrize("name", ["x.tar", "x.zip", "x.tar.gz"])
def test_what_is_no_whole_archive_is_told(tmp_path: Path, name: str) -> None:
    whole = zip_of(INSIDE) if name == "x.zip" else tar_of(INSIDE)
    (tmp_path / name).write_bytes(whole[:3000])
    with pytest.raises(DataError) as caught:
        unpack(tmp_path / name, FolderStorage(tmp_path / "t"), "in")
    assert caught.value.reason == "ARCHIVE_UNREADABLE"


def test_every_benchmark_has_its_files_under_a_name_of_the_table() -> None:
    repositories = {entry.repository for entry in data_sources().values()}
    needed = {layout.source.split(",")[0] for one in BENCHMARKS.values() for layout in one.layouts}
    assert {name for name in needed if "/" in name} <= repositories
    for entry in data_sources().values():
        assert entry.files
        assert "FOLDER" in entry.next
    with pytest.raises(ConfigError, match="screenspot-pro"):
        find_source("screenspotpro")


PUBLISHED = {
    "blink": "val",
    "vstar": "test",
    "screenspot-v2": "test",
    "screenspot-pro": "test",
    "os-atlas": "desktop",
    "sat2": "val",
    "mmmu": "validation",
    "realworldqa": "test",
}


def test_what_is_downloaded_of_each_benchmark_can_be_imported(tmp_path: Path) -> None:
    write_benchmark_files(tmp_path / "published")
    for name, split in PUBLISHED.items():
        files = contents(tmp_path / "published" / name)
        if name == "screenspot-v2":
            pictures = {path: files.pop(path) for path in list(files) if path.endswith(".png")}
            files["screenspotv2_image.zip"] = zip_of(pictures)
        with serving(FakeHub({"README.md": b"words", **files}, page=100)) as fake:
            hub = Hub(fake.url, token="")
            plan = plan_download(replace(find_source(name), repository="team/data"), str(tmp_path / name), hub)
            download(plan, hub, tmp_path / "scratch")
        assert not (tmp_path / name / "README.md").exists()
        assert list(BENCHMARKS[name].examples(tmp_path / name, split))
