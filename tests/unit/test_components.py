import dataclasses
from typing import Any

import pytest
from pulumi._types import input_type_to_dict, is_input_type

from components.engine_build import EngineBuildArgs, build_job_args
from components.follow_up import FollowUpArgs, follow_up_job_args
from components.kserve.inference_service import inference_service_spec, revision, service_name
from components.kserve.model_route import GatewayAddress, ModelRouteArgs, http_route_spec, route_host
from components.kserve.serving_runtime import runtime_name, serving_runtime_spec
from components.kubernetes.credentials import StoreAccess, hub_secret_args, store_secret_args
from components.kubernetes.disk import DiskArgs, claim_args, persistent_volume_args
from components.kubernetes.metadata import Scope
from components.kubernetes.namespace import predictor_account_args, smoke_test_role_args
from components.smoke_test import SmokeTestArgs, smoke_job_args, smoke_job_name
from engine_jobs.recipe import JobSpec, Plan, Resources, Step
from tests.unit.plans import make_plan

SCOPE = Scope(stack="test", namespace="models")
STORE = StoreAccess(
    name="s3",
    url="s3://bucket/engines",
    region="us-east-1",
    endpoint="http://10.0.0.1:9000",
    s3_keys=("key", "secret"),
)
GCS = StoreAccess(name="gcs", url="gs://bucket/engines", region="", endpoint="http://10.0.0.1:9001", s3_keys=None)


def plain(args: Any) -> Any:
    """A typed argument object as the JSON that Kubernetes gets: camelCase, nothing that is None."""
    if is_input_type(type(args)):
        return {name: plain(value) for name, value in input_type_to_dict(args).items() if value is not None}
    if isinstance(args, dict):
        return {key: plain(value) for key, value in args.items()}
    return [plain(item) for item in args] if isinstance(args, list) else args


def build_job(name: str, *, store: StoreAccess = STORE, hub_token: bool = True, plan: Plan | None = None) -> Any:
    plan = plan or make_plan()
    args = EngineBuildArgs(
        scope=SCOPE, model="tiny-bloom", build=plan.build, store=store, hub_token=hub_token, disk_claim="disk"
    )
    (spec,) = [job for job in plan.build.jobs if job.name == name]
    return plain(build_job_args(args, spec))


def smoke_args(plan: Plan) -> SmokeTestArgs:
    return SmokeTestArgs(scope=SCOPE, model="tiny-bloom", plan=plan, image="i", gateway="http://gateway.test:8888")


class TestABuildJob:
    def test_runs_its_steps_one_after_the_other(self) -> None:
        pod = build_job("convert")["spec"]["template"]["spec"]
        assert [c["name"] for c in pod["initContainers"]] == ["convert"]
        assert [c["name"] for c in pod["containers"]] == ["repository"]
        assert pod["restartPolicy"] == "Never"

    def test_is_never_removed_by_kubernetes(self) -> None:
        assert "ttlSecondsAfterFinished" not in build_job("fetch")["spec"]

    def test_is_replaced_after_a_failure(self) -> None:
        assert build_job("fetch")["metadata"]["annotations"]["pulumi.com/replaceUnready"] == "true"

    def test_gives_up_on_a_programs_own_verdict_and_tries_a_killed_one_again(self) -> None:
        spec = build_job("fetch")["spec"]
        (rule,) = spec["podFailurePolicy"]["rules"]
        assert rule["action"] == "FailJob" and rule["onExitCodes"] == {"operator": "In", "values": [1]}
        assert spec["backoffLimit"] == 2

    def test_shows_its_last_lines(self) -> None:
        pod = build_job("convert")["spec"]["template"]["spec"]
        for container in pod["initContainers"] + pod["containers"]:
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"

    def test_is_restricted(self) -> None:
        pod = build_job("fetch")["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}

    def test_names_secrets_and_never_holds_them(self) -> None:
        for name in ("fetch", "publish"):
            env = {e["name"]: e for e in build_job(name)["spec"]["template"]["spec"]["containers"][0]["env"]}
            assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "store-s3"
            assert ("HF_TOKEN" in env) == (name == "fetch")

    def test_asks_for_no_token_that_there_is_not(self) -> None:
        job = build_job("fetch", hub_token=False)
        assert "hub-token" not in str(job)

    def test_has_a_name_that_kubernetes_takes(self) -> None:
        plan = make_plan(name="m" * 30)
        args = EngineBuildArgs(scope=SCOPE, model="m" * 30, build=plan.build, store=STORE, hub_token=True)
        for spec in plan.build.jobs:
            assert len(plain(build_job_args(args, spec))["metadata"]["name"]) <= 63


class TestAnInferenceServiceIsNamedByWhatItServes:
    @pytest.mark.parametrize("change", [{"revision": "b" * 40}, {"image": "v2"}])
    def test_another_artifact_or_image_is_another_service(self, change: dict[str, str]) -> None:
        assert service_name("m", make_plan(**change)) != service_name("m", make_plan())  # type: ignore[arg-type]

    def test_resources_change_in_place_with_another_revision(self) -> None:
        changed = make_plan(memory="2Gi")
        assert service_name("m", changed) == service_name("m", make_plan())
        assert revision(changed) != revision(make_plan())

    def test_takes_model_and_tokenizer_from_the_artifact(self) -> None:
        plan = make_plan()
        spec = inference_service_spec(plan, "s3")
        url = f"s3://bucket/engines/{plan.build.artifact.path}"
        assert spec["predictor"]["model"]["storageUri"] == url
        (container,) = spec["transformer"]["containers"]
        assert container["env"] == [{"name": "STORAGE_URI", "value": f"{url}/fastertransformer/1/tokenizer"}]
        assert spec["predictor"]["model"]["runtime"] == runtime_name(plan.runtime)


class TestTheServingRuntimeIsTheSeeds:
    def test_in_every_part(self) -> None:
        spec = serving_runtime_spec(make_plan().runtime)
        assert spec["annotations"] == {"prometheus.kserve.io/path": "/metrics", "prometheus.kserve.io/port": "8002"}
        assert spec["protocolVersions"] == ["v2", "grpc-v2"]
        assert spec["supportedModelFormats"] == [{"name": "triton", "version": "2"}]
        (container,) = spec["containers"]
        assert container["name"] == "kserve-container"
        assert container["args"] == [
            "tritonserver",
            "--model-store=/mnt/models",
            "--grpc-port=9000",
            "--http-port=8080",
            "--allow-grpc=true",
            "--allow-http=true",
        ]
        assert [(p["name"], p["containerPort"]) for p in container["ports"]] == [("http1", 8080), ("h2c", 9000)]

    def test_a_changed_runtime_has_another_name(self) -> None:
        assert runtime_name(make_plan(image="v2").runtime) != runtime_name(make_plan().runtime)


class TestTheRoute:
    ARGS = ModelRouteArgs(
        scope=SCOPE,
        model="tiny-bloom",
        plan=make_plan(),
        gateway=GatewayAddress(
            name="g", namespace="kserve", domain="llm.test", address="http://a.test", cluster_address="http://b.test"
        ),
    )

    def test_keeps_its_host_when_the_service_behind_it_changes(self) -> None:
        before = http_route_spec(self.ARGS)
        after = http_route_spec(dataclasses.replace(self.ARGS, plan=make_plan(revision="b" * 40)))
        assert before["hostnames"] == after["hostnames"] == [route_host(SCOPE, "tiny-bloom", "llm.test")]
        assert before["rules"] != after["rules"]

    @pytest.mark.parametrize("front", ["transformer", "predictor"])
    def test_sends_grpc_to_the_predictor_and_http_to_the_front(self, front: str) -> None:
        plan = make_plan()
        if front == "predictor":
            plan = dataclasses.replace(plan, service=dataclasses.replace(plan.service, transformer=None))
        service = service_name("tiny-bloom", plan)
        grpc, http = http_route_spec(dataclasses.replace(self.ARGS, plan=plan))["rules"]
        assert grpc["backendRefs"][0]["name"] == f"{service}-predictor" and grpc["backendRefs"][0]["port"] == 9000
        assert http["backendRefs"][0]["name"] == f"{service}-{front}" and http["backendRefs"][0]["port"] == 80


class TestTheSmokeTestJobIsKeyedByWhatItTests:
    @pytest.mark.parametrize("change", [{"revision": "b" * 40}, {"image": "v2"}, {"prompt": "Bye"}, {"memory": "2Gi"}])
    def test_anything_that_could_change_the_answer_is_another_job(self, change: dict[str, str]) -> None:
        changed = smoke_args(make_plan(**change))  # type: ignore[arg-type]
        assert smoke_job_name(changed) != smoke_job_name(smoke_args(make_plan()))

    def test_the_same_is_the_same(self) -> None:
        assert smoke_job_name(smoke_args(make_plan())) == smoke_job_name(smoke_args(make_plan()))

    def test_may_read_what_it_waits_for(self) -> None:
        rules = {tuple(rule["resources"]): rule["verbs"] for rule in plain(smoke_test_role_args(SCOPE))["rules"]}
        assert {"get", "list", "watch"} <= set(rules[("inferenceservices",)])
        assert plain(smoke_job_args(smoke_args(make_plan())))["spec"]["template"]["spec"][
            "automountServiceAccountToken"
        ]


class TestSecrets:
    def test_the_store_secret_is_what_kserve_reads(self) -> None:
        secret = plain(store_secret_args(SCOPE, STORE, ("key", "secret")))
        assert set(secret["stringData"]) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        annotations = secret["metadata"]["annotations"]
        assert annotations["serving.kserve.io/s3-endpoint"] == "10.0.0.1:9000"
        assert annotations["serving.kserve.io/s3-usehttps"] == "0"

    def test_aws_itself_needs_no_endpoint(self) -> None:
        secret = plain(store_secret_args(SCOPE, dataclasses.replace(STORE, endpoint=None), ("key", "secret")))
        assert "serving.kserve.io/s3-endpoint" not in secret["metadata"]["annotations"]

    def test_the_hub_secret(self) -> None:
        assert plain(hub_secret_args(SCOPE, "token"))["stringData"] == {"HF_TOKEN": "token"}


def disk(**place: str | None) -> DiskArgs:
    where = {"persistent_disk": None, "host_path": None, "storage_class": None, **place}
    return DiskArgs(scope=SCOPE, claim="llama-disk", size="150Gi", **where)


class TestADiskAndItsClaimAreBoundByName:
    @pytest.mark.parametrize(
        ("place", "source"),
        [
            (
                {"persistent_disk": "projects/p/zones/z/disks/my-disk"},
                (
                    "csi",
                    {
                        "driver": "pd.csi.storage.gke.io",
                        "fsType": "ext4",
                        "volumeHandle": "projects/p/zones/z/disks/my-disk",
                    },
                ),
            ),
            ({"host_path": "/data"}, ("hostPath", {"path": "/data", "type": "Directory"})),
        ],
    )
    def test_to_each_other(self, place: dict[str, str], source: tuple[str, Any]) -> None:
        volume, claim = plain(persistent_volume_args(disk(**place))), plain(claim_args(disk(**place)))
        assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
        reference = volume["spec"]["claimRef"]
        assert (reference["namespace"], reference["name"]) == ("models", claim["metadata"]["name"])
        assert volume["spec"][source[0]] == source[1]

    def test_the_data_outlives_the_claim_and_a_new_claim_binds_again(self) -> None:
        spec = plain(persistent_volume_args(disk(host_path="/data")))["spec"]
        assert spec["persistentVolumeReclaimPolicy"] == "Retain"
        assert "uid" not in spec["claimRef"]

    def test_a_class_provisions_its_own(self) -> None:
        claim = plain(claim_args(disk(storage_class="ssd")))
        assert claim["spec"]["storageClassName"] == "ssd" and "volumeName" not in claim["spec"]


class TestAModelWithADisk:
    PLAN = make_plan(disk_claim="disk", gpu_type="nvidia-l4")

    def test_is_served_from_it(self) -> None:
        model = inference_service_spec(self.PLAN, "s3")["predictor"]["model"]
        assert model["storageUri"] == f"pvc://disk/{self.PLAN.build.artifact.path}"

    def test_only_the_job_that_fills_it_mounts_it_on_the_node_that_serves(self) -> None:
        pods = {
            job.name: build_job(job.name, plan=self.PLAN)["spec"]["template"]["spec"] for job in self.PLAN.build.jobs
        }
        mounting = [name for name, pod in pods.items() if "disk" in [volume["name"] for volume in pod["volumes"]]]
        assert mounting == ["disk"]
        assert pods["disk"]["nodeSelector"] == {"gpu": "nvidia-l4"}
        assert [toleration["key"] for toleration in pods["disk"]["tolerations"]] == ["nvidia.com/gpu"]


class TestAJobThatRunsAfterwards:
    SPEC = JobSpec(
        name="benchmark",
        image="i",
        steps=(Step(name="measure", command=("measure",)),),
        resources=Resources(cpu="1", memory="1Gi"),
        timeout_seconds=60,
        needs_hub_token=True,
    )

    def test_is_keyed_by_what_it_runs_and_has_the_token_and_the_work_volume(self) -> None:
        args = FollowUpArgs(scope=SCOPE, model="llama", jobs=(self.SPEC,), hub_token=True)
        job = plain(follow_up_job_args(args, self.SPEC))
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert {"HF_TOKEN"} <= {e["name"] for e in container["env"]}
        assert "/mnt/work" in [mount["mountPath"] for mount in container["volumeMounts"]]
        other = dataclasses.replace(self.SPEC, image="j")
        assert plain(follow_up_job_args(args, other))["metadata"]["name"] != job["metadata"]["name"]


class TestAGcsStoreNeedsNoKeys:
    def test_in_a_job(self) -> None:
        job = build_job("publish", store=GCS)
        env = {e["name"]: e.get("value") for e in job["spec"]["template"]["spec"]["containers"][0]["env"]}
        assert env["STORAGE_EMULATOR_HOST"] == "http://10.0.0.1:9001"
        assert not any(name.startswith("AWS") for name in env)

    def test_nor_for_the_storage_initializer(self) -> None:
        assert "secrets" not in plain(predictor_account_args(SCOPE, GCS))
        assert plain(predictor_account_args(SCOPE, STORE))["secrets"] == [{"name": "store-s3"}]


class TestEveryObjectSaysWhoseItIs:
    def test_by_its_stack_label(self) -> None:
        assert plain(SCOPE.metadata("x"))["labels"]["llm-serving/stack"] == "test"

    def test_and_is_applied_under_one_name_by_every_run_of_the_stack(self) -> None:
        annotations = plain(SCOPE.metadata("x", annotations={"a": "b"}))["annotations"]
        assert annotations == {"pulumi.com/patchFieldManager": "llm-serving-test", "a": "b"}
