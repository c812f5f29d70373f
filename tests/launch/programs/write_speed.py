# SPDX-License-Identifier: Apache-2.0
"""write_speed.py WAY FIRST COUNT: writes COUNT MiB to /data/f, directly, buffered or through mmap;
says how many MiB/s that were after the FIRST ones, which may only fill what may be dirty."""

import mmap
import os
import sys
import time

way, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
f = os.open("/data/f", os.O_RDWR | os.O_CREAT | (os.O_DIRECT if way == "direct" else 0))
block = mmap.mmap(-1, 1 << 20)
if way == "mmap":
    os.ftruncate(f, count << 20)
    pages = mmap.mmap(f, count << 20)
for i in range(count):
    if i == first:
        start = time.monotonic()
    if way == "mmap":
        for at in range(i << 20, (i + 1) << 20, 4096):
            pages[at] = 1
    else:
        assert os.write(f, block) == 1 << 20
print((count - first) / (time.monotonic() - start))
