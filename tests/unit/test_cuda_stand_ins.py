"""The stand-ins for CUDA's libraries: the dynamic linker takes them, in the version asked for, and a call is an error."""

import ctypes
from pathlib import Path

import numpy
import pytest

from engine_jobs.images.torch.cuda_stand_ins import SharedObject, Stub, Wanted, missing, shared_object

STUB = Stub(name="libnccl.so.2", symbols={"ncclSend": "libnccl.so.2", "ncclRecv": None, "ncclDead": "libnccl.so.1"})


@pytest.fixture
def library(tmp_path: Path) -> Path:
    file = tmp_path / STUB.name
    file.write_bytes(shared_object(STUB))
    return file


def versioned(library: ctypes.CDLL, symbol: str, version: str) -> int | None:
    find = ctypes.CDLL(None).dlvsym
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
    found: int | None = find(library._handle, symbol.encode(), version.encode())
    return found


class TestTheLinkerTakesIt:
    def test_every_function_returns_an_error(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        assert [getattr(loaded, symbol)() for symbol in STUB.symbols] == [1, 1, 1]

    def test_what_was_not_asked_for_is_not_there(self, library: Path) -> None:
        with pytest.raises(AttributeError):
            _ = ctypes.CDLL(str(library)).ncclGroupStart

    def test_a_symbol_has_the_version_that_was_asked_for_and_no_other(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        assert versioned(loaded, "ncclSend", "libnccl.so.2")
        assert versioned(loaded, "ncclDead", "libnccl.so.1")
        assert not versioned(loaded, "ncclSend", "libnccl.so.1")

    def test_one_without_symbols(self, tmp_path: Path) -> None:
        file = tmp_path / "libcurand.so.10"
        file.write_bytes(shared_object(Stub(name=file.name)))
        ctypes.CDLL(str(file))


class TestWhatALibraryWants:
    def test_its_libraries_and_symbols_with_their_versions(self) -> None:
        read = SharedObject(Path(numpy.core._multiarray_umath.__file__))
        assert "libm.so.6" in read.needed()
        wanted = list(read.wanted())
        assert {w.library for w in wanted if w.symbol == "pow"} == {"libm.so.6"}
        assert all((w.version or "").startswith("GLIBC_") for w in wanted if w.library == "libm.so.6")
        assert Wanted("PyLong_Type", None, None) in wanted

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "libx.so").write_text("INPUT(libc.so.6)")
        with pytest.raises(SystemExit, match=r"libx\.so is no 64-bit"):
            SharedObject(tmp_path / "libx.so")


class Asks(SharedObject):
    """A library that wants what it is told."""

    def __init__(self, needed: list[str], wanted: list[Wanted]) -> None:
        self._needed, self._wanted = needed, wanted

    def needed(self) -> list[str]:
        return self._needed

    def wanted(self):  # type: ignore[no-untyped-def]
        return iter(self._wanted)


class TestWhichStandInsAreMade:
    def test_of_cuda_only_and_not_of_what_is_there(self) -> None:
        asks = Asks(["libc.so.6", "libcudart.so.13", "libcublas.so.13"], [])
        assert [stub.name for stub in missing([asks], {"libcudart.so.13"})] == ["libcublas.so.13"]

    def test_a_symbol_goes_where_its_version_or_else_its_name_says(self) -> None:
        needed = ["libcublas.so.13", "libcublasLt.so.13", "libnvshmem_host.so.3", "libcufile.so.0"]
        wanted = [
            Wanted("cublasCreate", "libcublas.so.13", "libcublas.so.13"),
            Wanted("cublasLtCreate", None, None),
            Wanted("nvshmem_malloc", None, None),
            Wanted("cuFileRead", None, None),
            Wanted("PyLong_Type", None, None),
        ]
        made = {stub.name: stub.symbols for stub in missing([Asks(needed, wanted)], set())}
        assert made == {
            "libcublas.so.13": {"cublasCreate": "libcublas.so.13"},
            "libcublasLt.so.13": {"cublasLtCreate": None},
            "libnvshmem_host.so.3": {"nvshmem_malloc": None},
            "libcufile.so.0": {"cuFileRead": None},
        }
