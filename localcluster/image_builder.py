"""Builds the project's images with buildah, without a daemon, a registry or a network, and loads them into containerd.

What goes in is fetched before: Debian by debootstrap and apt, wheels by pip, all kept in the cache. Each image is built from a
context that holds its declared sources and nothing else, so its content tag can't miss a file. buildah's storage is native
overlay where the cache's file system allows it, plain copies otherwise. Layers are zstd at level 1: three times less to write
than plain tar, and a third of gzip's time.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from engine_jobs.errors import UserError
from engine_jobs.image import Image, source_files
from engine_jobs.images import IMAGES, PREFIX, reference
from localcluster.component import ToolPath
from localcluster.deb_packages import ensure_debs
from localcluster.debian_rootfs import ensure_rootfs
from localcluster.go_build import find_go
from localcluster.lock import exclusive
from localcluster.oci_layout import Layout, load, loaded
from localcluster.paths import REPOSITORY, Paths
from localcluster.wheelhouse import ensure_wheels

# buildah's mounts are the machine's: they end with it, and so must its notes on them.
RUN = Path("/run/llm-serving-images")
WORKERS = 2
MAX_LOG_LINES = 30
CONTEXT = ".context-"
STAGED_AT = 1577836800  # 2020-01-01, in seconds since the epoch


@dataclass(frozen=True, kw_only=True)
class ImageBuilder:
    """`tool` gives the path of buildah, debootstrap, ctr and kserve-controller. `report` gets a line for each step."""

    paths: Paths
    tool: ToolPath
    report: Callable[[str], None]
    pushing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def run_root(self) -> Path:
        return RUN / hashlib.sha256(str(self.paths.images).encode()).hexdigest()[:12]

    @property
    def layout(self) -> Layout:
        """Where the built images are kept."""
        return Layout(root=self.paths.images / "layout")

    def prepare_downloads(self, names: Sequence[str]) -> None:
        """Fetches Debian and these images' wheels, for a thread of its own while other things are built. Raises UserError."""
        with (
            exclusive(self.paths.images / "downloads.lock", "download for the images", self.report),
            ThreadPoolExecutor(2) as pool,
        ):
            wheels = pool.submit(ensure_wheels, self.paths.wheels, locks(names), self.report)
            self._rootfs()
            for name in sorted(with_bases(names)):
                self._debs(IMAGES[name])
            wheels.result()

    def build(self, names: Sequence[str]) -> dict[str, str]:
        """Builds what the cache lacks of these images and their bases. The reference of each by name. Raises UserError."""
        check_local(names)
        references = {name: reference(name) for name in names}
        with exclusive(self.paths.images / "build.lock", "build of the images", self.report):
            built = self.layout.images()
            missing = {name for name in with_bases(names) if reference(name) not in built}
            if not missing:
                return references
            if with_bases(missing) & {"base"}:
                self.prepare_downloads(sorted(missing))
            driver = self._storage_driver()
            self._sweep(driver)
            self._restore_bases(missing, driver)
            with ThreadPoolExecutor(WORKERS) as pool:
                for stage in stages(missing):
                    list(pool.map(lambda name: self._build(IMAGES[name], driver), stage))
            self._prune([reference(name) for name in with_bases(names)], driver)
        return references

    def ensure(self, socket: Path, names: Sequence[str]) -> dict[str, str]:
        """Builds the images that are missing and imports into containerd those that it has not. Raises UserError."""
        references = self.build(names)
        absent = sorted(set(references.values()) - loaded(self.tool("ctr"), socket))
        if absent:
            self.report(f"images: importing {', '.join(name.rpartition('/')[2] for name in absent)}")
            load(self.tool("ctr"), socket, self.layout, absent)
        return references

    def _sweep(self, driver: str) -> None:
        """Removes what a killed build left: its working containers with their mounts, and its contexts."""
        self._run_buildah(driver, "rm", "--all")
        for left in self.paths.images.glob(f"{CONTEXT}*"):
            shutil.rmtree(left)

    def _build(self, image: Image, driver: str) -> None:
        self.report(f"images: building {image.name}")
        self.paths.images.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=CONTEXT, dir=self.paths.images) as scratch:
            context = Path(scratch)
            self._stage(image, context)
            arguments = ["--isolation", "chroot", "--pull-never", "--layers", "--tag", reference(image.name)]
            for argument, value in image.args.items():
                arguments += ["--build-arg", f"{argument}={value}"]
            if image.base is not None:
                arguments += ["--build-arg", f"BASE={reference(image.base)}"]
                arguments += ["--build-arg", "PIP_NO_INDEX=1", "--build-arg", "PIP_FIND_LINKS=/wheels"]
                arguments += ["--volume", f"{self.paths.wheels}:/wheels:ro"]
            if debs := self._debs(image):
                arguments += ["--volume", f"{debs}:/debs:ro"]
            containerfile = context / image.containerfile
            self._buildah(driver, "build", *arguments, "--file", str(containerfile), str(context))
        compression = ("--compression-format", "zstd", "--compression-level", "1")
        target = f"oci:{self.layout.root}:{reference(image.name)}"
        with self.pushing:  # two at once would lose one's entry in the layout's index
            self._buildah(driver, "push", *compression, reference(image.name), target)

    def _restore_bases(self, missing: Collection[str], driver: str) -> None:
        """Brings back from the layout the bases that buildah's storage lacks."""
        bases = {base for name in missing if (base := IMAGES[name].base) is not None and base not in missing}
        for name in bases:
            if self._run_buildah(driver, "inspect", "--type", "image", reference(name)).returncode:
                pulled = self._buildah(driver, "pull", "--quiet", f"oci:{self.layout.root}:{reference(name)}")
                self._buildah(driver, "tag", pulled.split()[-1], reference(name))

    def _prune(self, current: Collection[str], driver: str) -> None:
        kept = self.layout.prune(current)
        listed = self._buildah(driver, "images", "--format", "{{.Name}}:{{.Tag}}").split()
        for stale in sorted(name for name in listed if name.startswith(f"{PREFIX}/") and name not in kept):
            self._buildah(driver, "rmi", stale)

    def _stage(self, image: Image, context: Path) -> None:
        """Fills a build context: the image's own files and no others, at their paths in the repository."""
        for file in (image.containerfile, *source_files(image)):
            target = context / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / file, target)
            # One time for all files, so that buildah's layer cache and the bytecode see contents only.
            os.utime(target, (STAGED_AT, STAGED_AT))
        if image.name == "base":
            _link(self._rootfs(), context / image.folder / "rootfs.tar")
        if image.name == "pause":
            _build_go(context / image.folder, image.programs[0])
        if image.name == "kserve-controller":
            _link(self.tool("kserve-controller"), context / image.folder / image.programs[0])

    def _rootfs(self) -> Path:
        packages = REPOSITORY / IMAGES["base"].packages
        return ensure_rootfs(self.paths.rootfs, packages, self.tool("debootstrap"), self.report)

    def _debs(self, image: Image) -> Path | None:
        """The folder of the Debian packages that an image adds to its base, if it adds any."""
        packages = REPOSITORY / image.packages
        if image.base is None or not packages.exists():
            return None
        return ensure_debs(self.paths.debs, packages, self._rootfs(), self.report)

    def _storage_driver(self) -> str:
        """overlay if it works on the cache's file system (it does not on another overlay), else vfs, which copies."""
        return "overlay" if self._run_buildah("overlay", "info").returncode == 0 else "vfs"

    def _buildah(self, driver: str, *arguments: str) -> str:
        """What it printed. Raises UserError with the last of it where it fails."""
        done = self._run_buildah(driver, *arguments)
        if done.returncode:
            tail = "\n".join(done.stdout.strip().splitlines()[-MAX_LOG_LINES:])
            raise UserError(f"`buildah {arguments[0]}` of {arguments[-1]} failed:\n{tail}")
        return done.stdout

    def _run_buildah(self, driver: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        storage = self.paths.images / "storage"
        command = [str(self.tool("buildah")), "--root", str(storage), "--runroot", str(self.run_root)]
        return subprocess.run(
            [*command, "--storage-driver", driver, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )


def locks(names: Iterable[str]) -> list[Path]:
    """The locked requirements of these images and their bases."""
    locks = (REPOSITORY / IMAGES[name].lock for name in sorted(with_bases(names)))
    return [lock for lock in locks if lock.exists()]


def check_local(names: Iterable[str]) -> None:
    """Raises UserError where an image is unknown, or not one that this machine can build."""
    for name in names:
        if name not in IMAGES:
            raise UserError(f"there is no image {name!r}; known: {', '.join(sorted(IMAGES))}")
        if not IMAGES[name].local:
            raise UserError(
                f"the image {name!r} is for GPU stacks: build {IMAGES[name].containerfile} where there is a container engine"
            )


def with_bases(names: Iterable[str]) -> set[str]:
    """The images and all that they are made on."""
    found: set[str] = set()
    for name in names:
        step: str | None = name
        while step is not None:
            found.add(step)
            step = IMAGES[step].base
    return found


def stages(names: set[str]) -> list[list[str]]:
    """The images in groups: each one's base is in an earlier group, or not among them."""
    groups = []
    left = set(names)
    while left:
        ready = sorted(name for name in left if IMAGES[name].base not in left)
        groups.append(ready)
        left -= set(ready)
    return groups


def _link(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file)
    except OSError:  # another file system
        shutil.copy2(file, target)


def _build_go(folder: Path, program: str) -> None:
    done = subprocess.run(
        [str(find_go()), "build", "-trimpath", "-ldflags=-s -w", "-o", program, "main.go"],
        cwd=folder,
        env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"{folder.name} could not be built with Go:\n{done.stderr.strip()}")
