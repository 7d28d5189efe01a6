"""io_uring, O_DIRECT and buffered reading: chosen, forced, refused, and the same answers through each."""

import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from oracles import BACKENDS, make_vectors, open_with, run_python

from tenfold.core.errors import InputError
from tenfold.search import Index, _native

IndexCache = Callable[..., Path]
Python = Callable[..., subprocess.CompletedProcess[str]]

# A seccomp filter that answers chosen system calls with an error, as container run times do.
REFUSE = """
import ctypes, struct
def refuse(calls, error):
    code = [(0x20, 0, 0, 0)]  # load the number of the call
    for number in calls:
        code += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error)]
    code += [(0x06, 0, 0, 0x7fff0000)]
    program = b"".join(struct.pack("HBBI", *line) for line in code)
    memory = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, header, 0, 0) == 0, ctypes.get_errno()
"""
SEARCH = """
import sys
import numpy as np
from tenfold.search import Index
def search(io):
    try:
        index = Index.open(sys.argv[1], io=io)
        distances, ids = index.search(np.zeros((40, 24), np.uint8), 3, recall=1.0)
        print(index.stats()["io_backend"], ids[0].tolist())
    except Exception as error:
        print(type(error).__name__, str(error).replace(chr(10), "NEWLINE"))
"""
SETUP, ENTER, CLONE3, CLONE = 425, 426, 435, 56

linux_x86 = pytest.mark.skipif(platform.machine() != "x86_64" or os.name != "posix", reason="numbers of x86-64 Linux")


@pytest.fixture
def small(index_cache: IndexCache) -> Path:
    return index_cache(400, 24, "uint8", "l2", "pq", 30)


@pytest.fixture
def answer(small: Path) -> str:
    _, ids = Index.open(small, io="buffered").search(np.zeros((1, 24), np.uint8), 3, recall=1.0)
    return str(ids[0].tolist())


def run_filtered(python: Python, small: Path, filter_line: str, *ios: str) -> list[str]:
    done = python(REFUSE + SEARCH + filter_line + "\n" + "\n".join(f"search({io!r})" for io in ios), small)
    if "AssertionError" in done.stderr:
        pytest.skip("seccomp is refused here")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("io", BACKENDS)
def test_forced_backend_is_the_one_used(io: str, small: Path) -> None:
    assert open_with(small, io).stats()["io_backend"] == io


@pytest.mark.parametrize("io", BACKENDS)
def test_stats_do_not_depend_on_the_backend(io: str, small: Path) -> None:
    """One thread asks for the same pages whatever brings them."""
    queries = make_vectors(30, 24, "uint8", seed=3)
    buffered = Index.open(small, io="buffered")
    tuning = buffered.tuning(5, 0.9)  # vectors in memory are searched with settings of their own otherwise
    *_, expected = buffered.search_tuned(queries, 5, tuning, 1)
    *_, stats = open_with(small, io).search_tuned(queries, 5, tuning, 1)
    for name in ("candidates", "codes_scanned", "rounds"):
        np.testing.assert_array_equal(getattr(stats, name), getattr(expected, name))
    assert (stats.rounds <= 2).all()


@pytest.mark.parametrize(("count", "threads"), [(1, 1), (90, 1), (90, 3)])
@pytest.mark.parametrize("io", BACKENDS)
def test_something_else_is_done_while_the_disk_is_waited_for(io: str, count: int, threads: int, small: Path) -> None:
    """Once at most, be it a search of the same index, and never where there is no disk; with the same answers."""
    index, queries = open_with(small, io), make_vectors(count, 24, "uint8", seed=3)
    tuning, answers = index.tuning(5, 0.9), []

    def search(meanwhile: Callable[[], None] | None = None) -> None:
        answers.append(index.search_tuned(queries, 5, tuning, threads, meanwhile=meanwhile)[:2])

    search(meanwhile=search)  # of pages that are not there yet: a single query must wait for them
    assert len(answers) in ({1} if io == "memory" else {2} if count == 1 else {1, 2})
    search()
    for answer in answers[:-1]:
        np.testing.assert_array_equal(answer, answers[-1])


@pytest.mark.parametrize("io", BACKENDS[:-1])
def test_what_fails_while_the_disk_is_waited_for_ends_the_search(io: str, small: Path) -> None:
    """With its own error; the next search finds what it should."""
    index, query = open_with(small, io), make_vectors(1, 24, "uint8", seed=3)
    tuning = index.tuning(5, 0.9)

    def fail() -> None:
        raise LookupError("of its own")

    for _ in range(3):
        with pytest.raises(LookupError, match="of its own"):
            index.search_tuned(query, 5, tuning, 1, meanwhile=fail)
    expected = open_with(small, "memory").search_tuned(query, 5, tuning, 1)
    np.testing.assert_array_equal(index.search_tuned(query, 5, tuning, 1)[:2], expected[:2])


@linux_x86
@pytest.mark.parametrize("error", [1, 38], ids=["EPERM", "ENOSYS"])
def test_io_uring_refused(error: int, small: Path, answer: str, python: Python) -> None:
    """Forced: one line with the reason. By default: the next back end, silently, with the same answer."""
    forced, chosen = run_filtered(python, small, f"refuse([{SETUP}], {error})", "uring", "auto")
    assert forced.startswith("InputError io='uring' is refused here")
    assert "NEWLINE" not in forced
    assert chosen.split(" ", 1) in (["direct", answer], ["buffered", answer])


@linux_x86
def test_io_uring_taken_away_after_opening(small: Path, answer: str, python: Python) -> None:
    """The ring can be made but not used, or no more rings can be made: still an answer, or one line."""
    for line in run_filtered(python, small, f"refuse([{ENTER}], 1)", "auto", "buffered"):
        assert line.endswith(answer) or line.startswith("InputError")
    code = (
        SEARCH
        + """
import resource
index = Index.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (len(__import__("os").listdir("/proc/self/fd")), 4096))
print(index.search(np.zeros((40, 24), np.uint8), 3, recall=1.0)[1][0].tolist())
"""
    )
    assert python(code, small).stdout.strip() == answer


@linux_x86
@pytest.mark.parametrize("io", ["direct", "buffered"])
def test_no_more_threads(io: str, small: Path, answer: str, python: Python) -> None:
    """Where the system gives no thread, the one there is does the work."""
    (line,) = run_filtered(python, small, f"refuse([{CLONE3}, {CLONE}], 11)", io)
    assert line == f"{io} {answer}" or "O_DIRECT is refused" in line


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder on tmpfs."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("/dev/shm is not there or not writable")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_direct_refused(small: Path, answer: str, memory_folder: Path) -> None:
    """tmpfs refuses O_DIRECT (before Linux 6.6): forced it is one line, by default buffered reading takes over."""
    folder = Path(copytree(small, memory_folder / "index"))
    try:
        os.close(os.open(folder / "vectors.bin", os.O_RDONLY | os.O_DIRECT))
    except OSError:
        for io in ("direct", "uring") if not _native.probe_io_uring() else ("direct",):
            with pytest.raises(InputError, match="O_DIRECT is refused") as caught:
                Index.open(folder, io=io)  # type: ignore[arg-type]
            assert "buffered" in str(caught.value)
        assert Index.open(folder).stats()["io_backend"] == "buffered"
    ids = Index.open(folder).search(np.zeros((1, 24), np.uint8), 3, recall=1.0)[1]
    assert str(ids[0].tolist()) == answer


@linux_x86
@pytest.mark.parametrize("refused", ["to submit", "to wait"])
@pytest.mark.parametrize(
    "search",
    ["index.search(queries, 3, recall=1.0, threads=1)", "lists.search(queries, 3, index.lists, 1e9, 1)"],
    ids=["pages", "whole lists"],
)
def test_a_kernel_that_takes_no_more_ends_a_search(
    search: str, refused: str, small: Path, tmp_path: Path, python: Python
) -> None:
    """`io_uring_enter` fails when it is to start reads, or to wait for them: an error, no hang and no abort.

    Reads may be there before they are waited for; then there is an answer.
    """
    code = f"""
import ctypes, struct, sys
from pathlib import Path
import numpy as np
from tenfold.search import Index
from tenfold.search.baselines import ListIndex, Lists
index = Index.open(sys.argv[1], io="uring")
lists = ListIndex(index, Lists.of_index(index, 1), Path(sys.argv[2]))
queries = np.zeros((40, 24), np.uint8)
code = [(0x20, 0, 0, 0), (0x15, 0, 3, {ENTER}), (0x20, 0, 0, {24 if refused == "to submit" else 32}),
        (0x15, 1, 0, 0), (0x06, 0, 0, 0x00050005), (0x06, 0, 0, 0x7fff0000)]
program = b"".join(struct.pack("HBBI", *line) for line in code)
memory = ctypes.create_string_buffer(program)
header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(memory))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, header, 0, 0) == 0
try:
    {search}
    print("answered")
except Exception as error:
    print(error)
"""
    if _native.probe_io_uring():
        pytest.skip("io_uring is refused here")
    done = python(code, small, tmp_path / "lists")
    if "AssertionError" in done.stderr or "O_DIRECT is refused" in done.stderr:
        pytest.skip("seccomp or O_DIRECT is refused here")
    assert done.returncode == 0, done.stderr
    assert "io_uring_enter" in done.stdout or (refused == "to wait" and done.stdout == "answered\n")


@linux_x86
def test_direct_refused_by_the_file_system(small: Path, answer: str, python: Python) -> None:
    """The same wherever tmpfs takes the flag: a filter refuses `openat` with O_DIRECT among its flags."""
    code = """
import ctypes, struct
def refuse_direct():
    code = [(0x20, 0, 0, 0), (0x15, 0, 3, 257), (0x20, 0, 0, 32), (0x45, 0, 1, 0x4000), (0x06, 0, 0, 0x00050016),
            (0x06, 0, 0, 0x7fff0000)]
    program = b"".join(struct.pack("HBBI", *line) for line in code)
    memory = ctypes.create_string_buffer(program)
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(memory))
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, header, 0, 0) == 0
refuse_direct()
"""
    forced, chosen = run_filtered(python, small, code, "direct", "auto")
    assert "O_DIRECT is refused by this file system" in forced
    assert chosen == f"buffered {answer}"


@pytest.mark.parametrize("io", BACKENDS)
def test_many_threads_share_an_index(io: str, small: Path, python: Python) -> None:
    """Eight Python threads with two native ones each, and every answer is the right one."""
    open_with(small, io)
    code = f"""
import sys, threading
import numpy as np
from tenfold.search import Index
index = Index.open(sys.argv[1], io={io!r}, cache="64KB")
queries = np.random.default_rng(0).integers(0, 256, (60, 24), dtype=np.uint8)
expected = index.search(queries, 4, recall=1.0)
wrong = []
def work():
    for _ in range(5):
        found = index.search(queries, 4, recall=1.0, threads=2)
        if not all(np.array_equal(a, b) for a, b in zip(found, expected)):
            wrong.append(found)
crew = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in crew]
[thread.join() for thread in crew]
print(len(wrong))
"""
    assert python(code, small).stdout.strip() == "0"


@pytest.mark.parametrize("io", BACKENDS)
def test_a_forked_process_searches_too(io: str, index_cache: IndexCache) -> None:
    """An index searched before the fork: in the child, while its parent waits for the disk, and in the parent then.

    Another child lets it go without a search.
    """
    path = index_cache(120, 1200, "float32", "l2")  # of more pages than are kept between searches
    open_with(path, io)
    code = """
import gc, multiprocessing, signal, sys
import numpy as np
from tenfold.search import Index
index = Index.open(sys.argv[1], io=sys.argv[2])
queries = np.arange(3 * 1200, dtype=np.float32).reshape(3, 1200) % 11
tuning = index.tuning(4, 1.0)
def search(threads, meanwhile=None):
    return index.search_tuned(queries, 4, tuning, threads, meanwhile=meanwhile)[:2]
expected = search(1)
def work(times):
    global index
    signal.alarm(300)  # ends a process that hangs in native code, and is not passed on to children
    go.wait()
    for _ in range(times):
        assert all(map(np.array_equal, search(2), expected))
    index = None
    gc.collect()
def let_go():
    go.set()
    for child in children:
        child.join()
fork = multiprocessing.get_context("fork")
go = fork.Event()
children = [fork.Process(target=work, args=(times,)) for times in (0, 3)]
for child in children:
    child.start()
signal.alarm(400)
for meanwhile in (let_go, None):
    assert all(map(np.array_equal, search(1, meanwhile), expected))
let_go()
print([child.exitcode for child in children])
"""
    # ThreadSanitizer, where it is there, wants no threads in the child.
    options = os.environ | {"TSAN_OPTIONS": os.environ.get("TSAN_OPTIONS", "") + ":die_after_fork=0"}
    done = run_python(code, path, io, env=options)
    assert done.stdout.strip() == "[0, 0]", done.stderr


@pytest.mark.skipif(platform.system() != "Linux", reason="counts come from /proc")
@pytest.mark.parametrize(("io", "most"), [("uring", 2), ("direct", 1)])
def test_what_readers_keep_when_little_is_read(io: str, most: int, small: Path, python: Python) -> None:
    """After a search of many threads, and some of one: its ring, or nothing where all pages were read before.

    One more is allowed: ThreadSanitizer's own thread, which comes with the first other one.
    """
    open_with(small, io)
    code = """
import os, sys, time
import numpy as np
from tenfold.search import Index
def kept():
    links = ["/proc/self/fd/" + name for name in os.listdir("/proc/self/fd")]
    rings = sum("io_uring" in os.readlink(link) for link in links if os.path.lexists(link))
    return rings + len(os.listdir("/proc/self/task"))
index = Index.open(sys.argv[1], io=sys.argv[2])
before = kept()
index.search(np.zeros((2000, 24), np.uint8), 3, recall=1.0, threads=16)
while kept() - before > int(sys.argv[3]):
    time.sleep(0.1)
    index.search(np.zeros((1, 24), np.uint8), 3, recall=1.0)
print(kept() - before)
"""
    done = python(code, small, io, most)
    assert int(done.stdout) <= most, done.stderr


@linux_x86
@pytest.mark.parametrize("result", ["short", "EINTR", "EAGAIN", "nothing"])
def test_a_ring_that_brings_too_little(result: str, index_cache: IndexCache, python: Python) -> None:
    """The rest of a read is fetched: the test takes back what a ring has brought, before it is looked at."""
    path = index_cache(120, 1200, "float32", "l2")  # a row, of 4,800 bytes, takes reads of 8,192
    open_with(path, "uring")
    code = """
import ctypes, sys, time
import numpy as np
from tenfold.search import Index
def number(address, kind=ctypes.c_uint32):
    return kind.from_address(address)
parameters = (ctypes.c_uint32 * 30)()  # of a ring of this size: where things lie in it
assert ctypes.CDLL(None).syscall(425, 64, parameters) >= 0
submitted, arrived, completions = parameters[11], parameters[21], parameters[25]
def take_back():
    maps = [line.split() for line in open("/proc/self/maps") if "io_uring" in line]
    places = {offset: int(span.split("-")[0], 16) for span, _, offset, *_ in maps}
    ring, entries = places["08000000"], places["10000000"]
    count = number(ring + submitted).value
    while number(ring + arrived).value < count:
        time.sleep(0.01)
    for at in range(count):
        entry = entries + 64 * at
        buffer, size = number(entry + 16, ctypes.c_uint64).value, number(entry + 24).value
        reads[number(entry + 32, ctypes.c_uint64).value] = buffer, size
    for at in range(count):
        completion = ring + completions + 16 * at
        buffer, size = reads[number(completion, ctypes.c_uint64).value]
        result = number(completion + 8, ctypes.c_int32)
        assert result.value == size
        result.value = {"short": size // 2, "EINTR": -4, "EAGAIN": -11, "nothing": 0}[sys.argv[2]]
        left = max(0, result.value)
        ctypes.memset(buffer + left, 0, size - left)
reads = {}
query = np.zeros((1, 1200), np.float32)
memory, index = Index.open(sys.argv[1], io="memory"), Index.open(sys.argv[1], io="uring")
tuning = index.tuning(5, 0.9)
expected = memory.search_tuned(query, 5, tuning, 1)
found = index.search_tuned(query, 5, tuning, 1, meanwhile=take_back)
print(len(reads) > 0, all(map(np.array_equal, found[:2], expected[:2])))
"""
    done = python(code, path, result)
    assert done.stdout.strip() == "True True", done.stderr
