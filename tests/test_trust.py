"""What ``verify`` runs, when it stops, and what it refuses to run (docs/export.md, "Trust")."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

import networks
from radixpoint.cli.main import main
from radixpoint.errors import ExportError
from radixpoint.export import export_network, verify_export
from radixpoint.export.tools import run_tool, time_limit, tool
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize

pytestmark = pytest.mark.slow("it compiles")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph = networks.mixed()
    folder = tmp_path_factory.mktemp("trust") / "c"
    export_network(quantize(graph, networks.calibrated(graph), Design.separate(6, 9)), "c", folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "c"))


def test_strict_takes_what_was_exported(folder: Path) -> None:
    assert verify_export(folder, strict=True).mismatch is None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda f: (f / "network.c").write_text((f / "network.c").read_text() + "\n"), "network.c"),
        (lambda f: (f / "parameters.c").unlink(), "parameters.c"),
        (lambda f: (f / "stdint.h").write_text("#error mine\n"), "stdint.h"),
        (lambda f: (f / "deep").mkdir() or (f / "deep" / "x.c").write_text(""), "deep/x.c"),
        (lambda f: (f / "link").symlink_to("/etc/passwd"), "link"),
        (lambda f: (f / "network.c").rename(f / "n") or (f / "network.c").symlink_to(f / "n"), "n"),
    ],
)
def test_strict_refuses_what_was_not(  # type: ignore[no-untyped-def]
    folder: Path, change, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is compiled; without it, the change is judged by what it computes."""
    change(folder)
    with pytest.raises(ExportError, match=rf"{name} was added or changed since the export"):
        verify_export(folder, strict=True)
    sys.argv = ["radixpoint", "verify", str(folder), "--strict"]
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("path", ["../outside.c", "/etc/passwd", "a/../../outside.c", "", "a\\..\\b", "a\0b"])
def test_paths_of_a_manifest_stay_inside(folder: Path, path: str) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    document["files"][path] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ExportError, match="expected a path inside the folder"):
        verify_export(folder)


def test_links_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "network.c").rename(tmp_path / "elsewhere.c")
    (folder / "network.c").symlink_to(tmp_path / "elsewhere.c")
    with pytest.raises(ExportError, match="leads out of the folder"):
        verify_export(folder)


def test_a_program_without_end_is_stopped(folder: Path) -> None:
    """Planted: an endless loop in the exported program, whose children are stopped too."""
    source = (folder / "network.c").read_text()
    endless = "_t sum = 0; { volatile int spin = 1; while (spin) { } }"
    (folder / "network.c").write_text(source.replace("_t sum = 0;", endless, 1))
    began = time.monotonic()
    with pytest.raises(ExportError, match="not done after 3 seconds: --time-limit"):
        verify_export(folder, seconds=3)
    assert time.monotonic() - began < 60
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ExportError, match="time limit"):
            verify_export(folder, seconds=seconds)


def test_what_a_tool_started_is_stopped_with_it(tmp_path: Path) -> None:
    token = time_limit.set(1.0)
    try:
        with pytest.raises(ExportError, match="not done after 1 seconds"):
            run_tool(["sh", "-c", f"(sleep 6; touch {tmp_path}/late) & wait"], "a tool")
    finally:
        time_limit.reset(token)
    time.sleep(6.5)
    assert not (tmp_path / "late").exists()


def test_compilers_with_options(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -O1 -DMINE=1")
    assert tool("CC", "cc") == ["cc", "-O1", "-DMINE=1"]
    assert verify_export(folder).mismatch is None
    monkeypatch.setenv("CC", "'/no such/gcc' -O1")
    with pytest.raises(ExportError, match=r"CC=.*no such program"):
        verify_export(folder)
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ExportError, match=r"CC='no-such-compiler': no such program"):
        verify_export(folder)
    monkeypatch.setenv("CC", "cc '")
    with pytest.raises(ExportError, match="CC="):
        verify_export(folder)


def test_tools_that_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/no/such/interpreter\n")
    os.chmod(tmp_path / "tool", 0o755)
    with pytest.raises(ExportError, match="cannot be started"):
        run_tool([str(tmp_path / "tool")], "a tool")


def test_images_of_a_folder_that_are_no_images(folder: Path) -> None:
    for content in (b"", b"\x93NUMPY\x01\x00", (folder / "network.safetensors").read_bytes()):
        (folder / "images.npy").write_bytes(content)
        with pytest.raises(ExportError, match=r"images.npy: not readable"):
            verify_export(folder)
    (folder / "images.npy").unlink()
    os.mkfifo(folder / "images.npy")
    with pytest.raises(ExportError, match="no regular file"):
        verify_export(folder)
