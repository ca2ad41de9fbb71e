"""A text from a web server: verified, and given up in time."""

import http.client
import threading
import urllib.error
import urllib.request

from deeprnn.corpus.errors import Unavailable, brief
from deeprnn.corpus.known_texts import KnownText

SOCKET_SECONDS = 10.0  # one connection attempt or one read
DOWNLOAD_SECONDS = 20.0  # the whole download, name resolution included


def download(text: KnownText) -> bytes:
    """Fetch `text` from its address, verified; raise Unavailable in at most DOWNLOAD_SECONDS."""
    received: list[bytes] = []
    failure: list[str] = []

    def fetch() -> None:
        try:
            with urllib.request.urlopen(text.url, timeout=SOCKET_SECONDS) as response:  # noqa: S310
                received.append(response.read(text.num_bytes + 1))
        except urllib.error.HTTPError as error:
            failure.append(brief(error))
        except urllib.error.URLError as error:  # prints as <urlopen error ...>
            failure.append(brief(error.reason))
        except (OSError, http.client.HTTPException, ValueError) as error:
            failure.append(brief(error))

    # A socket's timeout covers neither name resolution nor a server that drips, and begins anew
    # for each of a host's addresses. The thread owns nothing but memory, so it may be left behind.
    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(DOWNLOAD_SECONDS)
    if received:
        if difference := text.difference(received[0]):
            raise Unavailable(f"download from {text.url}: {difference}")
        return received[0]
    reason = failure[0] if failure else f"no answer in {DOWNLOAD_SECONDS:g} s"
    raise Unavailable(f"download from {text.url}: {reason}")
