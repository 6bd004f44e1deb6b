"""What the build chains of all recipes have in common: the fetch, the publication, the disk, and how a step asks the store first."""

from dataclasses import dataclass

from engine_jobs.recipe import DISK_DIR, WORK_DIR, Artifact, JobSpec, Model, Platform, Resources, Step, canonical_json

DISK_FILL_RESOURCES = Resources(cpu="250m", memory="1Gi")


@dataclass(frozen=True, kw_only=True)
class BuildChain:
    """Makes the JobSpecs of one artifact. `jobs_image` runs fetch and publish; `timeout_seconds` is each Job's."""

    model: Model
    platform: Platform
    artifact: Artifact
    timeout_seconds: int

    @property
    def jobs_image(self) -> str:
        return self.platform.image("jobs")

    @property
    def url(self) -> str:
        """The artifact's folder in the store."""
        return f"{self.model.store}/{self.artifact.path}"

    @property
    def work(self) -> str:
        """The artifact's own folder on the work volume."""
        return f"{WORK_DIR}/{self.artifact.short_key}"

    def checkpoint(self, name: str | None = None) -> str:
        """Where `fetch` puts a checkpoint: the only one, or the one that is served under `name`."""
        return f"{self.work}/checkpoint" if len(self.model.sources) == 1 else f"{self.work}/checkpoints/{name}"

    @property
    def storage_uri(self) -> str:
        """Where KServe finds the artifact: on the model's disk if it has one, else in the store."""
        claim = self.model.disk_claim
        return f"pvc://{claim}/{self.artifact.path}" if claim else self.url

    def step(self, name: str, *command: str) -> Step:
        """A step that ends at once when the artifact is complete in the store."""
        return Step(
            name=name, command=("python", "-m", "engine_jobs.unless_complete", "--artifact", self.url, "--", *command)
        )

    def job(
        self,
        name: str,
        *steps: Step,
        image: str | None = None,
        resources: Resources | None = None,
        needs_hub_token: bool = False,
        shared_memory: str | None = None,
    ) -> JobSpec:
        """A Job of these steps, in the Jobs' image if no other is named; on the model's GPU type if it asks for GPUs."""
        resources = resources or self.model.job_resources
        gpu = self.model.gpu if resources.gpus else None
        return JobSpec(
            name=name,
            image=image or self.jobs_image,
            steps=steps,
            resources=resources,
            timeout_seconds=self.timeout_seconds,
            needs_hub_token=needs_hub_token,
            node_selector=gpu.node_selector if gpu else {},
            shared_memory=shared_memory,
        )

    def fetch(self) -> JobSpec:
        """Every checkpoint from the Hub, each to its `checkpoint()`."""
        endpoint = ("--endpoint", self.platform.hub_endpoint) if self.platform.hub_endpoint else ()
        several = len(self.model.sources) > 1
        steps = (
            self.step(
                f"fetch-{name}" if several else "fetch",
                *("python", "-m", "engine_jobs.fetch", "--model", source.model, "--revision", source.revision),
                *("--output-dir", self.checkpoint(name), *endpoint),
            )
            for name, source in self.model.sources.items()
        )
        return self.job("fetch", *steps, resources=self._without_gpus(), needs_hub_token=True)

    def publish(self, source_dir: str) -> JobSpec:
        """The folder to the store, as the artifact."""
        step = self.step(
            "publish",
            *("python", "-m", "engine_jobs.publish", "--source-dir", source_dir, "--artifact", self.url),
            *("--key", self.artifact.key, "--inputs", canonical_json(dict(self.artifact.inputs))),
            *("--remove-work", self.work),
        )
        return self.job("publish", step, resources=self._without_gpus())

    def to_disk(self) -> tuple[JobSpec, ...]:
        """From the store to the model's disk, complete or absent there; nothing where the model has no disk."""
        if self.model.disk_claim is None:
            return ()
        command = (
            *("python", "-m", "engine_jobs.fill_disk", "--artifact", self.url),
            *("--output-dir", f"{DISK_DIR}/{self.artifact.path}"),
        )
        return (
            JobSpec(
                name="disk",
                image=self.jobs_image,
                steps=(Step(name="disk", command=command),),
                resources=DISK_FILL_RESOURCES,
                timeout_seconds=self.timeout_seconds,
                node_selector=self.model.gpu.node_selector if self.model.gpu else {},
                mounts_disk=True,
            ),
        )

    def _without_gpus(self) -> Resources:
        wanted = self.model.job_resources
        return Resources(cpu=wanted.cpu, memory=wanted.memory, cpu_limit=wanted.cpu_limit)
