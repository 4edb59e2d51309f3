"""The checksum of TFRecords, CRC-32C, in NumPy.

TensorBoard's own works byte by byte in Python and would take most of the time of a record.
"""

import numpy as np

BLOCK = 1024  # bytes per step


def _tables() -> np.ndarray:
    """What byte b adds to the checksum if k others follow: `[BLOCK, 256]`, k from BLOCK - 1."""
    last = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        last = np.where(last & 1, (last >> 1) ^ np.uint32(0x82F63B78), last >> 1)
    tables = np.empty((BLOCK, 256), np.uint32)
    tables[-1] = last
    for k in range(BLOCK - 2, -1, -1):
        tables[k] = last[tables[k + 1] & 255] ^ (tables[k + 1] >> 8)
    return tables.ravel()


TABLES, ROWS = _tables(), np.arange(BLOCK) * 256


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) of bytes."""
    checksum = 0xFFFFFFFF
    for begin in range(0, len(data), BLOCK):
        block = np.frombuffer(data[begin : begin + BLOCK], np.uint8).astype(np.intp)
        head = np.frombuffer(checksum.to_bytes(4, "little"), np.uint8)[: len(block)]
        block[: len(head)] ^= head
        rest = checksum >> 8 * len(block)  # not 0 for a block shorter than the checksum
        checksum = int(np.bitwise_xor.reduce(TABLES[ROWS[BLOCK - len(block) :] + block])) ^ rest
    return checksum ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """The masked checksum of TFRecord files."""
    checksum = crc32c(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
