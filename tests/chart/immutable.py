"""What Kubernetes lets nobody change of an object that is there, of a rendered release.

`python -m tests.chart.immutable` writes `immutable.json` from the chart as it is; do that when a version is released,
and never to please a failing test: users of the version before would have to delete what cannot be upgraded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.chart.extras import CHART, documents
from tests.chart.test_all_on import ON

RECORD = Path(__file__).with_name("immutable.json")
FIELDS = {
    "Deployment": ("selector",),
    "StatefulSet": ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"),
    "DaemonSet": ("selector",),
    "Job": ("selector", "template", "completions", "completionMode", "podFailurePolicy"),
    "Service": ("clusterIP",),
    "PersistentVolumeClaim": ("accessModes", "storageClassName", "volumeMode", "selector"),
}
"""By kind, the immutable fields of `spec`."""


def immutable(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """`Kind/name` of each object with such fields → the fields that it has."""
    found: dict[str, Any] = {}
    for manifest in manifests:
        kind, metadata = manifest["kind"], manifest["metadata"]
        # A hook is deleted before it is made again.
        if "helm.sh/hook" in metadata.get("annotations", {}):
            continue
        kept = {key: manifest["spec"][key] for key in FIELDS.get(kind, ()) if key in manifest["spec"]}
        if kind == "RoleBinding":
            kept = {"roleRef": manifest["roleRef"]}
        elif kind == "Secret":
            kept = {"type": manifest.get("type", "Opaque")}
        elif kind == "PersistentVolumeClaim":
            kept["keep"] = metadata.get("annotations", {}).get("helm.sh/resource-policy")
        if kept:
            found[f"{kind}/{metadata['name']}"] = kept
    return found


def main() -> None:
    import yaml

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    # Jobs are of one version: their names change with their contents.
    objects = {key: fields for key, fields in immutable(documents(ON)).items() if not key.startswith("Job/")}
    record = {"version": chart["version"], "objects": dict(sorted(objects.items()))}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
