"""The node's network: a bridge that holds the cluster's address, forwarding for pods, and a guard against the outside.

`llms0` is a bridge without ports whose only use is its address: the apiserver, the kubelet and the host's endpoints listen
on it, so that pods reach them and no other machine does. Linux answers for any local address on any interface, so the
guard (an nft table of ours) drops what comes from elsewhere to the cluster's ranges. Masquerading is done in the same
table, not by the CNI plugin, so that iptables is not needed.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

from engine_jobs.errors import UserError
from localcluster.paths import BRIDGE, HOST_ADDRESS, HOST_CIDR, POD_BRIDGE, POD_CIDR, SERVICE_CIDR, Paths
from localcluster.process import boot_id

TABLE = "llm-serving"
KUBE_PROXY_TABLES = (("ip", "kube-proxy"), ("ip6", "kube-proxy"))

# Pods forward through the host; a Service's answer between two pods on one bridge must pass conntrack to be rewritten.
SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.bridge.bridge-nf-call-iptables": "1",
}

RULES = f"""
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  chain input {{
    type filter hook input priority -10; policy accept;
    iifname {{ "lo", "{BRIDGE}", "{POD_BRIDGE}" }} accept
    ip daddr {{ {HOST_CIDR}, {POD_CIDR}, {SERVICE_CIDR} }} drop
  }}
  chain forward {{
    type filter hook forward priority -10; policy accept;
    ct state established,related accept
    iifname {{ "{BRIDGE}", "{POD_BRIDGE}" }} accept
    oifname {{ "{BRIDGE}", "{POD_BRIDGE}" }} drop
    ip daddr {{ {HOST_CIDR}, {POD_CIDR}, {SERVICE_CIDR} }} drop
  }}
  chain postrouting {{
    type nat hook postrouting priority 100;
    ip saddr {POD_CIDR} ip daddr != {{ {HOST_CIDR}, {POD_CIDR}, {SERVICE_CIDR} }} oifname != "{POD_BRIDGE}" masquerade
  }}
}}
"""


def ensure(paths: Paths) -> None:
    """Makes the bridge, its route, the sysctls and the nft table where they are missing. Raises UserError if another state owns them."""
    check_owner(paths)
    if _link(BRIDGE) is None:
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "link", "set", BRIDGE, "alias", str(paths.state))
    addresses = json.loads(_run("ip", "-j", "-4", "addr", "show", "dev", BRIDGE))
    if HOST_ADDRESS not in [info["local"] for link in addresses for info in link.get("addr_info", [])]:
        _run("ip", "addr", "add", f"{HOST_ADDRESS}/{HOST_CIDR.rpartition('/')[2]}", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    # A Service's address is looked up as a route before kube-proxy's rules rewrite it: a host that is not connected to
    # anything, and so has no default route, needs one.
    _run("ip", "route", "replace", SERVICE_CIDR, "dev", BRIDGE, "src", HOST_ADDRESS)
    _set_sysctls(paths)
    _run("nft", "-f", "-", stdin=RULES)


def check_owner(paths: Paths) -> None:
    """Raises UserError where the bridge belongs to a cluster whose state lies elsewhere: one machine holds one."""
    link = _link(BRIDGE)
    owner = link.get("ifalias") if link is not None else None
    if owner is not None and owner != str(paths.state):
        raise UserError(
            f"a local cluster with its state in {owner} is up on this machine, which holds one at a time: "
            f"end it first (LLM_SERVING_STATE={owner} python -m localcluster down)"
        )


def is_complete() -> bool:
    """Whether the bridge with its address and route, the sysctls and the nft table are there."""
    link = _link(BRIDGE)
    return (
        link is not None
        and "UP" in link.get("flags", [])
        and HOST_ADDRESS in _run("ip", "-4", "addr", "show", "dev", BRIDGE)
        and SERVICE_CIDR in _run("ip", "-4", "route", "show", "dev", BRIDGE)
        and all(_sysctl(name).read_text().strip() == value for name, value in SYSCTLS.items())
        and _try("nft", "list", "chain", "inet", TABLE, "postrouting") is not None
    )


def remove(paths: Paths) -> None:
    """Removes the interfaces with their routes, the nft tables (kube-proxy's too), and sets the sysctls back."""
    for veth in json.loads(_run("ip", "-j", "link", "show", "master", POD_BRIDGE) if _link(POD_BRIDGE) else "[]"):
        _try("ip", "link", "delete", veth["ifname"])
    for bridge in (POD_BRIDGE, BRIDGE):
        if _link(bridge) is not None:
            _run("ip", "link", "delete", bridge)
    for family, table in (("inet", TABLE), *KUBE_PROXY_TABLES):
        _try("nft", "delete", "table", family, table)
    record = _sysctl_record(paths)
    if record.exists():
        known = json.loads(record.read_text())
        if known["boot_id"] == boot_id():
            for name, value in known["before"].items():
                if _sysctl(name).exists():
                    _sysctl(name).write_text(value)
        record.unlink()


def remainder() -> list[str]:
    """What of ours is still there, in words."""
    links = [f"interface {name}" for name in (BRIDGE, POD_BRIDGE) if _link(name) is not None]
    tables = (("inet", TABLE), *KUBE_PROXY_TABLES)
    return links + [f"nft table {f} {t}" for f, t in tables if _try("nft", "list", "table", f, t) is not None]


def _set_sysctls(paths: Paths) -> None:
    """Sets them, and keeps what they were since the machine's start, for `remove`."""
    record = _sysctl_record(paths)
    known = json.loads(record.read_text()) if record.exists() else {}
    if known.get("boot_id") != boot_id():
        before = {name: _sysctl(name).read_text().strip() for name in SYSCTLS}
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"boot_id": boot_id(), "before": before}))
    for name, value in SYSCTLS.items():
        if _sysctl(name).read_text().strip() != value:
            _sysctl(name).write_text(value)


def _sysctl_record(paths: Paths) -> Path:
    return paths.run / "sysctls.json"


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")


def _link(name: str) -> dict[str, Any] | None:
    """The interface as `ip -j` shows it; None where there is none."""
    shown = _try("ip", "-j", "link", "show", "dev", name)
    if shown is None:
        return None
    links: list[dict[str, Any]] = json.loads(shown)
    return links[0]


def _try(*argv: str) -> str | None:
    """The command's output; None where it fails, or is not installed (then nothing of ours can be there)."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _run(*argv: str, stdin: str | None = None) -> str:
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserError(f"{argv[0]} is not installed: install the package that holds it, and try again") from error
    if done.returncode != 0:
        raise UserError(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")
    return done.stdout
