"""Jobs under the real engine: a failure stops the update, stays in the state, and the next update runs the Job again."""

import signal
import threading

from tests.engine.control_plane import ControlPlane
from tests.engine.pods import PODS, end_pods
from tests.engine.project import Project

PROGRAM = """
    container = {"name": "main", "image": "localhost/none:1", "command": ["COMMAND"]}
    job = k8s.batch.v1.Job(
        "build",
        metadata={"annotations": {"pulumi.com/replaceUnready": "true"}},
        spec={"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
        opts=pulumi.ResourceOptions(custom_timeouts=pulumi.CustomTimeouts(create="60s")),
    )
    k8s.core.v1.ConfigMap("after", data={"built": job.metadata.name}, opts=pulumi.ResourceOptions(depends_on=[job]))
"""
JOBS = "/apis/batch/v1/namespaces/default/jobs"


def _up(project: Project, plane: ControlPlane, *, exit_code: int, message: str = "") -> str:
    """One update, whose Job's pod ends as told."""
    stop = threading.Event()
    arguments = (plane, "batch.kubernetes.io/job-name", exit_code, message, stop)
    kubelet = threading.Thread(target=end_pods, args=arguments, daemon=True)
    kubelet.start()
    try:
        done = project.up()
    finally:
        stop.set()
        kubelet.join()
    return (done.ok() if exit_code == 0 else done.failed()).output


class TestAFailedJob:
    def test_stops_the_update_is_kept_and_runs_again(self, project: Project, plane: ControlPlane) -> None:
        project.program(PROGRAM.replace("COMMAND", "one"))
        output = _up(project, plane, exit_code=2, message="convert: shard 3 is truncated")
        assert "BackoffLimitExceeded" in output
        assert "convert: shard 3 is truncated" in output
        failed = project.resource("Job")
        assert failed["initErrors"]
        assert project.resources("ConfigMap") == [], "what depends on the Job must not be made"

        shown = project.preview().ok().output
        assert "+-kubernetes:batch/v1:Job: (replace)" in shown
        assert "pulumi.com/replaceUnready" in shown

        _up(project, plane, exit_code=0)
        done = project.resource("Job")
        assert done["id"] != failed["id"] and not done.get("initErrors")
        assert plane.get(f"{JOBS}/{failed['id'].partition('/')[2]}") is None
        assert len(project.resources("ConfigMap")) == 1
        assert "3 unchanged" in project.up().ok().output

        # Another template is another Job.
        project.program(PROGRAM.replace("COMMAND", "two"))
        output = _up(project, plane, exit_code=0)
        assert "replaced" in output
        assert project.resource("Job")["id"] != done["id"]


class TestAnInterruptedUpdate:
    def test_records_the_job_that_it_waited_for_and_goes_on_with_it(
        self, project: Project, plane: ControlPlane
    ) -> None:
        program = PROGRAM.replace("COMMAND", "three").replace('"pulumi.com/replaceUnready": "true"', "")
        process = project.program(program.replace('"build"', '"interrupted"')).start(
            "up", "--yes", "--skip-preview", "--stack=test"
        )
        plane.wait_for(f"{PODS}?labelSelector=batch.kubernetes.io/job-name&fieldSelector=status.phase=Pending", 60)
        process.send_signal(signal.SIGINT)
        interrupted = project.finish(process)
        assert interrupted.exit_code != 0
        assert "was cancelled" in interrupted.output
        recorded = project.resource("Job")
        assert recorded["initErrors"]

        # It still runs: the next update waits for it, and makes no second one.
        output = _up(project, plane, exit_code=0)
        assert "1 updated" in output
        assert project.resource("Job")["id"] == recorded["id"]
        assert not project.resource("Job").get("initErrors")
