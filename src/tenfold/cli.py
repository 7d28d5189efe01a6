"""The `tenfold` command: `tenfold <room> <verb>`, and a few verbs of its own.

A verb is a plain function. Its typed parameters become arguments and options, its docstring the
help. A room keeps its verbs in `tenfold/<room>/commands.py`, in a dictionary `COMMANDS`, and is
imported only when one of them is called.
"""

import importlib
import importlib.util
import json as json_format
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import tyro
from tyro.extras import SubcommandApp

from tenfold import __version__
from tenfold.core.errors import InputError
from tenfold.core.progress import progress_bar
from tenfold.core.reports import Report, Table, need_reports
from tenfold.core.systems import SYSTEMS, System
from tenfold.info import describe_machine

__all__ = ["completion", "demo", "info", "main", "reproduce"]

Commands = dict[str, Callable[..., None]]

HOW_TO_PARSE = (
    tyro.conf.PositionalRequiredArgs,  # no default: an argument; default: an option
    tyro.conf.PositionalMetavarFromFieldName,
    tyro.conf.FlagCreatePairsOff,  # --json, and no --no-json
    tyro.conf.DisallowNone,
    tyro.conf.HelptextFromCommentsOff,
)

WELCOME = """Ten research systems as dependable software.

Example: tenfold search build base.fvecs my_index

`tenfold <room> <verb> --help` explains a verb, `tenfold --version` prints the version."""


def info(json: bool = False) -> None:
    """Say what this machine and this installation offer.

    Example: tenfold info --json

    Args:
        json: Print one JSON object instead of a table.
    """
    facts = describe_machine()
    if json:
        print(json_format.dumps(facts))
        return
    simd = f"{facts['simd']} (of {', '.join(facts['simd_levels'])})"
    missing = "missing: pip install 'tenfold[{}]'"
    rows = [
        ["tenfold", facts["tenfold"]],
        ["python", facts["python"]],
        ["numpy", facts["numpy"]],
        ["processor", facts["processor"]],
        ["platform", facts["platform"]],
        ["SIMD", simd if facts["simd"] else f"unknown: {facts['native_error']}"],
        ["io_uring", f"no: {facts['io_uring']}" if facts["io_uring"] else "yes"],
        ["cores", str(facts["cores"])],
        ["memory", f"{facts['memory_bytes'] / 2**30:.1f} GiB"],
        ["GPU", "; ".join(facts["gpus"]) or "none"],
    ]
    for extra, packages in facts["extras"].items():
        for package, version in packages.items():
            rows.append([f"{extra}: {package}", version or missing.format(extra)])
    Table("What Tenfold finds on this machine", ["what", "found"], rows).print()


def demo(json: bool = False) -> None:
    """Show vector search on data that every machine has, in about a minute.

    Example: tenfold demo

    Args:
        json: Print one JSON object instead of text and a table.
    """
    importlib.import_module("tenfold.search.demo").run_demo(json=json)


def reproduce(
    room: Literal["search", "attention", "faces", "anatomy"],
    data: Path | None = None,
    seeds: int = 3,
    quick: bool = False,
    out: Path = Path("reproduced"),
    json: bool = False,
) -> None:
    """Measure a paper's claims against their baselines and write a report with plots.

    Example: tenfold reproduce search --quick

    Args:
        room: Whose claims.
        data: The room's data: search takes a folder with base.* and query.* files of one vector format, attention a
            text or a folder of texts, faces a folder with a folder of people in it for each set, anatomy a folder
            with labelmaps and tables. Default, but for faces and anatomy: data that every machine has.
        seeds: Repetitions; intervals are over them.
        quick: A smaller job, of a few minutes.
        out: Folder for the report: ROOM.html, .md, .json and drawings. Scratch files of search lie there meanwhile;
            faces and anatomy keep a folder there, from where an interrupted run goes on. That of faces holds crops of
            the faces: delete it when you are done.
        json: Print the report as one JSON object instead of tables.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: no folder can be made there: {error.strerror}") from None
    need_reports()
    with _explained(next(system for system in SYSTEMS if system.name == room)):
        claims = importlib.import_module(f"tenfold.{room}.claims")
    with progress_bar() as progress:
        report: Report = claims.reproduce(data, out, seeds=seeds, quick=quick, progress=progress)
    written = report.write(out, room)
    if json:
        print(report.to_json())
        return
    report.print()
    print(f"Written: {written[0]}")


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a script that makes a shell complete tenfold's verbs and options.

    Example: tenfold completion bash > ~/.local/share/bash-completion/completions/tenfold

    Args:
        shell: The shell to write for.
    """
    app = _list_commands(OWN_COMMANDS, ())
    for room in SYSTEMS:
        if room.state == "works":
            app.command(_list_commands(_load(room), ()), name=room.name)
    app.cli(prog="tenfold", args=["--tyro-print-completion", shell], config=HOW_TO_PARSE)


OWN_COMMANDS: Commands = {"demo": demo, "reproduce": reproduce, "info": info, "completion": completion}


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0 is done; 1 failed; 2 bad input or bad arguments; 130 interrupted; 141 the reader of our
    output went away; 143 a training was ended, and saved. Whatever goes wrong is one line on
    stderr; `TENFOLD_TRACEBACK=1` in the environment adds where it happened.

    Args:
        args: The arguments after `tenfold`, by default those of this process.
    """
    try:
        _run(list(sys.argv[1:] if args is None else args))
        sys.stdout.flush()
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", 130)
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # the last line of defence: nobody wants to read a traceback
        return _fail(f"{type(error).__name__}: {error}", 1)
    return 0


def _fail(message: str, status: int) -> int:
    if os.environ.get("TENFOLD_TRACEBACK") == "1":
        traceback.print_exc()
    print("tenfold:", " ".join(message.split()), file=sys.stderr)
    return status


def _run(args: list[str]) -> None:
    if args == ["--version"]:
        print(f"tenfold {__version__}")
        return
    room = next((room for room in SYSTEMS if args and room.name == args[0].replace("-", "_")), None)
    if room is None:
        _dispatch("tenfold", OWN_COMMANDS, SYSTEMS, WELCOME, args)
        return
    about = f"{room.title}: {room.summary}."
    with _explained(room):
        _dispatch(f"tenfold {room.name}", _load(room), (), about, args[1:])


def _load(room: System) -> Commands:
    """The verbs of a room, from their file and without the room's package, which may import much."""
    if room.state == "planned":
        raise InputError(f"{room.name}: this room is planned and has no commands yet")
    name = f"tenfold.{room.name}.commands"
    module = sys.modules.get(name)
    if module is None:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(room.name) / "commands.py")
        if spec is None or spec.loader is None:
            raise ImportError(f"{name} cannot be loaded; install Tenfold again")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    commands: Commands = module.COMMANDS
    return commands


@contextmanager
def _explained(room: System) -> Iterator[None]:
    """Say which extra brings a package that is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "tenfold").partition(".")[0] == "tenfold":
            raise
        raise InputError(f"{room.name} needs {error.name}; pip install 'tenfold[{room.extra}]'") from error


def _dispatch(prog: str, commands: Commands, rooms: Sequence[System], about: str, args: list[str]) -> None:
    """Call the verb that `args` begins with, or list what there is."""
    if args and args[0] in commands:
        verb = args[0]
        tyro.cli(commands[verb], prog=f"{prog} {verb}", args=args[1:], config=HOW_TO_PARSE)
        return
    app = _list_commands(commands, rooms)
    app.cli(prog=prog, description=about, args=args or ["--help"], config=HOW_TO_PARSE)


def _list_commands(commands: Commands, rooms: Sequence[System]) -> SubcommandApp:
    """Make the command tree of one level, with one line of help each.

    Rooms appear in it by name only: a call of one of their verbs never comes here.
    """

    def enter_room() -> None:
        raise NotImplementedError

    app = SubcommandApp()
    for room in rooms:
        state = "" if room.state == "works" else " (planned)"
        app.command(name=room.name, help=f"{room.summary}{state}")(enter_room)
    for name, function in commands.items():
        app.command(name=name, help=(function.__doc__ or "").partition("\n")[0])(function)
    return app
