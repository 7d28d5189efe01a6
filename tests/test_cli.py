"""The `tenfold` command from outside, as it was installed, and its handling of what goes wrong."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tenfold import __version__, cli
from tenfold.core.errors import InputError
from tenfold.core.systems import SYSTEMS
from tenfold.search.commands import COMMANDS as SEARCH_COMMANDS

TENFOLD = Path(sysconfig.get_path("scripts"), "tenfold")
HEAVY = ["torch", "cv2", "onnxruntime", "cryptography", "SimpleITK", "nibabel"]
VERBS = [*([name] for name in cli.OWN_COMMANDS), *(["search", name] for name in SEARCH_COMMANDS)]


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TENFOLD, *args], capture_output=True, text=True, timeout=120)


def only_line(text: str) -> str:
    [line] = text.splitlines()
    return line


def test_version() -> None:
    answer = run("--version")
    assert (answer.returncode, answer.stdout) == (0, f"tenfold {__version__}\n")


def test_module_is_the_same_command() -> None:
    command = [sys.executable, "-m", "tenfold", "--version"]
    assert subprocess.check_output(command, text=True) == f"tenfold {__version__}\n"


@pytest.mark.parametrize("args", [["--help"], []])
def test_help_lists_rooms_with_their_state(args: list[str]) -> None:
    answer = run(*args)
    assert answer.returncode == 0
    assert "Example: tenfold " in answer.stdout
    for room in SYSTEMS:
        assert f"• {room.name.replace('_', '-')}" in answer.stdout
    assert answer.stdout.count("(planned)") == sum(room.state == "planned" for room in SYSTEMS)


def test_a_room_lists_its_verbs() -> None:
    answer = run("search")
    assert answer.returncode == 0
    for verb in SEARCH_COMMANDS:
        assert f"• {verb}" in answer.stdout


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_of_every_verb_shows_an_example_of_it(verb: list[str]) -> None:
    answer = run(*verb, "--help")
    assert answer.returncode == 0
    assert f"Example: tenfold {' '.join(verb)}" in answer.stdout


@pytest.mark.parametrize(
    "args",
    [["sarch"], ["search", "bild"], ["info", "--jsn"], ["completion"], ["completion", "csh"], ["--verbose"]],
    ids=" ".join,
)
def test_bad_arguments_exit_with_2_and_are_quoted(args: list[str]) -> None:
    answer = run(*args)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert args[-1] in answer.stderr.lower()
    assert "--help" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("name", ["expressions", "video_quality", "video-quality"])
def test_a_planned_room_says_so(name: str) -> None:
    answer = run(name, "train")
    assert answer.returncode == 2
    assert only_line(answer.stderr).endswith("this room is planned and has no commands yet")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    answer = run("search", "info", tmp_path / "missing")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert only_line(answer.stderr).startswith("tenfold: ")
    assert str(tmp_path / "missing") in answer.stderr


def test_info_for_people_and_for_programs() -> None:
    shown, facts = run("info"), json.loads(run("info", "--json").stdout)
    assert shown.returncode == 0
    for name in ["SIMD", "io_uring", "cores", "memory", "GPU", "search: h5py"]:
        assert name in shown.stdout
    assert facts["tenfold"] == __version__


@pytest.mark.parametrize(
    ("args", "absent"),
    [
        (["--version"], ["numpy", "tenfold.search"]),
        (["--help"], ["numpy", "tenfold.search"]),
        (["info"], ["torch"]),
        (["completion", "bash"], HEAVY),
        (["attention", "train", "--help"], HEAVY),
        (["anatomy", "--help"], HEAVY),
        (["anatomy", "evaluate", "--help"], HEAVY),
        (["anatomy", "images", "--help"], HEAVY),
        (["faces", "--help"], HEAVY),
        (["faces", "export", "--help"], HEAVY),
        (["faces", "distill", "--help"], HEAVY),
        (["faces", "enroll", "--help"], HEAVY),
    ],
)
def test_nothing_heavy_is_imported_without_need(args: list[str], absent: list[str]) -> None:
    code = (
        "import sys; from tenfold.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('loaded', *sys.modules, file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)
    loaded = answer.stderr.split()
    assert loaded[0] == "loaded"
    assert not set(absent) & set(loaded)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_rooms_and_verbs(shell: str) -> None:
    answer = run("completion", shell)
    assert answer.returncode == 0
    for word in ["search", "evaluate", "completion", "mqar", "gate-init", "enroll", "keep-weight", "real-images"]:
        assert word in answer.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_bash_completes_a_verb(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(run("completion", "bash").stdout)
    lines = [
        f"source {tmp_path}/script",
        "COMP_WORDS=(tenfold search ver) COMP_CWORD=2 COMP_LINE='tenfold search ver' COMP_POINT=18",
        "$(complete -p tenfold | sed 's/.*-F \\([^ ]*\\).*/\\1/') tenfold ver search",
        'echo "${COMPREPLY[@]}"',
    ]
    answer = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert answer.stdout.split() == ["verify"]


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen([TENFOLD, "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path) -> None:
    code = """
import sys
from tenfold.cli import main
class WithoutTorch:
    def find_spec(name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, WithoutTorch)
for args in (["attention", "generate", "x"], ["reproduce", "attention"], ["attention", "train", "--help"]):
    try:
        print(main(args))
    except SystemExit:
        print("help")
"""
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert answer.stdout.splitlines()[:2] == ["2", "2"] and answer.stdout.endswith("help\n")
    assert answer.stderr.splitlines() == ["tenfold: attention needs torch; pip install 'tenfold[attention]'"] * 2


def raises(error: BaseException) -> Callable[[], None]:
    def verb() -> None:
        raise error

    return verb


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("a.npy: cut\nin two"), 2, "tenfold: a.npy: cut in two"),
        (OSError(28, "No space left on device", "x"), 1, "tenfold: OSError: [Errno 28] No space left on device: 'x'"),
        (MemoryError(), 1, "tenfold: MemoryError: "),
        (KeyboardInterrupt(), 130, "tenfold: interrupted"),
    ],
)
def test_what_goes_wrong_is_one_line(
    error: BaseException,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(cli.OWN_COMMANDS, "fail", raises(error))
    monkeypatch.delenv("TENFOLD_TRACEBACK", raising=False)
    assert cli.main(["fail"]) == status
    assert only_line(capsys.readouterr().err) == message.strip()
    monkeypatch.setenv("TENFOLD_TRACEBACK", "1")
    assert cli.main(["fail"]) == status
    assert "Traceback" in capsys.readouterr().err


def test_the_environment_of_the_tests_has_the_command() -> None:
    assert os.access(TENFOLD, os.X_OK), "run the tests with `make test`, which installs the package"
