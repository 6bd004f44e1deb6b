"""`engine_jobs.unless_complete` becomes the command exactly when the artifact is not in the store."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.unit.s3_endpoint import S3Endpoint
from tests.unit.store_endpoint import StoreEndpoint


@pytest.fixture
def url(store_server: StoreEndpoint, bucket: str) -> str:
    return f"{store_server.scheme}://{bucket}/ft/tiny/0123"


@pytest.fixture
def published(store_server: StoreEndpoint, url: str, tmp_path: Path) -> str:
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "file").write_text("x")
    assert store_server.run("publish", "--source-dir", tmp_path / "artifact", "--artifact", url, "--key", "k")[0] == 0
    return url


class TestWithoutTheArtifact:
    def test_the_command_runs_with_its_own_arguments(self, store_server: StoreEndpoint, url: str) -> None:
        program = "import sys; print(sys.argv[1:])"
        arguments = ("--artifact", url, "--", sys.executable, "-c", program, "--artifact", "other", "--", "x")
        assert store_server.run("unless_complete", *arguments) == (0, "['--artifact', 'other', '--', 'x']\n")

    def test_its_exit_code_is_the_commands(self, store_server: StoreEndpoint, url: str) -> None:
        assert store_server.run("unless_complete", "--artifact", url, "--", "sh", "-c", "exit 7") == (7, "")

    def test_the_command_has_the_same_process(self, store_server: StoreEndpoint, url: str) -> None:
        """So that a Job's SIGTERM reaches it."""
        process = store_server.start("unless_complete", ("--artifact", url, "--", "sh", "-c", "echo $$; exec sleep 60"))
        assert process.stdout is not None
        assert process.stdout.readline() == f"{process.pid}\n"
        process.terminate()
        process.communicate()
        assert process.returncode == -signal.SIGTERM


class TestWithTheArtifact:
    def test_nothing_runs(self, store_server: StoreEndpoint, published: str, tmp_path: Path) -> None:
        mark = tmp_path / "ran"
        code, output = store_server.run("unless_complete", "--artifact", published, "--", "touch", mark)
        assert (code, output) == (0, f"{published} is complete in the store, nothing to do\n")
        assert not mark.exists()

    def test_that_is_only_half_there_the_command_runs(
        self, store_server: StoreEndpoint, bucket: str, published: str
    ) -> None:
        (store_server.folder / bucket / "ft/tiny/0123/manifest.json").unlink()
        assert store_server.run("unless_complete", "--artifact", published, "--", "echo", "hi") == (0, "hi\n")


class TestWhatIsWrongIsNamed:
    URL = "s3://bucket/ft/tiny/0123"

    def test_an_absent_bucket(self, s3_server: S3Endpoint, tmp_path: Path) -> None:
        mark = tmp_path / "ran"
        code, output = s3_server.run("unless_complete", "--artifact", "s3://absent-bucket/k", "--", "touch", mark)
        assert (code, "there is no such bucket" in output) == (1, True)
        assert not mark.exists()

    def test_a_store_that_nobody_serves(self, s3_server: S3Endpoint) -> None:
        code, output = s3_server.run(
            "unless_complete", "--artifact", self.URL, "--endpoint", "http://127.0.0.1:1", "--", "true"
        )
        assert (code, "the endpoint can't be reached" in output) == (1, True)

    def test_an_absent_command(self, s3_server: S3Endpoint) -> None:
        s3_server.run("bucket", "--url", "s3://bucket")
        code, output = s3_server.run("unless_complete", "--artifact", self.URL, "--", "no-such-program")
        assert (code, output) == (1, "error: can't run no-such-program: No such file or directory.\n")

    @pytest.mark.parametrize("rest", [(), ("--",)])
    def test_no_command(self, s3_server: S3Endpoint, rest: tuple[str, ...]) -> None:
        code, output = s3_server.run("unless_complete", "--artifact", self.URL, *rest)
        assert (code, "no command given: put it after --" in output) == (2, True)

    def test_help_needs_no_store(self, s3_server: S3Endpoint) -> None:
        code, output = s3_server.run("unless_complete", "--help", AWS_ENDPOINT_URL_S3=os.devnull)
        assert (code, "-- COMMAND" in output) == (0, True)
