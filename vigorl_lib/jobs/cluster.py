"""Jobs on one namespace of a cluster: submit, list, watch, read the logs, cancel.

A thin layer over the official client: what a job looks like is in `vigorl_lib.jobs.manifests`, what a refusal
means in `vigorl_lib.jobs.explain`. PyTorchJobs, TrainJobs and Jobs are all reached as custom objects, since the
path of a built-in group has the same form.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vigorl_lib.jobs import explain
from vigorl_lib.jobs.explain import JOB, PYTORCHJOB, RUNTIME, TRAINJOB, ClusterError, Resource
from vigorl_lib.jobs.pods import JOB_LABEL, MANAGER, Manifest
from vigorl_lib.jobs.status import JobStatus, pod_trouble, read_status

RESOURCES = {resource.kind: resource for resource in (PYTORCHJOB, TRAINJOB, RUNTIME, JOB)}
POD, LOG, SECRET = (
    Resource(k, "", "v1", p, "") for k, p in (("Pod", "pods"), ("Pod", "pods/log"), ("Secret", "secrets"))
)
KINDS = (PYTORCHJOB, TRAINJOB, JOB)
OURS = f"app.kubernetes.io/managed-by={MANAGER}"
CONNECT_S, READ_S = 5.0, 30.0
WATCH_S = 300
"""How long one watch lasts before it is renewed, as kubectl's does."""
WATCH_PAUSE_S = 0.5


class Cluster:
    """One namespace. Errors are ClusterErrors that say what to do."""

    def __init__(self, client: Any, namespace: str) -> None:
        """`client` is a `kubernetes.client.ApiClient`."""
        from kubernetes.client import CoreV1Api, CustomObjectsApi

        self.namespace = namespace
        self._server = client.configuration.host
        self._objects, self._core = CustomObjectsApi(client), CoreV1Api(client)

    @classmethod
    def open(cls, namespace: str, *, context: str | None = None) -> Cluster:
        """By the kubeconfig, or within a pod by its service account. Raises ClusterError (CLUSTER_UNKNOWN)."""
        from kubernetes import client, config

        configuration = client.Configuration()
        try:
            if context is None and _in_pod():
                config.load_incluster_config(client_configuration=configuration)
            else:
                config.load_kube_config(context=context, client_configuration=configuration)
        except config.ConfigException as error:
            raise ClusterError(
                f"no cluster to talk to: {error}; see `kubectl config get-contexts`", reason="CLUSTER_UNKNOWN"
            ) from None
        return cls(client.ApiClient(configuration), namespace)

    def check(self, objects: Sequence[Manifest]) -> Manifest:
        """Have the cluster check what `submit` would create; nothing is made. Returns what it checked.

        That is the first object alone: the webhook of Trainer v2 refuses a TrainJob whose runtime is not there.
        Raises what `submit` raises.
        """
        name = objects[-1]["metadata"]["name"]
        if (found := self._find(name)) is not None:
            raise explain.run_exists(found[0].kind, name, self.namespace)
        checked = self._create(objects[0], dry_run=True)
        # After the check above, which tells a missing namespace from a missing secret.
        for secret, keys in sorted(secrets(objects).items()):
            self._check_secret(secret, keys)
        return checked

    def submit(self, objects: Sequence[Manifest]) -> None:
        """Create the objects, the job last; all or none.

        Raises ClusterError: RUN_EXISTS for a second job of the same name, under whichever operator, and
        otherwise what is missing (CRD_MISSING, NAMESPACE_MISSING, SECRET_MISSING, CLUSTER_QUOTA, CLUSTER_FORBIDDEN, …).
        """
        self.check(objects)
        made: list[Manifest] = []
        try:
            for manifest in objects:
                made += [self._create(manifest)]
        except ClusterError:
            for manifest in made:
                self._delete(RESOURCES[manifest["kind"]], manifest["metadata"]["name"])
            raise
        for helper in made[:-1]:
            self._own(helper, made[-1])

    def jobs(self) -> list[JobStatus]:
        """All jobs that were made of a JobSpec, oldest first."""
        found = [
            read_status(resource.kind, item)
            for resource in KINDS
            for item in self._known(resource, "list", label_selector=OURS)
        ]
        return sorted(found, key=lambda status: (status.created, status.name))

    def status(self, name: str) -> JobStatus:
        """One job, with what keeps its pods from running. Raises ClusterError (JOB_UNKNOWN)."""
        resource, item = self._get(name)
        return read_status(resource.kind, item, trouble=pod_trouble(self._pods(name)))

    def watch(self, name: str) -> Iterator[JobStatus]:
        """Each change of state until the job has ended. Raises ClusterError (JOB_UNKNOWN) if it is deleted."""
        shown: tuple[str, str] | None = None
        while True:
            resource, item = self._get(name)
            version = item["metadata"].get("resourceVersion")
            # A watch ends now and then, and 410 says that its version is too old: both begin again at the object.
            events: Iterator[Any] = iter([{"type": "MODIFIED", "object": item}])
            while (event := next(events, None)) is not None:
                if event["type"] == "DELETED":
                    raise explain.explain(404, None, verb="get", resource=resource, **self._place(name))
                status = read_status(resource.kind, event["object"])
                if (status.state, status.message) != shown:
                    shown = (status.state, status.message)
                    yield status
                if status.ended:
                    return
                if event["object"] is item:
                    events = self._events(resource, name, version)
            time.sleep(WATCH_PAUSE_S)

    def logs(
        self, name: str, *, container: str | None = None, pod: str | None = None, follow: bool = False
    ) -> Iterator[str]:
        """Lines of one container; by default the ranks' in the first pod.

        Raises ClusterError (LOGS_NOT_YET) while there is none.
        """
        pods = [p for p in self._pods(name) if pod in (None, p.metadata.name)]
        matching = [(p.metadata.name, c.name) for p in pods for c in p.spec.containers if container in (None, c.name)]
        if not matching:
            self._get(name)
            raise ClusterError(
                f"{name!r} has no such pod; `vigorl jobs status {name}` says why", reason="LOGS_NOT_YET", name=name
            )
        chosen, part = min(matching, key=lambda found: ("-master-0" not in found[0], "producer" in found[0]))
        with self._call("get", LOG, name):
            response = self._core.read_namespaced_pod_log(
                chosen,
                self.namespace,
                container=part,
                follow=follow,
                _preload_content=False,
                _request_timeout=(CONNECT_S, None if follow else READ_S),
            )
            yield from _lines(response)

    def cancel(self, name: str) -> str:
        """Delete the job with its pods; what it wrote stays. Returns its kind. Raises ClusterError (JOB_UNKNOWN)."""
        resource, _ = self._get(name)
        self._delete(resource, name)
        if resource is TRAINJOB and self._known(RUNTIME, "get", name=name):
            self._delete(RUNTIME, name)
        return resource.kind

    def _create(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        resource, name = RESOURCES[manifest["kind"]], manifest["metadata"]["name"]
        with self._call("create", resource, name):
            made: Manifest = self._objects.create_namespaced_custom_object(
                *self._path(resource),
                manifest,
                # A key that the cluster does not know is refused, not dropped.
                field_validation="Strict",
                **({"dry_run": "All"} if dry_run else {}),
                _request_timeout=(CONNECT_S, READ_S),
            )
        return {"kind": manifest["kind"], **made}

    def _own(self, helper: Manifest, job: Manifest) -> None:
        """Make the cluster delete `helper` with the job, whoever deletes that."""
        resource, name = RESOURCES[helper["kind"]], helper["metadata"]["name"]
        owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": name, "uid": job["metadata"].get("uid")}
        patch = {"metadata": {"ownerReferences": [owner]}}
        with self._call("patch", resource, name):
            self._objects.patch_namespaced_custom_object(*self._path(resource), name, patch)

    def _delete(self, resource: Resource, name: str) -> None:
        with self._call("delete", resource, name):
            # A Job of batch/v1 would by default leave its pods running.
            self._objects.delete_namespaced_custom_object(
                *self._path(resource), name, propagation_policy="Background", _request_timeout=(CONNECT_S, READ_S)
            )

    def _get(self, name: str) -> tuple[Resource, Manifest]:
        found = self._find(name)
        if found is None:
            raise ClusterError(
                f"no job {name!r} in namespace {self.namespace!r}; "
                f"`vigorl jobs -n {self.namespace} list` shows all (ended ones are forgotten after their ttl_s)",
                reason="JOB_UNKNOWN",
                name=name,
                namespace=self.namespace,
            )
        return found

    def _find(self, name: str) -> tuple[Resource, Manifest] | None:
        refused: list[ClusterError] = []
        for resource in KINDS:
            try:
                found = self._known(resource, "get", name=name)
            except ClusterError as error:
                if error.reason != "CLUSTER_FORBIDDEN":
                    raise
                # Rights are checked before existence: no right to a kind that is not installed is no trouble.
                refused.append(error)
                continue
            if found:
                return resource, found[0]
        if len(refused) == len(KINDS):
            raise refused[0]
        return None

    def _known(self, resource: Resource, verb: str, *, name: str = "", label_selector: str = "") -> list[Manifest]:
        """What there is of a kind, by name or by label; nothing of a kind that the cluster has not got."""
        from kubernetes.client import ApiException

        timeout = (CONNECT_S, READ_S)
        with self._call(verb, resource, name):
            try:
                if name:
                    path = self._path(resource)
                    return [self._objects.get_namespaced_custom_object(*path, name, _request_timeout=timeout)]
                listed: Manifest = self._objects.list_namespaced_custom_object(
                    *self._path(resource), label_selector=label_selector, _request_timeout=timeout
                )
                return list(listed["items"])
            except ApiException as error:
                if error.status == 404:
                    return []
                raise

    def _events(self, resource: Resource, name: str, version: str | None) -> Iterator[Any]:
        from kubernetes.watch import Watch

        watch = Watch()
        try:
            with self._call("watch", resource, name):
                yield from watch.stream(
                    self._objects.list_namespaced_custom_object,
                    *self._path(resource),
                    field_selector=f"metadata.name={name}",
                    resource_version=version,
                    timeout_seconds=WATCH_S,
                    _request_timeout=(CONNECT_S, WATCH_S + READ_S),
                )
        except ClusterError as error:
            # A lost connection is an end, too: if the cluster is really away, reading the object says so.
            if error.metadata.get("status_code") != "410" and error.reason != "CLUSTER_UNREACHABLE":
                raise
        finally:
            watch.stop()

    def _pods(self, name: str) -> list[Any]:
        with self._call("list", POD, name):
            found = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"{JOB_LABEL}={name}", _request_timeout=(CONNECT_S, READ_S)
            )
        return sorted(found.items, key=lambda pod: str(pod.metadata.name))

    def _check_secret(self, secret: str, keys: str) -> None:
        try:
            with self._call("get", SECRET, secret):
                self._core.read_namespaced_secret(secret, self.namespace, _request_timeout=(CONNECT_S, READ_S))
        except ClusterError as error:
            if error.metadata.get("status_code") == "404":
                raise explain.missing_secret(secret, self.namespace, keys) from None
            # Whoever may not read secrets learns of a missing one from the status of the pods.
            if error.reason != "CLUSTER_FORBIDDEN":
                raise

    def _path(self, resource: Resource) -> tuple[str, str, str, str]:
        return resource.group, resource.version, self.namespace, resource.plural

    def _place(self, name: str) -> dict[str, str]:
        return {"namespace": self.namespace, "name": name}

    @contextmanager
    def _call(self, verb: str, resource: Resource, name: str) -> Iterator[None]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            if error.status == 409 and verb == "create":
                raise explain.run_exists(resource.kind, name, self.namespace) from None
            body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
            status = int(error.status or 0)
            raise explain.explain(status, body, verb=verb, resource=resource, **self._place(name)) from None
        except HTTPError as error:
            raise explain.unreachable(self._server, error) from None


def secrets(objects: Sequence[Manifest]) -> dict[str, str]:
    """Names of the secrets that the pods of these objects cannot start without, and the keys they take, by spaces."""
    found: dict[str, set[str]] = {}
    for node in _walk(list(objects)):
        reference = node.get("secretKeyRef")
        if isinstance(reference, dict):
            keys = found.setdefault(reference["name"], set())
            if not reference.get("optional"):
                keys.add(reference["key"])
        if isinstance(node.get("secret"), dict):
            keys = found.setdefault(node["secret"]["secretName"], set())
            keys.update(item["key"] for item in node["secret"]["items"])
    return {name: " ".join(sorted(keys)) for name, keys in found.items()}


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _walk(child)


def _lines(response: Any) -> Iterator[str]:
    """Whole lines of a streamed body; a chunk ends anywhere, even within a character."""
    rest = b""
    try:
        for chunk in response.stream():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if rest:
            yield rest.decode(errors="replace")
    finally:
        response.release_conn()


def _in_pod() -> bool:
    """Within a pod the service account is who we are, unless a kubeconfig is given."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
