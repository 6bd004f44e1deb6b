"""What is checked before anything starts: each failure says what is wrong and what to do."""

import os
import shutil
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine_jobs.errors import UserError
from localcluster import preflight
from localcluster.paths import Paths
from localcluster.preflight import Listen, Listener

PROC_NET_TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100FE0A:192B 0100FE0A:C350 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
"""
PROC_NET_TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000000000000:22B8 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4713 1 0
   1: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4714 1 0
"""


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def listen(port: int, address: str = "127.0.0.1") -> Listen:
    return Listen(component="gateway", address=address, port=port)


def listener(address: str, port: int) -> Listener:
    return Listener(address=ip_address(address), port=port, inode=1)


class TestWhoRunsIt:
    def test_root_may(self) -> None:
        preflight.check_root(0)

    def test_another_user_is_told_what_to_do(self) -> None:
        with pytest.raises(UserError, match=r"needs root .* this is not root: run the same command as root"):
            preflight.check_root(1000)

    def test_a_root_without_the_capabilities_is_told_which(self) -> None:
        every = (1 << 41) - 1
        preflight.check_capabilities(f"Name:\tx\nCapEff:\t{every:016x}\n")
        with pytest.raises(UserError, match="lacks the capabilities net_admin, sys_admin"):
            preflight.check_capabilities("Name:\tx\nCapEff:\t00000000a80425fb\n")
        with pytest.raises(UserError, match="lacks the capabilities sys_admin here"):
            preflight.check_capabilities(f"Name:\tx\nCapEff:\t{every & ~(1 << 21):016x}\n")


class TestRoom:
    def test_enough_memory_passes_and_too_little_is_said(self) -> None:
        preflight.check_memory("MemTotal: 99999999 kB\nMemAvailable: 4194304 kB\n")
        with pytest.raises(UserError, match=r"2\.0 GiB of memory is available .* needs 4 GiB"):
            preflight.check_memory("MemTotal: 99999999 kB\nMemAvailable: 2097152 kB\n")

    def test_a_full_disk_is_named_by_the_folder_that_is_to_be_on_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Path] = []

        def disk_usage(path: Path) -> SimpleNamespace:
            asked.append(path)
            return SimpleNamespace(free=1 << 30)

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)
        missing = tmp_path / "not" / "there"
        with pytest.raises(UserError, match=f"1.0 GiB is free on the disk of {missing} and 10 GiB is needed"):
            preflight.check_disk([missing])
        assert asked == [tmp_path]

    def test_a_state_too_deep_for_sockets_is_refused(self, tmp_path: Path) -> None:
        preflight.check_state_path(Paths(cache=tmp_path, state=Path("/var/lib/llm-serving")))
        with pytest.raises(UserError, match="set LLM_SERVING_STATE to a shorter one"):
            preflight.check_state_path(Paths(cache=tmp_path, state=Path("/" + "x" * 80)))


class TestPorts:
    def test_the_kernels_tables_are_read(self) -> None:
        assert preflight.parse_listeners(PROC_NET_TCP) == [
            Listener(address=ip_address("127.0.0.1"), port=9000, inode=4711)
        ]
        assert preflight.parse_listeners(PROC_NET_TCP6) == [
            Listener(address=ip_address("::"), port=8888, inode=4713),
            Listener(address=ip_address("127.0.0.1"), port=8080, inode=4714),
        ]

    @pytest.mark.parametrize("holder", ["127.0.0.1", "0.0.0.0", "::"])
    def test_the_same_address_and_every_address_conflict(self, holder: str) -> None:
        assert preflight.conflicts([listen(80)], [listener(holder, 80)])

    @pytest.mark.parametrize(("holder", "port"), [("10.254.0.1", 80), ("127.0.0.1", 81), ("::1", 80)])
    def test_another_address_or_port_does_not(self, holder: str, port: int) -> None:
        assert not preflight.conflicts([listen(80)], [listener(holder, port)])

    def test_a_taken_port_is_named_with_its_process(self, taken: socket.socket) -> None:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as raised:
            preflight.check_ports([listen(port)])
        assert f"port {port} on 127.0.0.1, which gateway needs, is taken by " in str(raised.value)
        assert f"(pid {os.getpid()})" in str(raised.value)

    def test_a_port_is_free_once_its_holder_is_gone(self, taken: socket.socket) -> None:
        port = taken.getsockname()[1]
        taken.close()
        preflight.check_ports([listen(port)])
