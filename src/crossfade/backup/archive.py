"""The archive: a compressed tar whose last member lists every other one with its digest."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from crossfade.errors import DataError

_CODECS = {".tar.zst": "zstd", ".tar.gz": "gzip"}

CONTENTS = "contents.json"

FORMAT = 1

_CHUNK = 2**20


@dataclass
class ArchiveWriter:
    """Adds members to an archive."""

    tar: tarfile.TarFile
    members: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Size and SHA-256 of each, by name."""

    def add(self, name: str, source: IO[bytes], size: int, modified: float) -> None:
        """Add the first bytes of an open file; whoever adds to it meanwhile does no harm. Raises OSError."""
        reader = _Hashing(source)
        self._info(name, size, modified, reader)
        self.members[name] = {"bytes": size, "sha256": reader.digest.hexdigest()}

    def add_file(self, name: str, path: Path) -> None:
        """Add a file as it is. Raises OSError."""
        with path.open("rb") as file:
            found = path.stat()
            self.add(name, file, found.st_size, found.st_mtime)

    def finish(self, about: Mapping[str, Any]) -> None:
        """Add the list of all members: what has none was cut short."""
        content = json.dumps({"format": FORMAT, **about, "files": self.members}, indent=1).encode()
        self._info(CONTENTS, len(content), 0, io.BytesIO(content))

    def _info(self, name: str, size: int, modified: float, source: Any) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = size, modified, 0o644
        self.tar.addfile(member, source)


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data


@contextmanager
def writing(target: Path) -> Iterator[ArchiveWriter]:
    """Write an archive aside and put it in place when all went well; only its owner may read it.

    Raises
    ------
    DataError
        Its name has another ending than .tar.zst or .tar.gz.
    OSError
        It cannot be written; what was there stays.
    """
    codec = _codec(target)
    draft = target.with_name(f".{target.name}.draft")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    try:
        with pa.CompressedOutputStream(str(draft), codec) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
            yield ArchiveWriter(tar)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def unpack(archive: Path, folder: Path) -> dict[str, Any]:
    """Unpack an archive into a folder and hold every member against its digest; return the list of them.

    Raises
    ------
    DataError
        It is no such archive, was cut short or changed, or a newer Crossfade made it.
    """
    try:
        with pa.CompressedInputStream(str(archive), _codec(archive)) as stream:
            digests = _unpacked(stream, folder)
    except (tarfile.TarError, OSError, EOFError, pa.ArrowException) as error:
        raise DataError(f"{archive} cannot be read: {error}. Take another backup.") from error
    listing = folder / CONTENTS
    if not listing.is_file():
        raise DataError(f"{archive} is no backup, or was cut short: it has no {CONTENTS}. Take another backup.")
    contents: dict[str, Any] = json.loads(listing.read_text())
    if contents["format"] > FORMAT:
        raise DataError(f"{archive} was made by a newer Crossfade ({contents['crossfade']}). Update this installation.")
    digests.pop(CONTENTS)
    listed = {name: member["sha256"] for name, member in contents["files"].items()}
    wrong = sorted(name for name in listed.keys() | digests.keys() if listed.get(name) != digests.get(name))
    if wrong:
        raise DataError(
            f"{archive} is damaged: {', '.join(wrong[:5])} {'is' if len(wrong) == 1 else 'are'} not as listed in it. "
            "Take another backup."
        )
    return contents


def _unpacked(stream: Any, folder: Path) -> dict[str, str]:
    """Write every member below a folder and return their digests; links and paths that lead elsewhere are refused."""
    digests = {}
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            if not member.isfile() or member.name.startswith("/"):
                raise DataError(f"the archive holds {member.name}, which no backup does. It was not made by Crossfade.")
            tar.extract(member, folder, filter="data")
            with (folder / member.name).open("rb") as file:
                digests[member.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _codec(path: Path) -> str:
    for ending, codec in _CODECS.items():
        if path.name.endswith(ending):
            return codec
    raise DataError(f"{path}: the name has to end in {' or '.join(_CODECS)}")
