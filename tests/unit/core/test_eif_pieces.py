"""A ramdisk that comes in pieces gives the file that it gives whole."""

import io

from nitrokit.core.eif import write_eif


def test_pieces_and_whole_are_the_same():
    files = []
    for ramdisk in (b"app" * 1000, iter([b"app" * 400, b"", b"app" * 600])):
        file = io.BytesIO()
        write_eif(file, kernel=b"kernel", cmdline="cmdline", ramdisks=[b"init", ramdisk], metadata={})
        files.append(file.getvalue())
    assert files[0] == files[1]
