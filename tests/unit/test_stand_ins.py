"""The stand-ins serve only where the official ones are absent, and run wherever the engine starts them."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from localcluster import stand_ins
from localcluster.paths import Paths
from localcluster.stand_ins import KUBERNETES_PROVIDER, LANGUAGE_HOST, StandIn
from localcluster.toolchain import Source, Tool, Tools


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(cache=tmp_path / "cache", state=tmp_path / "state")


def engine(folder: Path, source: Source = Source.BUILT) -> Tools:
    return Tools(by_name={"pulumi": Tool(name="pulumi", path=folder / "pulumi", source=source)}, folders={})


def environment(tmp_path: Path) -> Mapping[str, str]:
    return {"HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "bin")}


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


class TestOnlyWhereTheOfficialOneIsAbsent:
    def test_both_serve_where_there_is_nothing(self, tmp_path: Path, paths: Paths) -> None:
        found = stand_ins.needed(paths, engine(tmp_path / "built"), environment(tmp_path))
        assert found == [LANGUAGE_HOST, KUBERNETES_PROVIDER]

    def test_one_on_path_wins(self, tmp_path: Path, paths: Paths) -> None:
        put(tmp_path / "bin" / "pulumi-resource-kubernetes")
        assert stand_ins.needed(paths, engine(tmp_path / "built"), environment(tmp_path)) == [LANGUAGE_HOST]

    def test_the_official_bundle_needs_none_since_it_downloads_its_provider(self, tmp_path: Path, paths: Paths) -> None:
        put(tmp_path / "bundle" / "pulumi-language-python")
        tools = engine(tmp_path / "bundle", Source.OFFICIAL)
        assert stand_ins.needed(paths, tools, environment(tmp_path)) == []

    def test_one_in_the_plugin_store_wins(self, tmp_path: Path, paths: Paths) -> None:
        (tmp_path / "home/.pulumi/plugins/resource-kubernetes-v4.34.2").mkdir(parents=True)
        assert stand_ins.needed(paths, engine(tmp_path / "built"), environment(tmp_path)) == [LANGUAGE_HOST]

    def test_our_own_launchers_on_path_are_not_official(self, tmp_path: Path, paths: Paths) -> None:
        folder = stand_ins.ensure(paths, LANGUAGE_HOST)
        shell = {**environment(tmp_path), "PATH": f"{folder}:{tmp_path / 'bin'}"}
        assert LANGUAGE_HOST in stand_ins.needed(paths, engine(tmp_path / "built"), shell)


class TestLaunchers:
    @pytest.mark.parametrize("stand_in", [LANGUAGE_HOST, KUBERNETES_PROVIDER], ids=lambda stand_in: stand_in.name)
    def test_a_launcher_serves_on_the_port_it_prints(self, stand_in: StandIn, tmp_path: Path, paths: Paths) -> None:
        launcher = stand_ins.ensure(paths, stand_in) / stand_in.name
        (tmp_path / "localcluster").mkdir()  # a project's folder must not be taken for this repository's
        with subprocess.Popen([launcher], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert int(process.stdout.readline()) > 0
            finally:
                process.terminate()

    def test_written_once(self, paths: Paths) -> None:
        launcher = stand_ins.ensure(paths, LANGUAGE_HOST) / LANGUAGE_HOST.name
        before = launcher.stat()
        stand_ins.ensure(paths, LANGUAGE_HOST)
        assert launcher.stat().st_ino == before.st_ino
