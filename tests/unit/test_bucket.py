"""`engine_jobs.bucket` leaves a bucket that can be used, however often it runs."""

import pytest

from tests.unit.s3_endpoint import S3Endpoint


class TestTheBucket:
    def test_is_made_once(self, s3_server: S3Endpoint) -> None:
        assert s3_server.run("bucket", "--bucket", "made-once") == (0, f"made s3://made-once/ at {s3_server.url}\n")
        assert s3_server.run("bucket", "--bucket", "made-once") == (
            0,
            f"s3://made-once/ at {s3_server.url} is there already\n",
        )
        assert (s3_server.folder / "made-once").is_dir()

    def test_is_made_by_one_of_several_at_once(self, s3_server: S3Endpoint) -> None:
        processes = [s3_server.start("bucket", ("--bucket", "made-at-once")) for _ in range(3)]
        outputs = [process.communicate(timeout=60)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], outputs
        assert sum(output.startswith("made ") for output in outputs) == 1


class TestWhatIsWrongIsNamed:
    @pytest.mark.parametrize("name", ["Upper", "a", "s3://models", "with_underscore"])
    def test_a_name_that_no_bucket_may_have(self, s3_server: S3Endpoint, name: str) -> None:
        code, output = s3_server.run("bucket", "--bucket", name)
        assert code == 1
        assert output.startswith(f"error: --bucket {name!r} is not a bucket's name")

    def test_a_wrong_key(self, s3_server: S3Endpoint) -> None:
        code, output = s3_server.run("bucket", "--bucket", "not-for-you", AWS_SECRET_ACCESS_KEY="wrong")
        assert code == 1
        assert "these credentials are wrong" in output
        assert not (s3_server.folder / "not-for-you").exists()

    def test_an_endpoint_that_nobody_serves(self, s3_server: S3Endpoint) -> None:
        code, output = s3_server.run("bucket", "--bucket", "nowhere", "--endpoint", "http://127.0.0.1:1")
        assert code == 1
        assert "the endpoint can't be reached" in output
