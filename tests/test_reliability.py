"""Nothing is lost: kills and full disks at every write, damaged caches, two searches at once, unforeseen
errors.

``docs/reliability.md`` names the test that holds each promise. ``KILLS=500`` makes the number of random
kills what the page reports.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

import kills
import networks
from radixpoint import files
from radixpoint.cli import main as cli
from radixpoint.errors import RunError
from radixpoint.files import is_partial, read_record, sweep, write_record, write_whole
from radixpoint.searching.criterion import Criterion
from radixpoint.searching.task import search

pytestmark = pytest.mark.slow("it starts many processes")

HERE = Path(__file__).parent


def start(folder: Path, kind: str = "none", number: int = 0) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(HERE / "kills.py"), str(folder), kind, str(number)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
    )


def left(run: Path) -> dict[str, bytes]:
    """All that a run folder holds."""
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """What an undisturbed search leaves, and how many moments of writing it has."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = start(folder)
    out, err = process.communicate()
    assert process.returncode == 0, err.decode()[-2000:]
    return left(folder), int(out)


def finish(folder: Path, expected: dict[str, bytes]) -> None:
    """Go on with what is there: the same files, byte for byte, and no part of any."""
    process = start(folder)
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()[-2000:]
    found = left(folder)
    assert found["result.json"] == expected["result.json"]
    assert found.keys() == expected.keys()
    assert found == expected


def test_killed_at_moments_of_every_kind(tmp_path: Path, whole: tuple[dict[str, bytes], int]) -> None:
    """The first and the last files, and some between, at each of their moments; KILLS=all takes every one."""
    expected, moments = whole
    assert moments > 60
    chosen = (
        range(moments)
        if os.environ.get("KILLS") == "all"
        else [*range(5), *range(9, moments - 4, 23), *range(moments - 4, moments)]
    )
    folder = tmp_path / "run"
    for moment in chosen:
        process = start(folder, "kill", moment)
        process.communicate()
        if process.returncode == 0:  # so much is known already that it writes less
            assert left(folder)["result.json"] == expected["result.json"]
            subprocess.run(["rm", "-r", str(folder)], check=True)
            folder = tmp_path / f"run{moment}"
            process = start(folder, "kill", moment)
            process.communicate()
        assert process.returncode == -signal.SIGKILL, moment
    finish(folder, expected)


def test_killed_at_random(tmp_path: Path, whole: tuple[dict[str, bytes], int]) -> None:
    expected, _ = whole
    chance, wanted, done = random.Random(11), int(os.environ.get("KILLS", "6").replace("all", "500")), 0
    folder, number = tmp_path / "run0", 0
    began = time.monotonic()
    finish(folder, expected)
    duration = time.monotonic() - began
    folder = tmp_path / "run1"
    while done < wanted:
        process = start(folder)
        try:
            process.communicate(timeout=chance.uniform(0.3, 1.0) * duration)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            done += 1
            continue
        assert process.returncode == 0
        assert left(folder)["result.json"] == expected["result.json"]
        number += 1
        folder = tmp_path / f"run{number + 1}"
    finish(folder, expected)


def test_a_full_disk_at_every_kind_of_write(tmp_path: Path, whole: tuple[dict[str, bytes], int]) -> None:
    """One line that names the file, status 2, no part of a file left; then it goes on."""
    expected, moments = whole
    folder = tmp_path / "run"
    for moment in (0, 1, 2, 4, 5, 6, *range(8, moments, 17)):
        process = start(folder, "full", moment)
        _, err = process.communicate()
        if process.returncode == 0:
            continue  # it had less to write
        assert b"RunError" in err, err.decode()[-800:]
        assert b"cannot be written: No space left on device" in err
        assert not [p for p in folder.rglob("*") if is_partial(p)], moment
    finish(folder, expected)


def test_damaged_records_are_found_out_again(tmp_path: Path, whole: tuple[dict[str, bytes], int]) -> None:
    """Each file of the cache cut, flipped, emptied, or exchanged for another: warned of, and the same
    result.
    """
    expected, _ = whole
    chance = random.Random(3)
    folder = tmp_path / "run"
    finish(folder, expected)
    records = sorted((folder / "cache").iterdir())
    graph, images, calibration = kills.labelled()
    for number, damage in enumerate(
        (
            lambda data: data[: len(data) // 2],
            lambda data: data[:-1] + bytes([data[-1] ^ 1]),
            lambda data: b"",
            lambda data: data + b" ",
            lambda data: chance.choice(records).read_bytes(),
            lambda data: b"radixpoint record, SHA-256 " + b"0" * 64 + b"\n{}",
        )
    ):
        for record in records:
            record.write_bytes(damage(record.read_bytes()))
        if number % 2:
            (folder / "ranges.npz").write_bytes(damage((folder / "ranges.npz").read_bytes()))
        (folder / "result.json").unlink()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            search(
                graph, images, calibration, folder, Criterion(limit=4.0),
                policies=("joint", "separate"), word_lengths=(6, 8, 10, 12), bn_start=12,
            )  # fmt: skip
        assert any("found out again" in str(w.message) for w in caught) or number == 4
        assert left(folder)["result.json"] == expected["result.json"], number


def test_searches_that_begin_together_on_a_new_folder(
    tmp_path: Path, whole: tuple[dict[str, bytes], int]
) -> None:
    expected, _ = whole
    processes = [start(tmp_path / "run") for _ in range(4)]
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err.decode()[-2000:]
    assert left(tmp_path / "run") == expected


def test_a_folder_with_nothing_but_parts_is_new(tmp_path: Path, whole: tuple[dict[str, bytes], int]) -> None:
    """As a kill before the first renaming leaves it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json@0-1-x.partial").write_bytes(b'{"radix')
    finish(tmp_path / "run", whole[0] | {".run.json@0-1-x.partial": b'{"radix'})


# ------------------------------------------------------------------------------------------------- files


def test_whole_files(tmp_path: Path) -> None:
    write_whole(tmp_path / "f", b"one")
    write_whole(tmp_path / "f", b"two")
    assert left(tmp_path) == {"f": b"two"}
    with pytest.raises(RunError, match="cannot be written"):
        write_whole(tmp_path / "nowhere" / "f", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        write_whole(tmp_path / "folder", b"")
    assert left(tmp_path) == {"f": b"two"}


def test_records(tmp_path: Path) -> None:
    write_record(tmp_path / "a", b"content")
    assert read_record(tmp_path / "a") == b"content"
    (tmp_path / "a").rename(tmp_path / "b")
    assert read_record(tmp_path / "b") is None  # another key's
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    assert read_record(tmp_path / "pipe") is None


def test_records_that_come_and_go_meanwhile(tmp_path: Path) -> None:
    """A file that appears between two looks at it is no damage, one that goes is no irregular file."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads look at the file between each other's system calls
    try:
        with ThreadPoolExecutor(3) as pool:
            for number in range(300):
                path = tmp_path / str(number)
                written = pool.submit(write_record, path, b"content")
                while not written.done() or not path.exists():
                    with suppress(FileNotFoundError):
                        assert read_record(path) == b"content"
                written.result()

            def come_and_go(path: Path) -> None:
                for _ in range(1000):
                    write_record(path, b"")
                    path.unlink(missing_ok=True)

            for going in [pool.submit(come_and_go, tmp_path / "probe") for _ in range(3)]:
                going.result()
    finally:
        sys.setswitchinterval(before)


def test_what_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of processes that have ended here, even if another has their number now, and old ones of other
    machines; not those of others that live.
    """
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        "dead": f".f@{files._node()}-{dead.pid}-x.partial",
        "alive": files.partial_beside(tmp_path / "f").name,
        "of an unknown start": f".f@{files._node()}-{os.getppid()}+-x.partial",
        "number used again": f".f@{files._node()}-{os.getppid()}+1-x.partial",
        "elsewhere": ".f@abc-1-x.partial",
        "long ago": ".g@abc-1-x.partial",
        "no process": f".f@{files._node()}-{10**30}-x.partial",
    }
    for name in names.values():
        (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / names["long ago"], (1, 1))
    (tmp_path / "precious.partial").write_bytes(b"")
    sweep(tmp_path)
    gone = {"dead", "long ago"} | ({"number used again"} if sys.platform == "linux" else set())
    kept = {name for what, name in names.items() if what not in gone}
    assert {p.name for p in tmp_path.iterdir()} == kept | {"precious.partial"}


def test_a_swept_write_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes a part away while it is written: the file is there in the end."""
    synced, taken = os.fsync, list[Path]()

    def sweep_first(handle: int) -> None:
        synced(handle)
        for part in tmp_path.glob(".*.partial"):
            if len(taken) < 2:
                taken.append(part)
                part.unlink()

    monkeypatch.setattr(files.os, "fsync", sweep_first)
    write_whole(tmp_path / "f", b"there")
    assert len(taken) == 2
    assert left(tmp_path) == {"f": b"there"}


def test_many_writers_of_one_file(tmp_path: Path) -> None:
    threads = [
        threading.Thread(
            target=lambda i=i: [*map(write_whole, [tmp_path / "f"] * 20, [bytes([i]) * 1000] * 20)]
        )
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (content,) = left(tmp_path).values()
    assert content in [bytes([i]) * 1000 for i in range(8)]


# ------------------------------------------------------------------------------------------ command line


def command(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from radixpoint.cli.main import main; main()", *map(str, arguments)],
        capture_output=True, text=True, check=False, **more,  # type: ignore[call-overload]
    )  # fmt: skip


def test_what_nobody_foresaw_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planted: a defect. One line, status 2, and a file that tells where."""

    def broken() -> None:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "ZeroDivisionError: one: not foreseen" in said
    (path,) = re.findall(r"; (/\S+) tells where", said)
    assert "in broken" in Path(path).read_text()
    Path(path).unlink()


def test_an_interrupted_search_says_how_to_go_on(tmp_path: Path) -> None:
    graph = networks.residual()
    import onnx

    from radixpoint.measure.float_model import to_onnx

    onnx.save(to_onnx(graph, [graph.output]), tmp_path / "m.onnx")
    program = """
import sys
from radixpoint.cli import inputs, main, search
def interrupted(*arguments, **more):
    raise KeyboardInterrupt
search.task.search = interrupted
inputs.load_images = lambda *a, **more: __import__("networks").images(20, 0, (3, 12, 12), 10)
main.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "search", str(tmp_path / "m.onnx"), "--images", "x",
         "--calibration", "x",
         "--out", str(tmp_path / "run")],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(HERE)},
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert f"what is known is in {tmp_path / 'run'}" in done.stderr
    assert "goes on from there" in done.stderr


def test_progress_where_there_is_no_terminal(tmp_path: Path) -> None:
    """Long work says so: a line for each stage, also in a log."""
    done = command("demo", "--out", tmp_path / "run", "--limit", "20", env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    assert "calibration: 0 of 1,000" in done.stderr
    assert re.search(r"float network: 0 of 10,000", done.stderr)
    assert re.search(r"joint 16 bits.*holds", done.stderr)
    assert str(tmp_path / "run") in done.stdout
    assert json.loads((tmp_path / "run" / "result.json").read_text())["policies"]["joint"]["word_length"]


def test_the_demo_leaves_the_folder_that_it_names(tmp_path: Path) -> None:
    done = command("demo", "--limit", "20", env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("radixpoint-demo-*")
    assert str(folder) in done.stdout.replace("\n", "")
    assert (folder / "result.json").exists()


def test_a_folder_of_records_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    graph, images, calibration = kills.labelled()
    with pytest.raises(RunError, match="cache: cannot be made"):
        search(graph, images, calibration, tmp_path / "run", cache=tmp_path / "cache")
