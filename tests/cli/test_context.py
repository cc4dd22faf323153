"""Contexts: the file, its commands, and commands that reach real services over TLS by a context or by options."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from tests.rpc.fakes import FakePolicy, ask, served
from tests.rpc.test_tls import Authority
from vigorl_lib.cli.common import resolve
from vigorl_lib.cli.main import cli
from vigorl_lib.errors import ConfigError, RemoteError
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.rollout.contexts import contexts_path, read_contexts
from vigorl_lib.rollout.wiring import ServicesConfig
from vigorl_lib.rpc.channels import Connections
from vigorl_lib.rpc.config import ClientConfig, ServerConfig, read_token
from vigorl_lib.rpc.server import running

TOKEN = "a-secret-of-the-lab"
NAME = "vigorl-search.lab.svc"
"""Name in the server's certificate: not the address that a forwarded port has."""


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config" / "contexts.yaml"
    monkeypatch.setenv("VIGORL_CONTEXTS", str(path))
    monkeypatch.delenv("VIGORL_AUTH__TOKEN", raising=False)
    return path


def vigorl(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def done(*arguments: str | Path) -> str:
    result = vigorl(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_the_file_is_where_the_variable_or_the_xdg_folder_says() -> None:
    assert contexts_path({"VIGORL_CONTEXTS": "/a/b.yaml", "XDG_CONFIG_HOME": "/x"}) == Path("/a/b.yaml")
    assert contexts_path({"XDG_CONFIG_HOME": "/x"}) == Path("/x/vigorl/contexts.yaml")
    assert contexts_path({}) == Path.home() / ".config" / "vigorl" / "contexts.yaml"


def test_the_first_context_is_used_at_once_and_others_when_told(file: Path) -> None:
    assert "in use" in done("context", "set", "lab", "--target", "lab.example.com:443", "--tls")
    done("context", "set", "laptop", "--target", "localhost:50051", "--target", "policies.student=localhost:50052")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_contexts(file).current == "lab"
    assert "* lab" in done("context", "list")
    done("context", "use", "laptop")
    shown = yaml.safe_load(done("context", "show"))
    assert shown == {"search": "localhost:50051", "policies": {"student": "localhost:50052"}}
    assert yaml.safe_load(done("context", "show", "lab"))["client"] == {"tls": True}
    done("context", "remove", "laptop")
    assert read_contexts(file).current == ""
    assert [path.name for path in file.parent.iterdir()] == [file.name], "no temporary file stays"


def test_a_context_keeps_whole_paths_and_never_the_token(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    monkeypatch.chdir(tmp_path)
    said = done("context", "set", "lab", "--target", "h:1", "--token-file", "token")
    assert "unencrypted" in said, "neither TLS option was given"
    assert TOKEN not in said + done("context", "show") + done("context", "list") + file.read_text()
    assert yaml.safe_load(done("context", "show"))["client"]["token_file"] == str(tmp_path / "token")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["set", "lab"], "--target HOST:PORT is missing"),
        (["set", "lab", "--target", "https://lab:443"], "without a scheme"),
        (["set", "lab", "--target", "lab"], "expected HOST:PORT"),
        (["set", "lab", "--target", "serach=lab:1"], "SERVICE one of search, "),
        (["set", "lab", "--target", "policies=lab:1"], "policies.NAME"),
        (["set", "lab", "--target", "lab:1", "--tls-ca", "/nowhere.pem"], "/nowhere.pem"),
    ],
)
def test_a_wrong_context_is_refused_in_words(arguments: list[str], words: str, file: Path) -> None:
    result = vigorl("context", *arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert not file.exists()


def test_an_unknown_context_and_a_broken_file_are_named(file: Path) -> None:
    done("context", "set", "lab", "--target", "lab:1")
    for arguments in (("use", "lub"), ("show", "lub"), ("remove", "lub")):
        error = vigorl("context", *arguments).exception
        assert isinstance(error, ConfigError)
        assert error.reason == "CONTEXT_UNKNOWN"
        assert "known: lab" in error.message
    file.write_text("contexts: {lab: {serach: x}}")
    error = vigorl("context", "list").exception
    assert isinstance(error, ConfigError)
    assert "did you mean 'search'" in error.message or "serach" in error.message
    file.write_text("{")
    error = vigorl("context", "list").exception
    assert isinstance(error, ConfigError)
    assert error.reason == "CONTEXTS_INVALID"


def test_a_context_stands_between_a_recipe_and_the_overrides_of_the_user() -> None:
    done("context", "set", "lab", "--target", "lab:1", "--target", "reward=lab:2", "--tls")
    recipe = resolve("quickstart", ("services.reward=own:3", "services.client.timeout_s=7"), context="lab")
    services = recipe.services
    assert (services.search, services.reward, services.client.tls, services.client.timeout_s) == (
        "lab:1",
        "own:3",
        True,
        7.0,
    )
    assert resolve("quickstart", ()).services == ServicesConfig(), "a recipe alone never meets the context in use"
    assert '"search": "lab:1"' in done("eval", "--context", "lab", "--dry-run")


@pytest.mark.parametrize("content", ["", "two words", "línea"])
def test_a_file_without_a_token_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(content, encoding="utf-8")
    for wrong in (path, tmp_path / "gone"):
        with pytest.raises(ConfigError, match=wrong.name) as caught:
            read_token(wrong)
        assert caught.value.reason == "TOKEN_FILE_UNREADABLE"
        assert not content or content not in caught.value.message


def protected(folder: Path) -> tuple[Authority, ServerConfig]:
    ours = Authority.create("ours", folder)
    certificate, key = ours.issue(NAME)
    return ours, ServerConfig(tls_certificate=certificate, tls_key=key, drain_s=1.0)


async def test_a_forwarded_port_is_believed_by_the_authority_of_the_context(tmp_path: Path) -> None:
    ours, server = protected(tmp_path)
    (tmp_path / "token").write_text(TOKEN + "\n")
    whole = ClientConfig(tls_ca=ours.path, authority=NAME, token_file=tmp_path / "token", timeout_s=20.0)

    async def answered(config: ClientConfig, target: str) -> bool:
        connections = Connections(config)
        client = PolicyClient(target, connections=connections)
        try:
            return bool((await ask(client)).completions)
        finally:
            await client.close()
            await connections.close()

    async with served(FakePolicy(), server, token=TOKEN) as first, served(FakePolicy(), server, token=TOKEN) as second:
        assert await answered(whole, first)
        assert await answered(whole, f"{first},{second}"), "replicas in a list have the authority too"
        for missing, reason in (("authority", "UNAVAILABLE"), ("token_file", "TOKEN_INVALID")):
            left = ClientConfig(**{**whole.model_dump(), missing: ClientConfig.model_fields[missing].default})
            with pytest.raises(RemoteError) as caught:
                await answered(left, first)
            assert caught.value.reason == reason


@asynccontextmanager
async def search_service(root: Path, server: ServerConfig, policy: str) -> AsyncIterator[str]:
    from vigorl_services.search.__main__ import SearchServiceConfig, build

    services = ServicesConfig(policies={"fake": policy})
    config = SearchServiceConfig(root=str(root), services=services, server=server)
    async with running(server, lambda: build(config), token=TOKEN) as address:
        yield address


async def test_solve_reaches_a_protected_search_service_by_context_and_by_options(tmp_path: Path) -> None:
    """The policy talks nonsense; that the conversation ends in a typed way shows that the call went through."""
    ours, server = protected(tmp_path)
    (tmp_path / "token").write_text(TOKEN)
    Image.new("RGB", (200, 150), (9, 9, 200)).save(tmp_path / "picture.png")
    question: list[str | Path] = [
        "solve",
        "--image",
        tmp_path / "picture.png",
        "--question",
        "What?",
        "--set",
        "policy=fake",
    ]
    reach: list[str | Path] = ["--tls-ca", ours.path, "--authority", NAME, "--token-file", tmp_path / "token"]
    async with served(FakePolicy()) as policy, search_service(tmp_path, server, policy) as address:
        by_options = await asyncio.to_thread(vigorl, *question, "--target", address, *reach)
        assert by_options.exit_code == 0, (by_options.output, by_options.exception)
        assert "answer: " in by_options.output
        await asyncio.to_thread(done, "context", "set", "lab", "--target", address, *reach)
        assert "answer: " in await asyncio.to_thread(done, *question)
        assert "answer: " in await asyncio.to_thread(done, *question, "--context", "lab")
        alone = await asyncio.to_thread(vigorl, *question, "--target", address, "--tls-ca", ours.path)
        assert isinstance(alone.exception, RemoteError), "a target alone takes nothing from the context in use"


def test_solve_says_what_is_missing(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    question: list[str | Path] = ["solve", "--image", tmp_path / "picture.png", "--question", "What?"]
    for options, words in (
        ([], "--target HOST:PORT"),
        (["--policy", "folder", "--target", "h:1"], "leave out"),
        (["--target", "reward=h:1"], "give --policy"),
    ):
        result = vigorl(*question, *options)
        assert result.exit_code == 2
        assert words in result.output
    done("context", "set", "rewards", "--target", "reward=h:1")
    assert "no search service" in vigorl(*question).output
