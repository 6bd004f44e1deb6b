"""`engine_jobs.bucket` leaves a bucket that can be used, however often it runs."""

import pytest

from tests.unit.s3_endpoint import S3Endpoint
from tests.unit.store_endpoint import StoreEndpoint


class TestTheBucket:
    def test_is_made_once(self, store_server: StoreEndpoint) -> None:
        url = f"{store_server.scheme}://made-once"
        assert store_server.run("bucket", "--url", url) == (0, f"made {url}/ at {store_server.url}\n")
        assert store_server.run("bucket", "--url", url) == (0, f"{url}/ at {store_server.url} is there already\n")
        assert (store_server.folder / "made-once").is_dir()

    def test_is_there_after_several_at_once(self, store_server: StoreEndpoint) -> None:
        url = f"{store_server.scheme}://made-at-once"
        processes = [store_server.start("bucket", ("--url", url)) for _ in range(3)]
        outputs = [process.communicate(timeout=60)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], outputs
        made = sum(output.startswith("made ") for output in outputs)
        # fake-gcs-server looks and makes in two steps, so it may tell more than one that it was first.
        assert made == 1 if store_server.scheme == "s3" else made >= 1

    def test_may_be_named_by_its_endpoint_and_project(self, store_server: StoreEndpoint) -> None:
        project = ("--project", "any") if store_server.scheme == "gs" else ()
        unset = dict.fromkeys({"AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST"} & store_server.variables.keys(), "")
        arguments = ("--url", f"{store_server.scheme}://by-endpoint", "--endpoint", store_server.url, *project)
        code, output = store_server.run("bucket", *arguments, **unset)
        assert (code, (store_server.folder / "by-endpoint").is_dir()) == (0, True), output


class TestWhatIsWrongIsNamed:
    @pytest.mark.parametrize("name", ["Upper", "a", "", "with_underscore", "name/and/path", "name?x=1"])
    @pytest.mark.parametrize("scheme", ["s3", "gs"])
    def test_a_name_that_no_bucket_may_have(self, s3_server: S3Endpoint, scheme: str, name: str) -> None:
        code, output = s3_server.run("bucket", "--url", f"{scheme}://{name}")
        assert code == 1
        assert output.startswith(f"error: --url '{scheme}://{name}' is not a bucket's URL")

    def test_a_name_without_a_cloud(self, s3_server: S3Endpoint) -> None:
        code, output = s3_server.run("bucket", "--url", "models")
        assert (code, "s3:// or gs://" in output) == (1, True)

    def test_a_project_for_s3(self, s3_server: S3Endpoint) -> None:
        code, output = s3_server.run("bucket", "--url", "s3://models", "--project", "p")
        assert (code, output) == (1, "error: --project 'p': a bucket of S3 has none. Leave it out.\n")

    def test_a_wrong_key(self, s3_server: S3Endpoint) -> None:
        code, output = s3_server.run("bucket", "--url", "s3://not-for-you", AWS_SECRET_ACCESS_KEY="wrong")
        assert code == 1
        assert "these credentials are wrong" in output
        assert not (s3_server.folder / "not-for-you").exists()

    def test_an_endpoint_that_nobody_serves(self, s3_server: S3Endpoint) -> None:
        code, output = s3_server.run("bucket", "--url", "s3://nowhere", "--endpoint", "http://127.0.0.1:1")
        assert code == 1
        assert "the endpoint can't be reached" in output
