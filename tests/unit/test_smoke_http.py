"""The smoke test over HTTP, against a real server: what it asks, what it asks again, and what it never lets pass."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from engine_jobs.errors import UserError
from engine_jobs.smoke_test import HttpProbe, SmokeTest, UrlTarget, Verdict, run_smoke_test, v2_probes
from engine_jobs.smoke_test.decode import Json
from engine_jobs.smoke_test.verdict import TERMINATION_MESSAGE_BYTES
from tests.unit.smoke_servers import HttpEndpoint, Reply, http_endpoint, unused_port

HOST = "bloom-models.llm.localhost"
PATH = "/v1/models/fastertransformer:predict"
TEXT = "Kubernetes is the best platform to serve your models because it is a cloud-based service."
BODY: Json = {"inputs": [{"input": "Kubernetes is …", "output_len": 18}]}
QUESTION = HttpProbe(name="question", path=PATH, method="POST", body=BODY, answer="/0/0", expect_text=TEXT)
GOOD = Reply(body=[[TEXT]])


def probe(answer: str | None = "/0/0", expect_text: str | None = None) -> HttpProbe:
    return HttpProbe(name="question", path=PATH, method="POST", body=BODY, answer=answer, expect_text=expect_text)


def ask(
    endpoint: HttpEndpoint, *probes: HttpProbe, attempts: int = 4, timeout: float = 5.0, deadline: float = 30.0
) -> Verdict:
    return run_smoke_test(
        SmokeTest(
            name="bloom",
            target=UrlTarget(url=endpoint.url, host=HOST),
            probes=probes,
            subject="key 0123",
            attempts=attempts,
            request_timeout_s=timeout,
            deadline_s=deadline,
        )
    )


def answered(reply: Reply | list[Reply], *probes: HttpProbe, timeout: float = 5.0) -> tuple[Verdict, HttpEndpoint]:
    with http_endpoint({PATH: reply}) as endpoint:
        return ask(endpoint, *probes, timeout=timeout), endpoint


class TestAGoodAnswerPasses:
    def test_health_metadata_and_the_question_are_asked_in_order_with_the_host(self) -> None:
        replies: Mapping[str, Reply | list[Reply]] = {
            "/v2/health/live": Reply(body=""),
            "/v2/health/ready": Reply(body={"ready": True}),
            "/v2/models/fastertransformer": Reply(body={"name": "fastertransformer"}),
            PATH: GOOD,
        }
        with http_endpoint(replies) as endpoint:
            verdict = ask(endpoint, *v2_probes("fastertransformer"), QUESTION)
        assert verdict.ok, verdict.text()
        assert [(each.method, each.path) for each in endpoint.requests] == [
            ("GET", "/v2/health/live"),
            ("GET", "/v2/health/ready"),
            ("GET", "/v2/models/fastertransformer"),
            ("POST", PATH),
        ]
        assert {each.host for each in endpoint.requests} == {HOST}
        assert endpoint.requests[-1].body == BODY

    def test_the_verdict_shows_request_answer_and_time(self) -> None:
        verdict, endpoint = answered(Reply(body=[[TEXT]], delay=0.3), QUESTION)
        told = verdict.to_dict()
        assert told["ok"] is True
        assert told["answer"] == TEXT
        assert told["host"] == HOST
        assert isinstance(told["answer_seconds"], float)
        assert 0.3 <= told["answer_seconds"] < 2
        assert told["subject"] == "key 0123"
        assert json.loads(verdict.to_json()) == told
        text = verdict.text()
        assert "smoke test of bloom: passed in" in text
        assert TEXT in text
        assert f"curl -sS -H 'Host: {HOST}'" in text
        assert endpoint.url in text

    def test_the_request_shown_is_a_command_that_gets_the_same_answer(self) -> None:
        with http_endpoint({PATH: GOOD}) as endpoint:
            verdict = ask(endpoint, QUESTION)
            done = subprocess.run(shlex.split(verdict.probes[0].request), capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == [[TEXT]]
        assert endpoint.requests[0] == endpoint.requests[1]

    @pytest.mark.parametrize(
        ("pointer", "body"),
        [
            ("/predictions/0", {"predictions": [TEXT]}),
            ("/text_output", {"text_output": TEXT, "model_name": "ensemble"}),
            ("/outputs/0/data/0", {"outputs": [{"name": "OUT", "data": [TEXT]}]}),
            ("/a~1b/c~0d", {"a/b": {"c~d": TEXT}}),
            ("", TEXT),
        ],
    )
    def test_the_answer_is_found_by_pointer(self, pointer: str, body: object) -> None:
        reply = Reply(body=json.dumps(body))
        verdict, _ = answered(reply, probe(answer=pointer, expect_text=TEXT))
        assert verdict.ok, verdict.text()

    def test_an_event_stream_is_joined(self) -> None:
        events = "".join(f"data: {json.dumps({'text_output': word})}\n\n" for word in ("It ", "is", "."))
        reply = Reply(body=events + "data: [DONE]\n\n", content_type="text/event-stream; charset=utf-8")
        verdict, _ = answered(reply, probe(answer="/text_output", expect_text="It is."))
        assert verdict.ok, verdict.text()

    def test_any_text_will_do_where_none_is_expected(self) -> None:
        verdict, _ = answered(Reply(body=[["anything"]]), probe())
        assert verdict.ok
        assert verdict.to_dict()["answer"] == "anything"


class TestWhatPassesByItselfIsAskedAgain:
    @pytest.mark.parametrize("status", [404, 429, 502, 503, 504])
    def test_until_the_route_and_the_backend_are_there(self, status: int) -> None:
        verdict, endpoint = answered([Reply(status, "wait", "text/plain"), Reply(status), GOOD], QUESTION)
        assert verdict.ok, verdict.text()
        assert verdict.probes[0].attempts == len(endpoint.requests) == 3

    def test_a_broken_connection(self) -> None:
        verdict, _ = answered([Reply(cut=True), GOOD], QUESTION)
        assert verdict.ok, verdict.text()
        assert verdict.probes[0].attempts == 2

    def test_but_not_for_ever(self) -> None:
        verdict, endpoint = answered(Reply(503, {"error": "Model is not ready"}), QUESTION)
        assert not verdict.ok
        assert len(endpoint.requests) == verdict.probes[0].attempts == 4
        assert verdict.error is not None
        assert "status 503 where 200 is expected" in verdict.error
        assert "no backend is ready" in verdict.error
        assert "Model is not ready" in verdict.error

    def test_a_missing_model_is_told_from_a_missing_route(self) -> None:
        unknown = Reply(404, {"error": "Request for unknown model: 'm' is not found"})
        with http_endpoint({"/v2/models/m": unknown}) as endpoint:
            verdict = ask(endpoint, v2_probes("m")[-1], attempts=2)
        assert "the server has no such model or path: " in (verdict.error or "")
        assert "no route" not in (verdict.error or "")

    def test_and_not_past_the_deadline(self) -> None:
        with http_endpoint({}) as endpoint:
            started = time.monotonic()
            verdict = ask(endpoint, QUESTION, attempts=1000, deadline=1.0)
        assert time.monotonic() - started < 2
        assert not verdict.ok
        assert "no route for this Host" in (verdict.error or "")
        assert HOST in (verdict.error or "")

    def test_nobody_listens(self) -> None:
        endpoint = HttpEndpoint({}, url=f"http://127.0.0.1:{unused_port()}")
        verdict = ask(endpoint, QUESTION, attempts=2)
        assert not verdict.ok
        assert verdict.probes[0].attempts == 2
        assert f"no connection to {endpoint.url}" in (verdict.error or "")
        assert "Connection refused" in (verdict.error or "")

    def test_a_name_that_does_not_resolve(self) -> None:
        verdict = ask(HttpEndpoint({}, url="http://no-such-host.invalid"), QUESTION, attempts=1)
        assert not verdict.ok
        assert "no connection to http://no-such-host.invalid" in (verdict.error or "")

    def test_progress_is_reported(self) -> None:
        lines: list[str] = []
        with http_endpoint({PATH: [Reply(503), GOOD]}) as endpoint:
            test = SmokeTest(name="bloom", target=UrlTarget(url=endpoint.url), probes=(QUESTION,))
            run_smoke_test(test, report=lines.append)
        assert len(lines) == 1
        assert lines[0].startswith("question: attempt 1 of 10: status 503")


class TestAWrongAnswerIsFinal:
    def failed(self, reply: Reply, question: HttpProbe) -> str:
        verdict, endpoint = answered([reply, GOOD], question)
        assert not verdict.ok
        assert len(endpoint.requests) == 1, "a wrong answer was asked for again"
        assert verdict.error is not None
        with pytest.raises(UserError, match="FAILED"):
            verdict.raise_for_failure()
        return verdict.error

    def test_another_text_is_shown_beside_the_expected_one_with_the_place(self) -> None:
        error = self.failed(Reply(body=[[TEXT.replace("cloud", "clown")]]), QUESTION)
        assert f"from character {TEXT.index('cloud') + 3} on" in error
        assert f'expected "{TEXT}"' in error
        assert "clown" in error

    @pytest.mark.parametrize(("got", "position"), [(TEXT[:-1], len(TEXT) - 1), (TEXT + " ", len(TEXT))])
    def test_a_shorter_or_longer_text(self, got: str, position: int) -> None:
        assert f"from character {position} on" in self.failed(Reply(body=[[got]]), QUESTION)

    @pytest.mark.parametrize("empty", ["", " \n", None, [], {}])
    def test_an_empty_text(self, empty: object) -> None:
        assert "the answer is empty" in self.failed(Reply(body=[[empty]]), probe())

    def test_an_event_stream_without_events(self) -> None:
        error = self.failed(Reply(body="\n\n", content_type="text/event-stream"), probe(answer="/text_output"))
        assert "the answer is empty" in error

    def test_no_json(self) -> None:
        error = self.failed(Reply(body="<html>hello</html>", content_type="text/html"), QUESTION)
        assert "the answer is not JSON" in error
        assert "<html>hello</html>" in error

    def test_json_that_is_only_deep(self) -> None:
        assert "the answer is not JSON" in self.failed(Reply(body="[" * 200_000), QUESTION)

    @pytest.mark.parametrize("body", [[], {"error": "x"}, [[]], "text", [{"0": "x"}, 1]])
    def test_json_of_another_shape(self, body: object) -> None:
        error = self.failed(Reply(body=json.dumps(body)), probe(answer="/0/0/0"))
        assert "the answer has nothing at /0/0/0" in error

    @pytest.mark.parametrize("status", [301, 400, 401, 500])
    def test_another_status(self, status: int) -> None:
        error = self.failed(Reply(status, {"error": "tokenizer is missing"}), QUESTION)
        assert f"status {status} where 200 is expected" in error
        assert "tokenizer is missing" in error
        assert PATH in error

    def test_the_probes_after_it_are_not_asked(self) -> None:
        with http_endpoint({PATH: Reply(500), "/v2/health/live": Reply()}) as endpoint:
            verdict = ask(endpoint, QUESTION, *v2_probes("m"))
        assert [each.name for each in verdict.probes] == ["question"]


class TestNothingHangs:
    def test_a_server_that_never_answers(self) -> None:
        started = time.monotonic()
        verdict, endpoint = answered(Reply(body=[[TEXT]], delay=20), QUESTION, timeout=0.5)
        assert time.monotonic() - started < 5
        assert len(endpoint.requests) == 1
        assert "no complete answer" in (verdict.error or "")
        assert "within 0.5 s" in (verdict.error or "")

    def test_a_server_that_answers_a_byte_at_a_time(self) -> None:
        started = time.monotonic()
        verdict, _ = answered(Reply(body=[[TEXT]], drip=0.1), QUESTION, timeout=0.5)
        assert time.monotonic() - started < 5
        assert "no complete answer" in (verdict.error or "")

    def test_an_answer_without_an_end(self) -> None:
        verdict, _ = answered(Reply(body=[["x" * (9 << 20)]]), QUESTION)
        assert "longer than 8 MiB" in (verdict.error or "")


class TestTheVerdictTellsOfTheProbeThatMatters:
    METADATA = v2_probes("m")[-1]

    def told(self, answer: Reply) -> dict[str, Json]:
        with http_endpoint({PATH: answer, "/v2/models/m": Reply(body={"name": "m"})}) as endpoint:
            return ask(endpoint, self.METADATA, QUESTION, v2_probes("m")[-1]).to_dict()

    def test_the_last_answer_of_one_that_passed(self) -> None:
        assert self.told(GOOD)["answer"] == "m"

    def test_the_failed_one_though_others_had_an_answer(self) -> None:
        told = self.told(Reply(500))
        assert told["answer"] is None
        assert PATH in str(told["request"])


class TestTerminationMessage:
    def test_it_is_the_whole_verdict_where_that_fits(self) -> None:
        verdict, _ = answered(GOOD, QUESTION)
        assert json.loads(verdict.termination_message()) == verdict.to_dict()

    def test_it_keeps_the_error_within_the_kubelets_limit(self) -> None:
        verdict, _ = answered(Reply(body=[["ä" * 20_000]]), QUESTION)
        message = verdict.termination_message()
        assert len(message.encode()) <= TERMINATION_MESSAGE_BYTES
        assert json.loads(message)["ok"] is False
        assert "wrong answer, from character 0 on" in json.loads(message)["error"]


@pytest.fixture
def served() -> Iterator[HttpEndpoint]:
    with http_endpoint({PATH: GOOD}) as endpoint:
        yield endpoint


class TestCommandLine:
    def run(self, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "engine_jobs.smoke_test", *arguments]
        return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=60, check=False)

    def question(self, endpoint: HttpEndpoint, *more: str) -> list[str]:
        return [
            "--url",
            endpoint.url,
            "--host",
            HOST,
            "--path",
            PATH,
            "--data",
            json.dumps(BODY),
            "--answer",
            "/0/0",
            *more,
        ]

    def test_a_pass_is_exit_code_0_and_text(self, served: HttpEndpoint) -> None:
        done = self.run(*self.question(served, "--expect-text", TEXT))
        assert (done.returncode, done.stderr) == (0, "")
        assert "passed" in done.stdout
        assert TEXT in done.stdout
        assert served.requests[0].body == BODY

    def test_a_failure_is_exit_code_1_with_json_and_a_termination_message(
        self, served: HttpEndpoint, tmp_path: Path
    ) -> None:
        log = tmp_path / "termination-log"
        done = self.run(*self.question(served, "--expect-text", "other", "--json", "--termination-log", str(log)))
        assert done.returncode == 1
        verdict = json.loads(done.stdout)
        assert verdict["ok"] is False
        assert verdict["answer"] == TEXT
        assert json.loads(log.read_text()) == verdict

    def test_a_whole_test_from_a_file_standard_input_and_an_argument(
        self, served: HttpEndpoint, tmp_path: Path
    ) -> None:
        text = SmokeTest(name="bloom", target=UrlTarget(url=served.url), probes=(QUESTION,)).to_json()
        (tmp_path / "spec.json").write_text(text)
        assert self.run("--spec", str(tmp_path / "spec.json")).returncode == 0
        assert self.run("--spec", "-", stdin=text).returncode == 0
        assert self.run("--spec-json", text).returncode == 0

    def test_half_a_surrogate_pair_is_shown_as_its_escape(self) -> None:
        with http_endpoint({PATH: Reply(body=r'[["\ud800"]]')}) as endpoint:
            done = self.run("--url", endpoint.url, "--path", PATH, "--data", r'{"a": "\ud800"}', "--answer", "/0/0")
        assert done.returncode == 0, done.stderr
        assert r"\ud800" in done.stdout

    def test_a_body_from_a_file(self, served: HttpEndpoint, tmp_path: Path) -> None:
        (tmp_path / "body.json").write_text(json.dumps(BODY))
        done = self.run("--url", served.url, "--path", PATH, "--data", f"@{tmp_path / 'body.json'}")
        assert done.returncode == 0, done.stderr
        assert served.requests[0].body == BODY

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "give one of --spec, --spec-json, --inference-service and --url, not none"),
            (["--url", "http://a", "--spec", "x"], "not --spec and --url"),
            (["--url", "http://a"], "nothing to ask: give --path"),
            (["--url", "a:80", "--model", "m"], "url 'a:80' must look like http://HOST:PORT"),
            (["--url", "http://a", "--grpc", "service"], "--grpc needs --model"),
            (["--url", "http://a", "--model", "m", "--answer", "/0"], "give its --path too"),
            (["--url", "http://a", "--path", "/", "--data", "{"], "--data is not JSON"),
            (["--url", "http://a", "--path", "/", "--data", "@/no/such"], "No such file or directory: /no/such"),
            (["--url", "http://a", "--gateway", "http://b", "--model", "m"], "--gateway goes with --inference-service"),
            (["--inference-service", "a", "--host", "b", "--model", "m"], "--host goes with --url"),
            (["--url", "http://a", "--host", "ü", "--model", "m"], "host 'ü' is no host name"),
            (["--url", "http://a", "--model", "m", "--timeout", "nan"], "request_timeout_s must be above 0 and finite"),
            (["--spec-json", "[" * 100_000], "--spec-json: not JSON"),
            (["--spec-json", "{}", "--attempts", "3"], "--attempts has no place beside it"),
            (["--spec-json", '{"nam": 1}'], "--spec-json: unknown key 'nam'"),
            (["--spec", "/no/such"], "No such file or directory: /no/such"),
        ],
    )
    def test_a_mistake_is_one_message_and_no_traceback(self, arguments: list[str], message: str) -> None:
        done = self.run(*arguments)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert message in done.stderr

    def test_a_bad_spec_in_a_job_is_in_the_termination_message(self, tmp_path: Path) -> None:
        log = tmp_path / "termination-log"
        assert self.run("--spec-json", "{}", "--termination-log", str(log)).returncode == 1
        assert json.loads(log.read_text()) == {"ok": False, "error": "--spec-json: the key 'name' is missing"}

    def test_help_shows_how_to_ask(self) -> None:
        done = self.run("--help")
        assert done.returncode == 0
        assert "--inference-service" in done.stdout
        assert "/v1/models/fastertransformer:predict" in done.stdout
