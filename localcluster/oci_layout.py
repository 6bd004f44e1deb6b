"""The built images as one OCI image layout, in which a shared base layer is there once, and its way into containerd.

Layout: oci-layout, index.json (a list of manifests with their names), blobs/sha256/<hex>.
"""

import io
import json
import subprocess
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from engine_jobs.errors import UserError

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
NAMESPACE = "k8s.io"
KEPT_TAGS = 3


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An OCI image layout on disk, whose images are named by their full references."""

    root: Path

    def images(self) -> dict[str, Mapping[str, Any]]:
        """The manifest descriptor of each image that is whole, by reference, oldest first.

        An image with a blob that is missing or has another size (a build was killed half way) is not in it.
        """
        try:
            descriptors = json.loads((self.root / "index.json").read_text())["manifests"]
        except (OSError, ValueError, KeyError):
            return {}
        named = {item["annotations"][REF_NAME]: item for item in descriptors if REF_NAME in item.get("annotations", {})}
        return {name: item for name, item in named.items() if self._is_whole(item)}

    def blobs(self, descriptor: Mapping[str, Any]) -> Iterator[tuple[Path, int]]:
        """Manifest, configuration and layers of an image: path and size in bytes. Raises OSError or ValueError."""
        manifest = self._blob(descriptor)
        yield manifest, descriptor["size"]
        parts = json.loads(manifest.read_text())
        for part in (parts["config"], *parts["layers"]):
            yield self._blob(part), part["size"]

    def prune(self, current: Collection[str]) -> set[str]:
        """Removes all but the newest few tags of each image, and the blobs that none of the rest has. `current` stays.

        The references that are left.
        """
        images = self.images()
        by_repository: dict[str, list[str]] = {}
        for name in images:
            by_repository.setdefault(name.rpartition(":")[0], []).append(name)
        kept = {name for names in by_repository.values() for name in names[-KEPT_TAGS:]} | (set(current) & set(images))
        index = {"schemaVersion": 2, "manifests": [item for name, item in images.items() if name in kept]}
        partial = self.root / "index.json.partial"
        partial.write_text(json.dumps(index))
        partial.replace(self.root / "index.json")
        wanted = {path for name in kept for path, _ in self.blobs(images[name])}
        for blob in (self.root / "blobs" / "sha256").iterdir():
            if blob not in wanted:
                blob.unlink()
        return kept

    def write_archive(self, references: Collection[str], stream: IO[bytes]) -> None:
        """An oci-archive of these images as a tar stream, each blob once."""
        images = self.images()
        manifests = [{**images[name], "annotations": {CONTAINERD_NAME: name}} for name in references]
        with tarfile.open(fileobj=stream, mode="w|") as tar:
            _add(tar, "oci-layout", {"imageLayoutVersion": "1.0.0"})
            _add(tar, "index.json", {"schemaVersion": 2, "manifests": manifests})
            written = set()
            for name in references:
                for path, _ in self.blobs(images[name]):
                    if path not in written:
                        written.add(path)
                        tar.add(path, arcname=path.relative_to(self.root).as_posix())

    def _blob(self, descriptor: Mapping[str, Any]) -> Path:
        return self.root / "blobs" / str(descriptor["digest"]).replace(":", "/")

    def _is_whole(self, descriptor: Mapping[str, Any]) -> bool:
        try:
            return all(path.stat().st_size == size for path, size in self.blobs(descriptor))
        except (OSError, ValueError, KeyError):
            return False


def loaded(ctr: Path, socket: Path) -> set[str]:
    """The images that containerd holds whole, by reference."""
    check = subprocess.run(
        [str(ctr), "--address", str(socket), "--namespace", NAMESPACE, "images", "check"],
        capture_output=True,
        text=True,
        check=False,
    )
    if check.returncode:
        raise UserError(f"containerd at {socket} does not answer: {check.stderr.strip()}")
    return {line.split()[0] for line in check.stdout.splitlines()[1:] if " complete (" in line}


def load(ctr: Path, socket: Path, layout: Layout, references: Collection[str]) -> None:
    """Imports the images into containerd in one stream. Raises UserError with containerd's own words."""
    command = [str(ctr), "--address", str(socket), "--namespace", NAMESPACE, "images", "import", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as importer:
        assert importer.stdin is not None and importer.stdout is not None
        try:
            layout.write_archive(references, importer.stdin)
            importer.stdin.close()
        except BrokenPipeError:
            pass  # what it says tells why it stopped reading
        said = importer.stdout.read().decode(errors="replace").strip()
    if importer.returncode:
        raise UserError(f"containerd at {socket} could not import the images: {said[-1500:]}")


def _add(tar: tarfile.TarFile, name: str, document: Mapping[str, Any]) -> None:
    content = json.dumps(document).encode()
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
