"""An emulated API server: kmock's stateful one, with what a job client meets and kmock leaves out.

Added here: kinds that are not installed, namespaces, dry runs, label selectors, and the CRD's own schema where it
is at hand. No operator runs, so no pods come to be; no admission webhook either, and no RBAC but what `refuse` says.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import attrs
import jsonschema
import kmock
from aiohttp import web
from kubernetes import client

from tests.jobs.schemas import crd_schema

BUILT_IN = {"jobs", "pods", "secrets"}
CRDS = {"pytorchjobs": "kubeflow.org", "trainjobs": "trainer.kubeflow.org", "trainingruntimes": "trainer.kubeflow.org"}


@dataclass
class Rules:
    """What this cluster has, and what it refuses."""

    namespaces: set[str] = field(default_factory=lambda: {"default", "team"})
    installed: set[str] = field(default_factory=lambda: set(CRDS))
    refusals: dict[tuple[str, str], tuple[int, dict[str, Any] | str]] = field(default_factory=dict)
    calls: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Verb, plural and name of each request."""
    expired_watches: int = 0
    """So many watches are answered with 410."""
    cut_watches: int = 0
    """So many further ones end at once, as when the API server is restarted."""

    def refuse(self, verb: str, plural: str, status: int, message: str, **more: Any) -> None:
        body = {"kind": "Status", "status": "Failure", "code": status, "message": message, **more}
        self.refusals[verb, plural] = (status, body)


@attrs.define(kw_only=True)
class ApiServer(kmock.KubernetesEmulator):
    rules: Rules = attrs.field(factory=Rules)

    async def _handle(self, request: kmock.Request) -> web.StreamResponse:
        if request.params.get("watch") == "True":
            request = self._as_watch(request)
        resource, action = request.resource, request.action
        if resource is None or action is None:
            return await super()._handle(request)
        verb = {"FETCH": "get", "UPDATE": "patch"}.get(action.value, action.value.lower())
        self.rules.calls.append((verb, resource.plural, request.name))
        answer = self._answer(verb, request)
        if answer is None:
            return await super()._handle(request)
        status, body = answer
        if isinstance(body, str):
            return web.Response(status=status, text=body, content_type="text/plain")
        return web.json_response(body, status=status)

    def _as_watch(self, request: kmock.Request) -> kmock.Request:
        """The official client writes `watch=True`, which API servers understand and kmock takes for a list.

        A watch of one object names it in a field selector.
        """
        name = request.params.get("fieldSelector", "").removeprefix("metadata.name=") or None
        watch = attrs.evolve(request, action=kmock.action.WATCH, name=name)
        # kmock answers the requests in this list and no others.
        self._requests[:] = [watch if known is request else known for known in self._requests]
        return watch

    def _answer(self, verb: str, request: kmock.Request) -> tuple[int, dict[str, Any] | str] | None:
        plural, rules = request.resource.plural, self.rules
        if (verb, plural) in rules.refusals:
            return rules.refusals[verb, plural]
        if plural not in BUILT_IN | rules.installed:
            return 404, "404 page not found\n"
        if verb == "watch" and rules.expired_watches:
            rules.expired_watches -= 1
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            return 200, {"type": "ERROR", "object": gone}
        if verb == "watch" and rules.cut_watches:
            rules.cut_watches -= 1
            return 200, ""
        if verb == "create":
            return self._create(request)
        wanted = request.params.get("labelSelector")
        if verb == "list" and wanted:
            key, _, value = wanted.partition("=")
            place = (request.resource, request.namespace)
            items = [o.raw for k, o in self.objects.items() if k[:2] == place and not o.deleted]
            return 200, {"items": [i for i in items if i["metadata"].get("labels", {}).get(key) == value]}
        return None

    def _create(self, request: kmock.Request) -> tuple[int, dict[str, Any] | str] | None:
        namespace, body = request.namespace, request.data
        if namespace not in self.rules.namespaces:
            details = {"name": namespace, "kind": "namespaces"}
            return 404, {"kind": "Status", "message": f'namespaces "{namespace}" not found', "details": details}
        schema = crd_schema(request.resource.group, request.resource.plural)
        if schema is not None:
            problem = next(iter(jsonschema.Draft202012Validator(schema).iter_errors(body)), None)
            if problem is not None:
                return 422, {"kind": "Status", "message": f"{problem.json_path}: {problem.message}"}
        key = (request.resource, namespace, body["metadata"]["name"])
        exists = key in self.objects and not self.objects[key].deleted
        return (200, body) if request.params.get("dryRun") == "All" and not exists else None


@contextmanager
def serve() -> Iterator[tuple[ApiServer, client.ApiClient]]:
    """Serve on a free port of the loopback from a thread of its own: the official client blocks."""
    ready, box = threading.Event(), {}

    async def work() -> None:
        box["stop"], box["loop"] = asyncio.Event(), asyncio.get_running_loop()
        async with ApiServer() as handler, kmock.Server(handler, host="127.0.0.1", port=0) as server:
            for plural, group in {**CRDS, "jobs": "batch"}.items():
                version = "v1alpha1" if group.startswith("trainer") else "v1"
                handler.resources[f"{group}/{version}/{plural}"] = {"namespaced": True}
            for plural in ("pods", "secrets"):
                handler.resources[f"v1/{plural}"] = {"namespaced": True}
            box["handler"], box["url"] = handler, str(server.url).rstrip("/")
            ready.set()
            await box["stop"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    try:
        assert ready.wait(20)
        configuration = client.Configuration()
        configuration.host = box["url"]
        yield box["handler"], client.ApiClient(configuration)
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join()


def pod(name: str, job: str, *containers: str) -> dict[str, Any]:
    """A pod as an operator would make it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"vigorl.dev/job": job}},
        "spec": {"containers": [{"name": name, "image": "x"} for name in containers]},
        "status": {},
    }
