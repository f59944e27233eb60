"""Headers of tar files: sizes, names, extended records, checksums, and members that are not fields."""

import tarfile

from shala_framework.support.errors import DataError

REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a FIFO",
    b"M": "a piece of a file that continues from another volume",
    b"S": "a sparse file",
}


def sums_up(header: bytes) -> bool:
    """Check a header's checksum, which is over unsigned bytes or, in old programs, over signed bytes."""
    stated = header[148:156].replace(b"\0", b" ").split()
    try:
        expected = int(stated[0], 8) if stated else -1
    except ValueError:
        return False
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if total == expected:
        return True
    high = sum(byte > 127 for byte in header[:148] + header[156:])
    return total - 256 * high == expected


def octal(digits: bytes, start: int) -> int:
    """Parse a size in a header: octal digits, or big-endian bytes after 0x80."""
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:], "big")
    text = digits.partition(b"\0")[0].strip()
    if text.strip(b"01234567"):
        raise tarfile.ReadError(
            f"damaged: the header at byte {start:,} states the size {digits!r}; expected an octal number"
        )
    return int(text or b"0", 8)


def decimal(digits: bytes, start: int) -> int:
    """Parse a size in a pax record."""
    if len(digits) > 20 or not digits.isdigit():
        raise tarfile.ReadError(f"damaged: the header before byte {start:,} states the size {digits[:20]!r}")
    return int(digits)


def pax_records(content: bytes, start: int) -> dict[str, bytes]:
    """Parse the records of a pax header; each consists of length, space, key, "=", value and line feed."""
    found: dict[str, bytes] = {}
    position = 0
    while position < len(content) and content[position]:
        digits, space, _ = content[position : position + 20].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        key, equals, value = content[position + len(digits) + 1 : position + length - 1].partition(b"=")
        if not equals or content[position + length - 1 : position + length] != b"\n":
            raise tarfile.ReadError(f"damaged: the extended header at byte {start:,} has no valid records")
        found[key.decode(errors="backslashreplace")] = value
        position += length
    return found


def member_name(header: bytes, long: bytes | None, declared: dict[str, bytes]) -> str:
    """Return the name of a member from its pax records, a long name before it, or the header itself."""
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    found = declared.get("path") or long or (prefix + b"/" + name if prefix else name)
    return found.decode(errors="backslashreplace")


def refusal(name: str, kind: bytes, header: bytes) -> DataError:
    """Return the error for a member that is not a file with its own bytes."""
    what = REFUSED[kind]
    if kind in (b"1", b"2"):
        target = header[157:257].partition(b"\0")[0].decode(errors="backslashreplace")
        return DataError(
            f"{name!r} is {what} to {target!r} without bytes of its own; write the shard again with "
            "`tar --dereference --hard-dereference`, or without it"
        )
    hint = "write the shard again without `tar --sparse`" if kind == b"S" else "write the shard again without it"
    return DataError(f"{name!r} is {what}, not a field; {hint}")
