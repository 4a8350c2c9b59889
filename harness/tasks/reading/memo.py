"""Looks through a pickle, before it is read, for the places in which it keeps what it repeats.

Reading makes a table of as many places as the largest number says, and five bytes can ask for 64
GiB. What `pickletools.genops` would decode is passed over: it is fast, and no text can stop it.
"""

import pickletools
from typing import BinaryIO

_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_ARGUMENTS = {one.code.encode("latin1"): one.arg for one in pickletools.opcodes}
_STOP, _PUT, _LONG_BINPUT = b".", b"p", b"r"


def largest_place(file: BinaryIO) -> int:
    """Returns the largest place that a pickle names; where it is broken, up to there.

    Raises:
        ValueError: a place is no number.
    """
    largest = 0
    while (code := file.read(1)) in _ARGUMENTS and code != _STOP:
        argument = _ARGUMENTS[code]
        if argument is None:
            continue
        if code == _LONG_BINPUT:
            largest = max(largest, int.from_bytes(file.read(4), "little"))
        elif argument.n >= 0:
            file.read(argument.n)
        elif argument.n == pickletools.UP_TO_NEWLINE:
            line = file.readline()
            if code == _PUT:
                largest = max(largest, int(line))
            elif argument.name == "stringnl_noescape_pair":
                file.readline()
        else:
            length = int.from_bytes(file.read(_LENGTH_BYTES[argument.n]), "little")
            file.seek(length, 1)
    return largest
