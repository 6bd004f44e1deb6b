"""The Hub endpoint answers huggingface_hub's own client as the real Hub does."""

import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, RepoFile, hf_hub_download, snapshot_download
from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE as CHUNK
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from localcluster.hub.catalog import Catalog, HubFile
from localcluster.hub.server import HubHandler, byte_range
from tests.unit.hub_endpoint import GATED, MODEL, OTHER_TOKEN, TOKEN, hub, write_model


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_model(tmp_path / "models" / "tiny")
    return tmp_path / "models"


@pytest.fixture
def endpoint(models: Path) -> Iterator[str]:
    with hub(models) as address:
        yield address


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class TestModelInfo:
    def test_names_the_commit_and_the_files(self, endpoint: str, models: Path) -> None:
        info = HfApi(endpoint=endpoint, token=False).model_info(MODEL)
        assert info.sha is not None
        assert len(info.sha) == 40
        assert info.siblings is not None
        assert {sibling.rfilename for sibling in info.siblings} == names(models / "tiny")
        assert info.gated is False

    def test_is_the_same_at_main_and_at_the_commit(self, endpoint: str) -> None:
        api = HfApi(endpoint=endpoint, token=False)
        sha = api.model_info(MODEL).sha
        assert api.model_info(MODEL, revision="main").sha == api.model_info(MODEL, revision=sha).sha == sha
        assert [branch.target_commit for branch in api.list_repo_refs(MODEL).branches] == [sha]

    def test_gives_sizes_and_hashes_when_asked(self, endpoint: str, models: Path) -> None:
        info = HfApi(endpoint=endpoint, token=False).model_info(MODEL, files_metadata=True)
        assert info.siblings is not None
        files = {sibling.rfilename: sibling for sibling in info.siblings}
        shard = models / "tiny" / "model-00001-of-00002.safetensors"
        lfs = files[shard.name].lfs
        assert lfs is not None
        assert (lfs.size, lfs.sha256) == (shard.stat().st_size, hashlib.sha256(shard.read_bytes()).hexdigest())
        assert files["config.json"].lfs is None
        config = (models / "tiny" / "config.json").read_bytes()
        assert files["config.json"].blob_id == hashlib.sha1(b"blob %d\0" % len(config) + config).hexdigest()

    def test_expands_only_what_is_asked(self, endpoint: str) -> None:
        info = HfApi(endpoint=endpoint, token=False).model_info(MODEL, expand=["sha", "gated"])
        assert info.sha is not None
        assert info.siblings is None

    def test_is_listed_open_and_gated(self, endpoint: str) -> None:
        assert [model.id for model in HfApi(endpoint=endpoint, token=False).list_models()] == [MODEL, GATED]


class TestTheCommit:
    def test_depends_on_names_and_contents_only(self, models: Path, tmp_path: Path) -> None:
        write_model(tmp_path / "again" / "tiny")
        os.utime(tmp_path / "again" / "tiny" / "config.json", (0, 0))
        first, second = Catalog(models).find(MODEL), Catalog(tmp_path / "again").find(MODEL)
        assert first is not None
        assert second is not None
        assert first.sha == second.sha

    def test_changes_with_a_file_while_served(self, endpoint: str, models: Path) -> None:
        api = HfApi(endpoint=endpoint, token=False)
        before = api.model_info(MODEL).sha
        (models / "tiny" / "config.json").write_text('{"n_head": 4}')
        assert api.model_info(MODEL).sha != before
        with pytest.raises(RevisionNotFoundError):
            api.model_info(MODEL, revision=before)


class TestTree:
    def test_recursive_has_folders_and_files(self, endpoint: str, models: Path) -> None:
        entries = list(HfApi(endpoint=endpoint, token=False).list_repo_tree(MODEL, recursive=True))
        assert {entry.path for entry in entries if isinstance(entry, RepoFile)} == names(models / "tiny")
        assert [entry.path for entry in entries if not isinstance(entry, RepoFile)] == ["onnx"]

    def test_of_one_level_and_of_a_folder(self, endpoint: str) -> None:
        api = HfApi(endpoint=endpoint, token=False)
        assert "onnx/model.onnx" not in {entry.path for entry in api.list_repo_tree(MODEL)}
        assert [entry.path for entry in api.list_repo_tree(MODEL, "onnx")] == ["onnx/model.onnx"]
        with pytest.raises(RemoteEntryNotFoundError):
            list(api.list_repo_tree(MODEL, "absent"))

    @pytest.mark.parametrize("recursive", [True, False])
    def test_in_pages_is_the_same(self, endpoint: str, models: Path, recursive: bool) -> None:
        whole = list(HfApi(endpoint=endpoint, token=False).list_repo_tree(MODEL, recursive=recursive))
        with hub(models, tree_page=3) as paged:
            assert list(HfApi(endpoint=paged, token=False).list_repo_tree(MODEL, recursive=recursive)) == whole


class TestDownload:
    def test_snapshot_is_byte_for_byte_the_folder(self, endpoint: str, models: Path, tmp_path: Path) -> None:
        path = Path(snapshot_download(MODEL, cache_dir=tmp_path / "cache", endpoint=endpoint, token=False))
        assert names(path) == names(models / "tiny")
        for name in names(path):
            assert (path / name).read_bytes() == (models / "tiny" / name).read_bytes()

    def test_one_file_at_a_revision(self, endpoint: str, tmp_path: Path) -> None:
        sha = HfApi(endpoint=endpoint, token=False).model_info(MODEL).sha
        path = hf_hub_download(MODEL, "config.json", revision=sha, cache_dir=tmp_path, endpoint=endpoint, token=False)
        assert json.loads(Path(path).read_text())["n_head"] == 2
        assert f"snapshots/{sha}/" in path

    def test_goes_on_where_the_connection_was_cut(self, models: Path, tmp_path: Path) -> None:
        (models / "tiny" / "model.safetensors").write_bytes(content := os.urandom(CHUNK + 3_000_000))
        ranges: list[str] = []

        class CuttingHandler(HubHandler):
            def send_bytes(self, file: HubFile, start: int, stop: int) -> None:
                ranges.append(self.headers.get("Range", ""))
                if start == 0:
                    super().send_bytes(file, 0, CHUNK + 1_000_000)
                    self.connection.shutdown(socket.SHUT_RDWR)
                else:
                    super().send_bytes(file, start, stop)

        with hub(models, CuttingHandler) as address:
            path = hf_hub_download(MODEL, "model.safetensors", cache_dir=tmp_path, endpoint=address, token=False)
        assert Path(path).read_bytes() == content
        assert ranges == ["", f"bytes={CHUNK}-"]

    def test_a_file_cut_on_disk_is_not_taken_for_whole(self, models: Path, tmp_path: Path) -> None:
        class ShortHandler(HubHandler):
            def send_bytes(self, file: HubFile, start: int, stop: int) -> None:
                super().send_bytes(file, start, stop - 5)
                self.close_connection = True

        with (
            hub(models, ShortHandler) as address,
            httpx2.Client() as client,
            pytest.raises(httpx2.RemoteProtocolError),
        ):
            client.get(f"{address}/{MODEL}/resolve/main/config.json")


class TestRanges:
    @pytest.mark.parametrize(
        ("header", "expected"),
        [("bytes=2-5", slice(2, 6)), ("bytes=4-", slice(4, None)), ("bytes=-3", slice(-3, None))],
    )
    def test_give_their_part(self, endpoint: str, models: Path, header: str, expected: slice) -> None:
        answer = httpx2.get(f"{endpoint}/{MODEL}/resolve/main/config.json", headers={"Range": header})
        assert answer.status_code == 206
        assert answer.content == (models / "tiny" / "config.json").read_bytes()[expected]

    def test_past_the_end_are_refused(self, endpoint: str) -> None:
        answer = httpx2.get(f"{endpoint}/{MODEL}/resolve/main/config.json", headers={"Range": "bytes=999999-"})
        assert answer.status_code == 416
        assert answer.headers["Content-Range"].startswith("bytes */")

    def test_follow_the_standard(self) -> None:
        assert byte_range("0", "0", 10) == (0, 1)
        assert byte_range("", "20", 10) == (0, 10)
        assert byte_range("5", "99", 10) == (5, 10)
        assert byte_range("", "", 10) == (0, 0)


class TestRefusals:
    """Each case gives the error class that the client has for it."""

    def test_of_an_unknown_model(self, endpoint: str) -> None:
        for token in (False, TOKEN):
            with pytest.raises(RepositoryNotFoundError) as caught:
                HfApi(endpoint=endpoint, token=token).model_info("llm-serving/absent")
            assert not isinstance(caught.value, GatedRepoError)
            assert caught.value.response.status_code == (404 if token else 401)

    @pytest.mark.parametrize("model", ["llm-serving/..", "llm-serving/.", "other/tiny", "llm-serving/tiny%2Fonnx"])
    def test_of_an_id_outside_the_folder(self, endpoint: str, model: str) -> None:
        connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
        connection.request("GET", f"/api/models/{model}")  # a client that does not tidy the path first
        assert connection.getresponse().status in (401, 404)
        connection.close()

    def test_of_an_unknown_revision(self, endpoint: str) -> None:
        with pytest.raises(RevisionNotFoundError):
            HfApi(endpoint=endpoint, token=False).model_info(MODEL, revision="v9")

    def test_of_an_unknown_file(self, endpoint: str, tmp_path: Path) -> None:
        with pytest.raises(RemoteEntryNotFoundError):
            hf_hub_download(MODEL, "absent.json", cache_dir=tmp_path, endpoint=endpoint, token=False)

    def test_of_a_file_outside_the_model(self, endpoint: str) -> None:
        connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
        connection.request("GET", f"/{MODEL}/resolve/main/..%2F..%2Fsecret")
        assert connection.getresponse().status == 404
        connection.close()

    def test_of_a_path_that_is_no_endpoint(self, endpoint: str) -> None:
        assert httpx2.get(f"{endpoint}/api/datasets/x").status_code == 404


class TestGatedModels:
    @pytest.mark.parametrize(("token", "status"), [(False, 401), (OTHER_TOKEN, 403)])
    def test_keep_their_files_from_strangers(
        self, endpoint: str, tmp_path: Path, token: str | bool, status: int
    ) -> None:
        with pytest.raises(GatedRepoError) as caught:
            hf_hub_download(GATED, "config.json", cache_dir=tmp_path, endpoint=endpoint, token=token)
        assert caught.value.response.status_code == status
        with pytest.raises(GatedRepoError):
            HfApi(endpoint=endpoint, token=token).auth_check(GATED)

    def test_show_their_description_to_everyone(self, endpoint: str) -> None:
        assert HfApi(endpoint=endpoint, token=False).model_info(GATED).gated == "manual"

    def test_give_their_files_with_the_token(self, endpoint: str, tmp_path: Path) -> None:
        HfApi(endpoint=endpoint, token=TOKEN).auth_check(GATED)
        path = snapshot_download(GATED, cache_dir=tmp_path, endpoint=endpoint, token=TOKEN)
        assert (Path(path) / "config.json").is_file()

    def test_refuse_a_malformed_token_even_for_open_models(self, endpoint: str) -> None:
        with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
            HfApi(endpoint=endpoint, token="nonsense").model_info(MODEL)


class TestWhoami:
    def test_names_the_account(self, endpoint: str) -> None:
        assert HfApi(endpoint=endpoint).whoami(token=TOKEN)["name"] == "llm-serving"
        assert HfApi(endpoint=endpoint).whoami(token=OTHER_TOKEN)["name"] == "another-account"

    def test_refuses_an_invalid_token(self, endpoint: str) -> None:
        with pytest.raises(HfHubHTTPError, match="Invalid user token"):
            HfApi(endpoint=endpoint).whoami(token="nonsense")


class TestTheProgram:
    @pytest.fixture
    def token_file(self, tmp_path: Path) -> Path:
        path = tmp_path / "token"
        path.write_text(f"{TOKEN}\n")
        path.chmod(0o600)
        return path

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "localcluster.hub", *map(str, arguments)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def fails(self, *arguments: str | Path) -> str:
        process = self.start(*arguments)
        _, output = process.communicate(timeout=30)
        assert process.returncode == 1
        assert output.startswith("error: ")
        assert "Traceback" not in output
        return output

    def test_serves_on_every_host_until_sigterm(self, models: Path, token_file: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        hosts = ("--host", "127.0.0.1", "--host", "127.0.0.2", "--port", str(port))
        with self.start("--models-dir", models, "--token-file", token_file, *hosts) as process:
            assert process.stderr is not None
            assert [MODEL in process.stderr.readline() for _ in range(2)] == [True, True]
            for host in ("127.0.0.1", "127.0.0.2"):
                with urllib.request.urlopen(f"http://{host}:{port}/api/models") as answer:
                    assert [model["id"] for model in json.load(answer)] == [MODEL, GATED]
            process.terminate()
            assert process.wait(timeout=10) == 0

    def test_names_a_port_that_is_taken(self, models: Path, token_file: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            output = self.fails(
                "--models-dir", models, "--token-file", token_file, "--host", "127.0.0.1", "--port", port
            )
        assert f"127.0.0.1:{port}: another process listens there" in output

    def test_names_an_address_that_is_not_the_machines(self, models: Path, token_file: Path) -> None:
        output = self.fails("--models-dir", models, "--token-file", token_file, "--host", "192.0.2.1")
        assert "192.0.2.1:8090: this machine has no such address" in output

    def test_names_a_token_file_that_others_can_read(self, models: Path, token_file: Path) -> None:
        token_file.chmod(0o644)
        output = self.fails("--models-dir", models, "--token-file", token_file, "--host", "127.0.0.1")
        assert "chmod 600" in output
        assert TOKEN not in output

    def test_names_a_missing_folder(self, tmp_path: Path, token_file: Path) -> None:
        output = self.fails("--models-dir", tmp_path / "absent", "--token-file", token_file, "--host", "127.0.0.1")
        assert "there is no such folder" in output
