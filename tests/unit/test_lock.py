"""One `up` or `down` at a time."""

import os
import threading
import time
from pathlib import Path

import pytest

from engine_jobs.errors import UserError
from localcluster.lock import exclusive


class TestExclusive:
    def test_a_second_one_waits_and_says_for_whom(self, tmp_path: Path) -> None:
        lock, said, order = tmp_path / "lock", list[str](), list[str]()
        held = threading.Event()

        def first() -> None:
            with exclusive(lock, "the first", said.append):
                held.set()
                time.sleep(0.5)
                order.append("first done")

        thread = threading.Thread(target=first)
        thread.start()
        held.wait(5)
        with exclusive(lock, "the second", said.append):
            order.append("second began")
        thread.join()
        assert order == ["first done", "second began"]
        assert len(said) == 1
        assert f"another `the first` (pid {os.getpid()}, since " in said[0]

    def test_it_does_not_wait_for_ever(self, tmp_path: Path) -> None:
        lock = tmp_path / "lock"
        with (
            exclusive(lock, "the first", lambda line: None),
            pytest.raises(UserError, match=r"another `the first` .* still holds"),
            exclusive(lock, "the second", lambda line: None, patience_s=0.1),
        ):
            pass

    def test_a_failure_releases_it(self, tmp_path: Path) -> None:
        lock = tmp_path / "lock"
        with pytest.raises(ZeroDivisionError), exclusive(lock, "the first", lambda line: None):
            raise ZeroDivisionError
        with exclusive(lock, "the second", lambda line: None, patience_s=0.1):
            assert lock.read_text() != ""
