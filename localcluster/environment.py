"""What a shell, or the Pulumi program, needs to know of the local stack: the standard variables of each tool."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from localcluster import gcs_endpoint, stand_ins
from localcluster.paths import HUB_PORT, PULUMI_PASSPHRASE, S3_PORT, S3_REGION, Paths
from localcluster.toolchain import Toolchain

LOOPBACK = "127.0.0.1"


def exports(paths: Paths) -> dict[str, str]:
    """The variables by name. Raises UserError where tools are missing."""
    tools = Toolchain(paths.tools).locate()
    standing_in = [stand_ins.ensure(paths, stand_in) for stand_in in stand_ins.needed(paths, tools)]
    return variables(paths, [*tools.built_bin_dirs(), *standing_in], os.environ)


def variables(paths: Paths, tool_folders: Sequence[Path], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables by name; PATH has this Python's folder and the built tools before what it had."""
    known = environment.get("PATH", os.defpath).split(":")
    folders = [str(Path(sys.executable).parent), *(str(folder) for folder in tool_folders)]
    added = [folder for folder in folders if folder not in known]
    return {
        "PATH": ":".join([*added, *known]),
        "KUBECONFIG": str(paths.kubeconfig),
        "PULUMI_BACKEND_URL": f"file://{paths.pulumi}",
        "PULUMI_CONFIG_PASSPHRASE": PULUMI_PASSPHRASE,
        "AWS_SHARED_CREDENTIALS_FILE": str(paths.s3_credentials),
        "AWS_ENDPOINT_URL_S3": f"http://{LOOPBACK}:{S3_PORT}",
        "AWS_DEFAULT_REGION": S3_REGION,
        "STORAGE_EMULATOR_HOST": gcs_endpoint.URL,
        "HF_ENDPOINT": f"http://{LOOPBACK}:{HUB_PORT}",
        "HF_TOKEN_PATH": str(paths.hub_token),
    }


def shell_lines(values: Mapping[str, str]) -> str:
    """`export NAME=VALUE` lines for a POSIX shell."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())
