"""Makes stand-ins for the CUDA libraries that PyTorch's wheel is linked with, so that it runs on a CPU without them.

PyPI has one build of PyTorch for Linux, the CUDA one: cuBLAS, cuDNN and ten more are loaded with it, 1.8 GB of which a CPU calls
nothing. For each library that PyTorch needs and the image lacks this writes a shared object of that name with the symbols
that PyTorch asks for, a few kilobytes. Every one of its functions returns 1, an error in each of these libraries.

    cuda_stand_ins.py TORCH_LIB_FOLDER [FOLDER_OF_LIBRARIES_THAT_ARE_THERE …]

Run by the image's build. ELF as in the System V ABI (gabi) and its AMD64 supplement; symbol versions as in the LSB, "Symbol
Versioning".
"""

import mmap
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

PREFIXES = ("libcu", "libnccl", "libnvshmem")
PAGE = 0x1000
RETURN_ONE = bytes.fromhex("b801000000c3")  # mov eax, 1; ret

# Section header types, dynamic tags, and the bits of a symbol's index entry.
SHT_STRTAB, SHT_DYNAMIC, SHT_DYNSYM, SHT_VERNEED, SHT_VERSYM = 3, 6, 11, 0x6FFFFFFE, 0x6FFFFFFF
DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_SONAME = 1, 4, 5, 6, 10, 11, 14
DT_VERSYM, DT_VERDEF, DT_VERDEFNUM = 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD
VERSION_BITS = 0x7FFF


class Wanted(NamedTuple):
    """An undefined symbol: the library and the version that it must come from, both None where the file does not say."""

    symbol: str
    library: str | None
    version: str | None


@dataclass(frozen=True, kw_only=True)
class Stub:
    """A library to make: its symbols by name, each with its version or None."""

    name: str
    symbols: dict[str, str | None] = field(default_factory=dict)


class SharedObject:
    """What the dynamic linker reads of a 64-bit little-endian shared object."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self.content[:6] != b"\x7fELF\x02\x01":
            raise SystemExit(f"error: {path} is no 64-bit little-endian ELF file")
        offset, entry, count = (
            struct.unpack_from("<Q", self.content, 40)[0],
            *struct.unpack_from("<HH", self.content, 58),
        )
        # type, offset, size, link, entries of each section (of the ten fields of a header)
        self.sections = [
            (header[1], header[4], header[5], header[6], header[7])
            for header in (struct.unpack_from("<IIQQQQIIQQ", self.content, offset + i * entry) for i in range(count))
        ]

    def needed(self) -> list[str]:
        """The names of the libraries that it is linked with."""
        names = []
        for kind, start, size, link, _ in self.sections:
            if kind == SHT_DYNAMIC:
                tags = struct.iter_unpack("<QQ", self.content[start : start + size])
                names += [self._text(link, value) for tag, value in tags if tag == DT_NEEDED]
        return names

    def wanted(self) -> Iterator[Wanted]:
        """Its undefined symbols."""
        origins = dict(self._versions())
        versions: Sequence[int] = ()
        for kind, start, size, _, _ in self.sections:
            if kind == SHT_VERSYM:
                versions = [index for (index,) in struct.iter_unpack("<H", self.content[start : start + size])]
        for kind, start, size, link, _ in self.sections:
            if kind != SHT_DYNSYM:
                continue
            symbols = struct.iter_unpack("<IBBHQQ", self.content[start : start + size])
            for i, (name, _info, _other, section, _value, _size) in enumerate(symbols):
                if name and section == 0:
                    library, version = origins.get(versions[i] & VERSION_BITS if versions else 0, (None, None))
                    yield Wanted(self._text(link, name), library, version)

    def _versions(self) -> Iterator[tuple[int, tuple[str, str]]]:
        """The library and name of each version index."""
        for kind, start, _, link, count in self.sections:
            if kind != SHT_VERNEED:
                continue
            at = start
            for _ in range(count):
                _, entries, file, first, following = struct.unpack_from("<HHIII", self.content, at)
                entry = at + first
                for _ in range(entries):
                    _, _, index, name, next_entry = struct.unpack_from("<IHHII", self.content, entry)
                    yield index & VERSION_BITS, (self._text(link, file), self._text(link, name))
                    entry += next_entry
                at += following

    def _text(self, section: int, offset: int) -> str:
        start = self.sections[section][1] + offset
        return self.content[start : self.content.find(b"\0", start)].decode()


def missing(libraries: Sequence[SharedObject], present: set[str]) -> list[Stub]:
    """What the libraries need of CUDA and is not present. A symbol without a version goes by the library's name in its own:
    ncclCommDestroy is libnccl.so.2's."""
    names = {name for library in libraries for name in library.needed() if name.startswith(PREFIXES)} - present
    stubs = {name: Stub(name=name) for name in sorted(names)}
    for library in libraries:
        for symbol, origin, version in library.wanted():
            if origin in stubs:
                stubs[origin].symbols[symbol] = version
            elif origin is None:
                guess = max((n for n in stubs if symbol.lower().startswith(_stem(n))), key=len, default=None)
                if guess is not None:
                    stubs[guess].symbols.setdefault(symbol, None)
    return list(stubs.values())


def _stem(library: str) -> str:
    return library.removeprefix("lib").partition(".")[0].removesuffix("_host").lower()


class _Strings:
    """A string table: its bytes, and the offset of each text in it."""

    def __init__(self) -> None:
        self.content = b"\0"

    def offset(self, text: str) -> int:
        found = self.content.find(b"\0" + text.encode() + b"\0")
        if found >= 0:
            return found + 1
        self.content += text.encode() + b"\0"
        return len(self.content) - len(text) - 1


def shared_object(stub: Stub) -> bytes:
    """The library's bytes: a read-only segment with tables and code, and a writable one with what the linker relocates."""
    strings = _Strings()
    versions = sorted({version for version in stub.symbols.values() if version})
    indices = {version: i for i, version in enumerate(versions, start=2)}  # 0: local, 1: global and unversioned
    soname = strings.offset(stub.name)
    names = [strings.offset(symbol) for symbol in stub.symbols]
    definitions = _version_definitions([stub.name, *versions], strings) if versions else b""
    versym = struct.pack(f"<{len(names) + 1}H", 0, *(indices.get(v or "", 1) for v in stub.symbols.values()))
    chain = (0, *range(len(names)))  # one bucket, whose chain goes down from the last symbol to 0
    table = struct.pack(f"<3I{len(chain)}I", 1, len(chain), len(names), *chain)

    parts: dict[str, int] = {}
    body = bytearray(64 + 3 * 56)  # ELF header and three program headers, filled in below

    def place(name: str, content: bytes) -> None:
        body.extend(bytes(-len(body) % 16))
        parts[name] = len(body)
        body.extend(content)

    place("code", RETURN_ONE)
    entries = b"".join(struct.pack("<IBBHQQ", name, 0x12, 0, 1, parts["code"], len(RETURN_ONE)) for name in names)
    place("symbols", bytes(24) + entries)
    place("strings", strings.content)
    place("hash", table)
    place("versym", versym)
    place("definitions", definitions)
    body.extend(bytes(-len(body) % PAGE))
    tags = [(DT_SONAME, soname), (DT_HASH, parts["hash"]), (DT_STRTAB, parts["strings"]), (DT_SYMTAB, parts["symbols"])]
    tags += [(DT_STRSZ, len(strings.content)), (DT_SYMENT, 24)]
    if versions:
        tags += [(DT_VERSYM, parts["versym"]), (DT_VERDEF, parts["definitions"]), (DT_VERDEFNUM, len(versions) + 1)]
    dynamic = b"".join(struct.pack("<QQ", tag, value) for tag, value in (*tags, (0, 0)))
    end = len(body)
    # type, flags, offset, address, physical address, size in the file and in memory, alignment
    headers = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, end, end, PAGE)
    headers += struct.pack("<IIQQQQQQ", 1, 6, end, end, end, len(dynamic), len(dynamic), PAGE)
    headers += struct.pack("<IIQQQQQQ", 2, 6, end, end, end, len(dynamic), len(dynamic), 8)
    magic = b"\x7fELF\x02\x01\x01" + bytes(9)
    body[:64] = magic + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)
    body[64 : 64 + len(headers)] = headers
    return bytes(body) + dynamic


def _version_definitions(names: Sequence[str], strings: _Strings) -> bytes:
    """The first is the file's own (its base version)."""
    records = []
    for i, name in enumerate(names, start=1):
        last = i == len(names)
        head = struct.pack("<HHHHIII", 1, 1 if i == 1 else 0, i, 1, _elf_hash(name), 20, 0 if last else 28)
        records.append(head + struct.pack("<II", strings.offset(name), 0))
    return b"".join(records)


def _elf_hash(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        value = (value ^ ((value & 0xF0000000) >> 24)) & 0x0FFFFFFF
    return value


def main(arguments: Sequence[str]) -> None:
    if not arguments:
        raise SystemExit(__doc__)
    folder, *others = (Path(argument) for argument in arguments)
    libraries = [SharedObject(path) for path in sorted(folder.glob("*.so*"))]
    present = {path.name for place in (folder, *others) for path in place.glob("*.so*")}
    for stub in missing(libraries, present):
        (folder / stub.name).write_bytes(shared_object(stub))
        print(f"{stub.name}: a stand-in with {len(stub.symbols)} symbols")


if __name__ == "__main__":
    main(sys.argv[1:])
