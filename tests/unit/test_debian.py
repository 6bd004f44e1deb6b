"""Debian packages: only what is missing, no daemon started, and a failure that says what to do."""

import os
from pathlib import Path

import pytest

from engine_jobs.errors import UserError
from localcluster import debian
from localcluster.debian import Package, ensure_packages, missing_packages

GIZMO = Package(name="gizmo-package", provides=("gizmo", "gizmoctl"))

# Stands in for apt-get: logs its arguments, whether daemons may start, and installs both executables.
APT_GET = """\
#!/bin/sh
echo "$@ policy=$(sh {policy} 2>/dev/null; echo $?)" >> {folder}/apt.log
case "$*" in
*update*) exit 0 ;;
*) {install} ;;
esac
"""
INSTALLS = "for name in gizmo gizmoctl; do printf '#!/bin/sh\\n' > {folder}/$name; chmod 755 {folder}/$name; done"


class Machine:
    """A folder that is all of PATH, with an apt-get of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policy = folder / "policy-rc.d"
        self.path = f"{folder}:/usr/bin:/bin"
        self.said: list[str] = []
        self.write("apt-cache", "#!/bin/sh\nprintf 'Package: x\\nFilename: x.deb\\n'\n")
        self.offer(INSTALLS.format(folder=folder))

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def offer(self, install: str) -> None:
        self.write("apt-get", APT_GET.format(folder=self.folder, policy=self.policy, install=install))

    def ensure(self) -> list[str]:
        return ensure_packages(self.said.append, [GIZMO], path=self.path, policy=self.policy)

    def calls(self) -> list[str]:
        log = self.folder / "apt.log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return Machine(tmp_path)


class TestOnlyWhatIsMissingIsInstalled:
    def test_missing_ones_are_installed_once_without_recommended_ones(self, machine: Machine) -> None:
        assert machine.ensure() == ["gizmo-package"]
        assert machine.ensure() == []
        [call] = machine.calls()
        assert "install --no-install-recommends gizmo-package" in call
        assert machine.said == ["installing from Debian: gizmo-package"]

    def test_a_package_with_one_executable_missing_is_missing(self, machine: Machine) -> None:
        machine.write("gizmo", "#!/bin/sh\n")
        assert missing_packages([GIZMO], machine.path) == {GIZMO: ("gizmoctl",)}

    def test_unknown_packages_are_looked_for_in_newer_lists(self, machine: Machine) -> None:
        machine.write("apt-cache", "#!/bin/sh\nexit 100\n")
        machine.ensure()
        assert [call.split(" policy=")[0].split()[-1] for call in machine.calls()] == ["update", "gizmo-package"]

    def test_sbin_counts_though_a_users_path_lacks_it(self) -> None:
        assert debian.search_path({"PATH": "/home/me/bin:/usr/bin"}).startswith(
            "/home/me/bin:/usr/bin:/usr/local/sbin:"
        )


class TestNoDaemonIsStarted:
    def test_services_are_denied_during_the_install_only(self, machine: Machine) -> None:
        machine.ensure()
        assert machine.calls()[0].endswith("policy=101")
        assert not machine.policy.exists()

    def test_a_policy_of_the_machine_stays(self, machine: Machine) -> None:
        machine.write("policy-rc.d", "#!/bin/sh\nexit 104\n")
        machine.ensure()
        assert machine.calls()[0].endswith("policy=104")
        assert machine.policy.read_text() == "#!/bin/sh\nexit 104\n"

    def test_the_policy_goes_when_apt_fails_too(self, machine: Machine) -> None:
        machine.offer("exit 100")
        with pytest.raises(UserError):
            machine.ensure()
        assert not machine.policy.exists()


class TestFailuresSayWhatToDo:
    def test_apts_own_words_are_shown(self, machine: Machine) -> None:
        machine.offer("echo 'E: Unable to locate package gizmo-package'; exit 100")
        with pytest.raises(UserError, match=r"gizmo-package failed \(exit code 100\)[\s\S]*Unable to locate package"):
            machine.ensure()

    def test_only_root_installs(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(UserError, match=r"only root .* apt-get install --no-install-recommends gizmo-package"):
            machine.ensure()
        assert machine.calls() == []

    def test_no_apt_names_what_is_missing(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UserError, match="gizmo, gizmoctl not found, and this machine has no apt-get"):
            ensure_packages(machine.said.append, [GIZMO], path=str(machine.folder / "empty"), policy=machine.policy)

    def test_a_package_that_brings_something_else_is_said(self, machine: Machine) -> None:
        machine.offer("exit 0")
        with pytest.raises(UserError, match="gizmo-package brought no gizmo, gizmoctl"):
            machine.ensure()
