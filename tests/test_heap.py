"""Memory that was freed goes back to the system. In processes of their own: heaps are a process's."""

import asyncio
import ctypes
import platform
import subprocess
import sys

import pytest
from rerankd import heap

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such calls")

# A hundred MB in small pieces, of which only the last stays: it pins the heap's top, so free() gives nothing
# back.
PINNED = """
import ctypes, os
from rerankd import heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
pieces = [libc.malloc(1000) for _ in range(100_000)]
for piece in pieces: ctypes.memset(piece, 1, 1000)
for piece in pieces[:-1]: libc.free(piece)
def resident(): return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
heap.give_back()
print(before - resident())
"""

# Threads that all allocate at once; malloc_info tells of each heap.
THREADS = """
import ctypes, os, sys, threading
from rerankd import heap
if sys.argv[1] != "each": assert heap.share(int(sys.argv[1]))
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fdopen.restype = ctypes.c_void_p, ctypes.c_void_p
libc.malloc_info.argtypes, libc.fflush.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
met = threading.Barrier(6)
def allocate():
    met.wait()
    libc.malloc(1000)
    met.wait()
threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
out = libc.fdopen(1, b"w")
libc.malloc_info(0, out)
libc.fflush(out)
"""


def said(program: str, *arguments: str) -> str:
    return subprocess.check_output([sys.executable, "-c", program, *arguments], text=True)


@glibc
def test_what_is_free_goes_back() -> None:
    assert int(said(PINNED)) > 50e6


@glibc
def test_threads_share_heaps() -> None:
    assert said(THREADS, "1").count("<heap nr=") == 2, "two at the least"
    assert said(THREADS, "4").count("<heap nr=") == 4, "one for each compute thread"
    assert said(THREADS, "each").count("<heap nr=") > 4


async def test_it_goes_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    times, often = 0, asyncio.Event()
    loop = asyncio.get_running_loop()

    def count() -> bool:
        nonlocal times
        times += 1
        if times == 3:
            loop.call_soon_threadsafe(often.set)
        return False

    monkeypatch.setattr(heap, "give_back", count)
    task = asyncio.create_task(heap.keep_small(every=0.001))
    await often.wait()
    task.cancel()


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not heap.share(2)
    assert not heap.give_back()
