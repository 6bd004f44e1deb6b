"""`python -m localcluster`: the embedded single-node Kubernetes with KServe, a gateway, S3, GCS and Hub endpoints."""

import argparse
import sys
from collections.abc import Sequence

from engine_jobs.errors import UserError, run
from localcluster.paths import Paths, default_paths


def main(argv: Sequence[str]) -> None:
    arguments = parser().parse_args(argv)
    arguments.command(default_paths(), arguments)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m localcluster", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start what does not run; a running cluster is only checked")
    up.add_argument("--images", nargs="*", default=(), metavar="NAME", help="images to build and load for the models")
    up.set_defaults(command=_up)
    down = commands.add_parser("down", help="end everything; the caches stay")
    down.add_argument("--keep-state", action="store_true", help="keep etcd, certificates and volumes for the next up")
    down.set_defaults(command=_down)
    status = commands.add_parser("status", help="what runs, listens and answers; exit code 1 if anything does not")
    status.add_argument("--json", action="store_true", help="print JSON in place of the table")
    status.set_defaults(command=_status)
    commands.add_parser("kubeconfig", help="print the path of the admin's kubeconfig").set_defaults(command=_kubeconfig)
    logs = commands.add_parser("logs", help="print a component's log")
    logs.add_argument("component", metavar="COMPONENT")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is logged from now on")
    logs.add_argument("-n", "--lines", type=int, default=200, help="how many of the last lines (default %(default)s)")
    logs.set_defaults(command=_logs)
    commands.add_parser("env", help="print export lines for a shell").set_defaults(command=_env)
    images = commands.add_parser("images", help="build images and load them into the cluster")
    images.add_argument("names", nargs="+", metavar="NAME", help="as in engine_jobs/**/images")
    images.set_defaults(command=_images)
    return top


def _up(paths: Paths, arguments: argparse.Namespace) -> None:
    from localcluster.progress import Progress
    from localcluster.up import up

    up(paths, Progress(), arguments.images)


def _down(paths: Paths, arguments: argparse.Namespace) -> None:
    from localcluster.down import down
    from localcluster.progress import Progress

    down(paths, Progress(), keep_state=arguments.keep_state)


def _status(paths: Paths, arguments: argparse.Namespace) -> None:
    from localcluster.preflight import check_root
    from localcluster.status import as_json, as_table, status

    check_root()
    rows = status(paths)
    if arguments.json:
        print(as_json(rows))
    elif rows:
        print(as_table(rows))
    missing = [row.name for row in rows if not row.is_up]
    if not rows:
        raise UserError("there is no local cluster: start it with `python -m localcluster up`")
    if missing:
        raise UserError(f"not up: {', '.join(missing)}; `python -m localcluster up` repairs it")


def _kubeconfig(paths: Paths, arguments: argparse.Namespace) -> None:
    if not paths.kubeconfig.exists():
        raise UserError(f"{paths.kubeconfig} does not exist: start the cluster with `python -m localcluster up`")
    print(paths.kubeconfig)


def _logs(paths: Paths, arguments: argparse.Namespace) -> None:
    from localcluster.component_logs import print_log

    print_log(paths, arguments.component, lines=arguments.lines, follow=arguments.follow)


def _env(paths: Paths, arguments: argparse.Namespace) -> None:
    from localcluster.environment import exports, shell_lines

    print(shell_lines(exports(paths)))


def _images(paths: Paths, arguments: argparse.Namespace) -> None:
    from localcluster.image_builder import ImageBuilder
    from localcluster.preflight import check_root
    from localcluster.progress import Progress
    from localcluster.toolchain import Toolchain

    check_root()
    progress = Progress()
    tools = Toolchain(paths.tools).locate()
    builder = ImageBuilder(paths=paths, tool=tools.bin, report=progress.say)
    references = builder.ensure(paths.containerd_socket, arguments.names)
    print("\n".join(references.values()))


if __name__ == "__main__":
    run(main, sys.argv[1:])
