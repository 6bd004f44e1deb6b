"""Where tools come from: official ones that are new enough, else built once and whole, from sources that are pinned."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from engine_jobs.errors import UserError
from localcluster import go_build
from localcluster.paths import REPOSITORY
from localcluster.tool_families import Family, Official, load_families, load_family, parse_version
from localcluster.toolchain import BUILD_ORDER, Source, Toolchain, find_official, foreign_path
from tests.unit.interrupts import take_interrupts

# Stands in for `go`: counts its builds, and writes an executable that prints the version it was told to.
FAKE_GO = """\
#!{python}
import os, sys, time
from pathlib import Path
if sys.argv[1] == "env":
    print(os.environ.get("FAKE_GO_VERSION", "go1.26.0"))
elif sys.argv[1] == "build":
    with open("{log}", "a") as log:
        log.write(" ".join(sys.argv[1:]) + "\\n")
    print("example.com/some/package", flush=True)
    time.sleep(float(os.environ.get("FAKE_GO_SECONDS", "0")))
    if "FAKE_GO_FAILS" in os.environ:
        print("main.go:3:1: syntax error")
        sys.exit(1)
    output = Path(sys.argv[sys.argv.index("-o") + 1])
    output.parent.mkdir(parents=True)
    output.write_text("#!/bin/sh\\necho gizmo " + os.environ.get("FAKE_GO_BUILDS", "v1.2.3") + "\\n")
    output.chmod(0o755)
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def prints(path: Path, version: str) -> Path:
    return script(path, f"#!/bin/sh\necho {path.name} version v{version}\n")


@pytest.fixture
def family(tmp_path: Path) -> Family:
    """A family `gizmo` at v1.2.3, called by two names."""
    source = tmp_path / "sources" / "gizmo"
    source.mkdir(parents=True)
    (source / "go.mod").write_text("module example.com/own\n\ngo 1.25.0\n\nrequire example.com/gizmo v1.2.3\n")
    (source / "go.sum").write_text("example.com/gizmo v1.2.3 h1:abc=\n")
    (source / "family.toml").write_text(
        textwrap.dedent("""\
        module = "example.com/gizmo"

        [executable]
        name = "gizmo-all"
        package = "example.com/gizmo"
        links = ["gizmo", "gadget"]

        [executable.stamps]
        "main.version" = "{version}"

        [[official]]
        commands = ["gizmo", "gadget"]
        arguments = ["--version"]
        minimum = "1.2"
        below = "2"
        """)
    )
    return load_family(source)


@pytest.fixture
def go_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the stand-in for `go` first on PATH; the log has one line for each build."""
    log = tmp_path / "go.log"
    log.write_text("")
    go = script(tmp_path / "go-bin" / "go", FAKE_GO.format(python=sys.executable, log=log))
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")
    return log


def silent(_: str) -> None:
    return None


class TestRepositoryPinsEveryTool:
    def test_every_family_has_sums_and_a_place_in_the_build_order(self) -> None:
        families = {family.name: family for family in load_families()}
        assert set(families) == set(BUILD_ORDER)
        for family in families.values():
            assert f"{family.module} {family.version} h1:" in (family.source / "go.sum").read_text()

    def test_kubernetes_staging_modules_are_of_the_release(self) -> None:
        kubernetes = next(family for family in load_families() if family.name == "kubernetes")
        staging = kubernetes.version.replace("v1.", "v0.")
        replaced = [
            line.split() for line in (kubernetes.source / "go.mod").read_text().splitlines() if " => k8s.io/" in line
        ]
        assert len(replaced) > 20
        assert {words[-1] for words in replaced} == {staging}

    def test_a_version_reaches_the_linker(self) -> None:
        pulumi = next(family for family in load_families() if family.name == "pulumi")
        command = go_build.build_command(Path("go"), pulumi, Path("out"))
        stamp = f"-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={pulumi.version}"
        assert stamp in command[command.index("-ldflags") + 1]

    @pytest.mark.parametrize("name", ["go.mod", "go.sum", "family.toml"])
    def test_any_change_of_a_pinned_source_changes_the_folder(self, family: Family, tmp_path: Path, name: str) -> None:
        changed = family.source / name
        changed.write_text(changed.read_text() + "\n")
        assert load_family(family.source).folder(tmp_path) != family.folder(tmp_path)


class TestOfficialToolsComeFirst:
    official = Official(
        commands=("gizmo", "gadget"), arguments=("--version",), minimum=(1, 2), below=(2,), needs=("gizmo-plugin",)
    )

    def offer(self, folder: Path, gizmo: str, gadget: str) -> str:
        prints(folder / "gizmo", gizmo)
        prints(folder / "gadget", gadget)
        prints(folder / "gizmo-plugin", "0.1")
        return f"{folder}:/usr/bin:/bin"

    @pytest.mark.parametrize("version", ["1.2.0", "1.2.9", "1.30.1", "1.2"])
    def test_new_enough_ones_are_used(self, tmp_path: Path, version: str) -> None:
        tools = find_official(self.official, self.offer(tmp_path, version, "1.2.5"))
        assert [(tool.name, tool.path, tool.source) for tool in tools] == [
            ("gizmo", tmp_path / "gizmo", Source.OFFICIAL),
            ("gadget", tmp_path / "gadget", Source.OFFICIAL),
        ]
        assert tools[0].version == version

    @pytest.mark.parametrize("version", ["1.1.99", "2.0.0", "0.9", "10.2.1"])
    def test_one_that_is_too_old_or_too_new_discards_the_set(self, tmp_path: Path, version: str) -> None:
        assert find_official(self.official, self.offer(tmp_path, "1.2.5", version)) == ()

    @pytest.mark.parametrize("absent", ["gizmo", "gadget", "gizmo-plugin"])
    def test_an_incomplete_set_is_discarded(self, tmp_path: Path, absent: str) -> None:
        path = self.offer(tmp_path, "1.2.5", "1.2.5")
        (tmp_path / absent).unlink()
        assert find_official(self.official, path) == ()

    def test_one_that_fails_is_discarded(self, tmp_path: Path) -> None:
        path = self.offer(tmp_path, "1.2.5", "1.2.5")
        script(tmp_path / "gadget", "#!/bin/sh\necho gadget 1.2.5: broken\nexit 1\n")
        assert find_official(self.official, path) == ()

    def test_what_the_project_itself_put_on_path_is_no_official_tool(self, tmp_path: Path) -> None:
        path = f"{tmp_path}/tools/pulumi-0123/bin:/opt/pulumi:{REPOSITORY}/localcluster/stand_in:/usr/bin"
        assert foreign_path(path, (tmp_path / "tools", REPOSITORY)) == "/opt/pulumi:/usr/bin"

    def test_nothing_is_built_where_they_serve(self, family: Family, tmp_path: Path, go_log: Path) -> None:
        prints(tmp_path / "opt" / "gizmo", "1.9.0")
        prints(tmp_path / "opt" / "gadget", "1.9.0")
        environment = {"PATH": f"{tmp_path}/opt:{os.environ['PATH']}"}
        toolchain = Toolchain(tmp_path / "tools", environment=environment, families=[family], packages=())
        tools = toolchain.ensure(silent)
        assert tools.bin("gadget") == tmp_path / "opt" / "gadget"
        assert tools.built_bin_dirs() == ()
        assert go_log.read_text() == ""

    @pytest.mark.parametrize(
        ("said", "version"),
        [
            ("Client Version: v1.34.4\nKustomize Version: v5.7.1", (1, 34, 4)),
            ("etcd Version: 3.6.5\nGit SHA: Not provided", (3, 6, 5)),
            ("CoreDNS-1.12.4\nlinux/amd64, go1.26.8,", (1, 12, 4)),
            ("go1.26", (1, 26)),
            ("v3.255.0", (3, 255, 0)),
            ("no version here", None),
        ],
    )
    def test_versions_are_read_as_the_tools_print_them(self, said: str, version: tuple[int, ...] | None) -> None:
        assert parse_version(said) == version


class TestMissingToolsAreBuiltOnceAndWhole:
    def toolchain(self, family: Family, tools: Path) -> Toolchain:
        return Toolchain(tools, families=[family], packages=())

    def test_every_name_runs_and_a_second_time_nothing_is_built(
        self, family: Family, tmp_path: Path, go_log: Path
    ) -> None:
        for _ in range(2):
            tools = self.toolchain(family, tmp_path / "tools").ensure(silent)
        for name in ("gizmo", "gadget"):
            assert subprocess.check_output([tools.bin(name)], text=True) == "gizmo v1.2.3\n"
            assert tools.by_name[name].source is Source.BUILT
        assert go_log.read_text().count("\n") == 1
        assert "-X main.version=v1.2.3" in go_log.read_text()

    def test_a_failed_build_says_why_and_leaves_nothing(
        self, family: Family, tmp_path: Path, go_log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_GO_FAILS", "1")
        with pytest.raises(UserError, match=r"building gizmo v1\.2\.3 failed[\s\S]*syntax error"):
            self.toolchain(family, tmp_path / "tools").ensure(silent)
        assert [path.name for path in (tmp_path / "tools").iterdir()] == ["lock"]
        monkeypatch.delenv("FAKE_GO_FAILS")
        assert self.toolchain(family, tmp_path / "tools").ensure(silent).bin("gizmo").exists()

    def test_a_build_that_is_not_the_pinned_version_is_not_kept(
        self, family: Family, tmp_path: Path, go_log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_GO_BUILDS", "v1.2.4")
        with pytest.raises(UserError, match=r"says 1\.2\.4, not v1\.2\.3"):
            self.toolchain(family, tmp_path / "tools").ensure(silent)
        assert not family.folder(tmp_path / "tools").exists()

    def test_what_a_killed_build_left_is_neither_used_nor_kept(
        self, family: Family, tmp_path: Path, go_log: Path
    ) -> None:
        left = prints(tmp_path / "tools" / ".building-gizmo-x1" / "bin" / "gizmo", "1.2.3")
        tools = self.toolchain(family, tmp_path / "tools").ensure(silent)
        assert tools.bin("gizmo") == family.folder(tmp_path / "tools") / "bin" / "gizmo"
        assert not left.exists()

    def test_two_at_once_build_once(
        self, family: Family, tmp_path: Path, go_log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_GO_SECONDS", "0.5")
        found: list[Path] = []

        def ensure() -> None:
            found.append(self.toolchain(family, tmp_path / "tools").ensure(silent).bin("gizmo"))

        threads = [threading.Thread(target=ensure) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 2
        assert go_log.read_text().count("\n") == 1

    def test_a_long_build_shows_how_far_it_is(
        self, family: Family, tmp_path: Path, go_log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_GO_SECONDS", "0.6")
        monkeypatch.setattr(go_build, "REPORT_INTERVAL_S", 0.1)
        said: list[str] = []
        self.toolchain(family, tmp_path / "tools").ensure(said.append)
        assert any("gizmo: 1 packages compiled" in line for line in said)
        assert said[-1].startswith("built gizmo v1.2.3 (")

    def test_too_old_a_go_is_refused_before_it_builds(
        self, family: Family, tmp_path: Path, go_log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FAKE_GO_VERSION", "go1.22.1")
        with pytest.raises(UserError, match=r"needs Go 1\.25\.0 or newer, but .* is Go 1\.22\.1"):
            self.toolchain(family, tmp_path / "tools").ensure(silent)
        assert go_log.read_text() == ""

    def test_no_go_at_all_is_said(self, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
        with pytest.raises(UserError, match="no `go` on PATH: install Go"):
            self.toolchain(family, tmp_path / "tools").ensure(silent)

    def test_locating_never_builds(self, family: Family, tmp_path: Path, go_log: Path) -> None:
        with pytest.raises(UserError, match=r"tools are missing \(gizmo\): run `make up`"):
            self.toolchain(family, tmp_path / "tools").locate()
        assert go_log.read_text() == ""

    @pytest.mark.parametrize(("available", "builds"), [(23 << 20, 2), (8 << 20, 2), (4 << 20, 1)])
    def test_little_memory_means_one_build_at_a_time(self, available: int, builds: int) -> None:
        assert go_build.workers(f"MemTotal: 99999999 kB\nMemAvailable: {available} kB\n") == builds

    def test_an_interrupted_build_ends_its_processes_and_leaves_nothing(
        self, family: Family, tmp_path: Path, go_log: Path
    ) -> None:
        program = (
            "import sys; from pathlib import Path; from localcluster.go_build import build_families; "
            "from localcluster.tool_families import load_family; "
            "build_families([load_family(Path(sys.argv[1]))], Path(sys.argv[2]), print)"
        )
        command = [sys.executable, "-c", program, str(family.source), str(tmp_path / "tools")]
        environment = {**os.environ, "FAKE_GO_SECONDS": "60", "PYTHONPATH": str(REPOSITORY)}
        with subprocess.Popen(
            command, env=environment, stderr=subprocess.DEVNULL, cwd=tmp_path, preexec_fn=take_interrupts
        ) as process:
            deadline = time.monotonic() + 30
            while not go_log.read_text() and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) != 0
        assert [path.name for path in (tmp_path / "tools").iterdir()] == ["lock"]
