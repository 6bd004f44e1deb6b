"""An image's Debian packages: fetched once, against what the base has installed, with nothing of this machine changed."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from engine_jobs.errors import UserError
from localcluster.deb_packages import ensure_debs

# Stands in for apt-get: logs its arguments and what it was told is installed, and downloads one package.
APT_GET = """\
#!/bin/sh
echo "$*" >> {folder}/apt.log
for option; do
  case "$option" in
  Dir::State::status=*) cat "${{option#*=}}" >> {folder}/installed.log ;;
  Dir::Cache::archives=*) archives="${{option#*=}}" ;;
  esac
done
case "$*" in
*update*) touch {folder}/updated ;;
*) {install} ;;
esac
"""
DOWNLOADS = 'test -d "$archives/partial" && touch "$archives/gizmo_1_all.deb"'


class Machine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.packages = folder / "packages.txt"
        self.packages.write_text("gizmo\n")
        self.rootfs = folder / "bookworm-0123.tar"
        with tarfile.open(self.rootfs, "w") as tar:
            content = b"Package: base-files\n"
            member = tarfile.TarInfo("./var/lib/dpkg/status")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        self.offer(DOWNLOADS)

    def offer(self, install: str) -> None:
        (self.folder / "apt-get").write_text(APT_GET.format(folder=self.folder, install=install))
        (self.folder / "apt-get").chmod(0o755)

    def ensure(self) -> Path:
        return ensure_debs(self.folder / "debs", self.packages, self.rootfs, self.said.append)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return Machine(tmp_path)


def test_they_are_fetched_once_and_nothing_is_installed(machine: Machine) -> None:
    folder = machine.ensure()
    assert machine.ensure() == folder
    assert [path.name for path in folder.iterdir()] == ["gizmo_1_all.deb"]
    (call,) = (machine.folder / "apt.log").read_text().splitlines()
    assert "--download-only --no-install-recommends" in call
    assert call.endswith("install gizmo")


def test_apt_is_told_what_the_base_has(machine: Machine) -> None:
    machine.ensure()
    assert (machine.folder / "installed.log").read_text() == "Package: base-files\n"


def test_another_list_or_base_is_another_folder(machine: Machine) -> None:
    first = machine.ensure()
    machine.packages.write_text("gizmo\ngadget\n")
    second = machine.ensure()
    machine.rootfs = machine.rootfs.rename(machine.folder / "bookworm-4567.tar")
    assert len({first, second, machine.ensure()}) == 3


def test_old_lists_are_renewed(machine: Machine) -> None:
    machine.offer(f"test -e {machine.folder}/updated && {DOWNLOADS}")
    assert list(machine.ensure().iterdir())


def test_a_failure_shows_apts_words_and_leaves_nothing(machine: Machine) -> None:
    machine.offer("echo 'E: Unable to locate package gizmo'; exit 100")
    with pytest.raises(UserError, match=r"\(gizmo\):\nE: Unable to locate package gizmo"):
        machine.ensure()
    assert list((machine.folder / "debs").iterdir()) == []
