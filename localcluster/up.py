"""Brings the local cluster up: starts what does not run, or runs otherwise than it should, and nothing else.

A failure ends what this run started, so that a half-started cluster is not left behind; the state stays.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine_jobs.errors import UserError
from engine_jobs.images import PREFIX, reference
from localcluster import cgroups, debian, kserve, manifests, network, preflight, stand_ins
from localcluster.apiserver_client import ApiserverClient
from localcluster.cluster import Cluster, Waves
from localcluster.component import Component
from localcluster.containerd import ContainerdClient
from localcluster.dns import dns_objects
from localcluster.down import stop_node, tear_down
from localcluster.gateway import NAMESPACE, gateway_objects
from localcluster.image_builder import ImageBuilder, check_local
from localcluster.lock import exclusive
from localcluster.manifests import Manifest
from localcluster.paths import LOCK, NODE_NAME, Paths
from localcluster.progress import Progress
from localcluster.status import node_is_ready
from localcluster.toolchain import Toolchain, Tools

CLUSTER_IMAGES = ("pause", "kserve-controller")
KSERVE_IMAGES = ("storage-initializer",)
"""What KServe puts into the pods of models, whatever these are."""

START_PATIENCE_S = 90.0
HEALTH_PATIENCE_S = 10.0
ROLLOUT_PATIENCE_S = 180.0


def up(paths: Paths, progress: Progress, images: Sequence[str] = ()) -> None:
    """`images`: those of the models, loaded with the cluster's own. Raises UserError where the machine does not do, a port is taken,
    or a component does not become healthy."""
    preflight.check_root()
    preflight.check_capabilities()
    preflight.check_state_path(paths)
    with exclusive(LOCK, "python -m localcluster up", progress.say):
        _Up(Cluster(paths), progress, (*KSERVE_IMAGES, *images)).run()


class _Up:
    """One run of `up`, and what it has started so far."""

    def __init__(self, cluster: Cluster, progress: Progress, images: Sequence[str]) -> None:
        check_local(images)
        self.cluster = cluster
        self.progress = progress
        self.images = images
        self.started: list[str] = []

    def run(self) -> None:
        paths, table = self.cluster.paths, self.cluster.table
        network.check_owner(paths)
        was_running = any(table.running(name) for name in table.names())
        if not was_running:
            preflight.check_memory()
            preflight.check_disk((paths.state, paths.cache))
            preflight.check_ports(fixed_listens(self.cluster))
        tools = self._tools()
        self.cluster.prepare()
        waves = self.cluster.waves(tools.bin, reference("pause"))
        try:
            self._bring_up(waves, tools)
        except BaseException:
            self._undo(was_running)
            raise
        if was_running and not self.started:
            self.progress.say("every component was running already")
        self.progress.save(paths.timings)

    def _tools(self) -> Tools:
        """All tools. While they are built, what the images are made from is fetched, which takes little of a core."""
        paths, say = self.cluster.paths, self.progress.say
        with self.progress.phase("Debian packages"):
            debian.ensure_packages(say)
        builder = ImageBuilder(paths=paths, tool=system_tool, report=say)
        built = builder.layout.images()
        with ThreadPoolExecutor(1) as background:
            if any(reference(name) not in built for name in self.images):
                background.submit(builder.prepare_downloads, self.images)  # a failure shows when the images are built
            with self.progress.phase("tools"):
                tools = Toolchain(paths.tools).ensure(say)
        for stand_in in stand_ins.needed(paths, tools):
            say(f"{stand_in.what} is not installed: the stand-in of this repository is used")
        return tools

    def _bring_up(self, waves: Waves, tools: Tools) -> None:
        with self.progress.phase("network"):
            preflight.check_kernel()
            network.ensure(self.cluster.paths)
            cgroups.ensure()
        storage, apiserver, kubernetes, readers = waves
        table = self.cluster.table
        stopped = [component for wave in waves for component in wave if table.running(component.name) is None]
        preflight.check_ports([listen for component in stopped for listen in component.listens])
        with ThreadPoolExecutor(1) as background:
            with self.progress.phase("etcd, containerd, S3, GCS, Hub"):
                self._wait_for(self._start(storage))
            images = background.submit(self._images, tools)
            with self.progress.phase("apiserver"):
                self._wait_for(self._start(apiserver))
            started = self._start(kubernetes)
            with self.progress.phase("objects"):
                self._apply(tools)
            with self.progress.phase("Kubernetes"):
                self._wait_for(started)
            # These read what was just applied; before it is there they would ask ever more seldom.
            with self.progress.phase("DNS, gateway"):
                self._wait_for(self._start(readers))
            images.result()
        with self.progress.phase("KServe ready"):
            self._wait_for_kserve()

    def _images(self, tools: Tools) -> None:
        """The cluster's own images first, so that its pods start while those of the models are still being built."""
        builder = ImageBuilder(paths=self.cluster.paths, tool=tools.bin, report=self.progress.say)
        with self.progress.phase("the cluster's images"):
            builder.ensure(self.cluster.paths.containerd_socket, CLUSTER_IMAGES)
        with self.progress.phase("the models' images"):
            builder.ensure(self.cluster.paths.containerd_socket, self.images)
            containerd = ContainerdClient(self.cluster.paths, tools.bin)
            kept = builder.layout.images()
            containerd.remove_images(
                name for name in containerd.images() if name.startswith(f"{PREFIX}/") and name not in kept
            )

    def _runs_well(self, component: Component) -> bool:
        """Runs with the command line and configuration that it should have, and answers (it gets a while to)."""
        component.write_files()
        if not self.cluster.table.is_current(component.command):
            return False
        return wait_until(component.is_healthy, HEALTH_PATIENCE_S)

    def _start(self, wave: Sequence[Component]) -> list[Component]:
        """Starts those of the wave that do not run well; returns them."""
        with ThreadPoolExecutor(len(wave)) as pool:
            components = [c for c, well in zip(wave, pool.map(self._runs_well, wave), strict=True) if not well]
        table = self.cluster.table
        table.stop_all([component.name for component in components])
        for component in components:
            table.start(component.command)
            self.started.append(component.name)
        return components

    def _wait_for(self, components: Sequence[Component]) -> None:
        table = self.cluster.table
        for component in components:
            gone = threading.Event()

            def settled(component: Component = component, gone: threading.Event = gone) -> bool:
                if table.running(component.name) is None:
                    gone.set()
                return gone.is_set() or component.is_healthy()

            if not wait_until(settled, START_PATIENCE_S) or gone.is_set():
                what = "ended at once" if gone.is_set() else f"is not healthy after {START_PATIENCE_S:.0f} s"
                raise UserError(
                    f"{component.name} {what}. The end of its log ({table.log(component.name)}):\n"
                    f"{table.tail(component.name)}"
                )

    def _apply(self, tools: Tools) -> None:
        # KServe's largest definition has 700 KB, over which a busy machine's apiserver thinks for seconds.
        client = ApiserverClient(self.cluster.pki, timeout_s=60.0)
        objects = cluster_objects(self.cluster, tools)
        if not manifests.is_applied(client, objects):
            manifests.apply(client, objects)

    def _wait_for_kserve(self) -> None:
        client = self.cluster.client
        steps: list[tuple[str, Callable[[], bool]]] = [
            (f"the node {NODE_NAME} is not Ready", lambda: node_is_ready(client)),
            ("the gateway is not programmed", lambda: kserve.gateway_is_programmed(client)),
            ("KServe's controller is not available", lambda: kserve.controller_is_available(client)),
            ("KServe's webhooks do not answer", lambda: kserve.webhooks_answer(client)),
        ]
        for failure, check in steps:
            if not wait_until(check, ROLLOUT_PATIENCE_S):
                raise UserError(
                    f"{failure} after {ROLLOUT_PATIENCE_S:.0f} s: see `python -m localcluster status`, "
                    f"`python -m localcluster logs kserve-controller` and `kubectl -n {NAMESPACE} get pods`"
                )

    def _undo(self, was_running: bool) -> None:
        if not was_running:
            self.progress.say("ending what this run started; the state stays")
            tear_down(self.cluster, keep_state=True)
        elif self.started:
            self.progress.say(f"ending what this run started: {', '.join(self.started)}")
            self.cluster.table.stop_all(self.started[::-1])
            if "containerd" in self.started:
                stop_node(self.cluster)


def fixed_listens(cluster: Cluster) -> list[preflight.Listen]:
    """All addresses of the cluster, known before there is a tool."""
    cluster.prepare()
    return [listen for wave in cluster.waves(Path, "") for component in wave for listen in component.listens]


def system_tool(name: str) -> Path:
    """Where a system package's executable is."""
    found = debian.locate(name, debian.search_path())
    if found is None:
        raise UserError(f"{name} is not installed")
    return found


def wait_until(check: Callable[[], bool], patience_s: float) -> bool:
    """Asks until it holds; False where it does not within `patience_s`."""
    deadline = time.monotonic() + patience_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def cluster_objects(cluster: Cluster, tools: Tools) -> list[Manifest]:
    """Everything that `up` applies: DNS, the gateway, KServe."""
    upstream = kserve.render(
        tools.bin("kubectl"),
        tools.share("kserve") / "config",
        tools.share("gateway-api") / "config" / "crd",
        cluster.paths.cache / "manifests" / f"{tools.share('kserve').parent.name}.json",
    )
    components = kserve.kserve_objects(
        upstream, cluster.pki, reference("kserve-controller"), reference("storage-initializer")
    )
    return [*dns_objects(), *gateway_objects(), *components]
