"""The folder of a campaign's parts appears complete or not at all, and what a killed process left is removed."""

import errno
import fcntl
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stop_pipeline.campaign.output import TEMPORARY_PREFIX, complete_file, complete_folder
from stop_pipeline.errors import CampaignError


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder to be made; afterwards nothing hidden may be beside it."""
    folder = tmp_path / "runs" / "out"
    yield folder
    assert [path.name for path in folder.parent.iterdir() if path != folder] == []


def test_a_folder_appears_with_all_its_files_for_its_owner_only(out: Path) -> None:
    with complete_folder(out) as folder:
        (folder / "clean.csv").write_text("a")
        (folder / "blocked.csv").write_text("b")
        assert not out.exists()
    assert sorted(path.name for path in out.iterdir()) == ["blocked.csv", "clean.csv"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}


def test_an_empty_folder_is_used_and_a_full_one_is_left_alone(out: Path) -> None:
    out.mkdir(parents=True)
    with complete_folder(out) as folder:
        (folder / "clean.csv").write_text("new")
    with pytest.raises(CampaignError, match="is not empty"), complete_folder(out):
        pytest.fail("it was used")
    assert (out / "clean.csv").read_text() == "new"


def test_a_file_in_its_place_is_left_alone(out: Path) -> None:
    out.parent.mkdir()
    out.write_text("a file")
    with pytest.raises(CampaignError, match="is not empty"), complete_folder(out):
        pytest.fail("it was used")
    assert out.read_text() == "a file"


def fail_midway(out: Path, error: BaseException) -> None:
    with complete_folder(out) as folder:
        (folder / "clean.csv").write_text("half")
        raise error


def test_after_a_failure_there_is_nothing(out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_midway(out, KeyboardInterrupt())
    assert not out.exists()


def test_a_full_disk_is_reported_in_one_sentence(out: Path) -> None:
    with pytest.raises(CampaignError, match=r"Cannot write .*: No space left on device\."):
        fail_midway(out, OSError(errno.ENOSPC, "full"))
    assert not out.exists()


FILLING = """
import sys, time
from pathlib import Path
from stop_pipeline.campaign.output import complete_folder
with complete_folder(Path(sys.argv[1])) as folder:
    (folder / "clean.csv").write_text("half")
    print(folder, flush=True)
    time.sleep(600)
"""


@contextmanager
def filling(out: Path) -> Iterator[Path]:
    """The temporary folder that a process is filling, which is killed at the end."""
    with subprocess.Popen([sys.executable, "-c", FILLING, out], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_what_a_living_process_fills_is_left_alone_and_what_a_killed_one_left_is_removed(out: Path) -> None:
    with filling(out.with_name("other")) as left:
        assert left.parent.parent == out.parent
        assert left.parent.name.startswith(TEMPORARY_PREFIX)
        with complete_folder(out):
            pass
        assert (left / "clean.csv").read_text() == "half"
    assert [path.name for path in left.iterdir()] == ["clean.csv"]
    with complete_folder(out) as folder:
        assert set(out.parent.iterdir()) == {folder.parent, out}


def test_only_folders_of_this_program_are_removed(out: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    out.parent.mkdir()
    others = [
        out.with_name(".hidden"),
        out.with_name(f"{TEMPORARY_PREFIX}link"),
        out.with_name(f"{TEMPORARY_PREFIX}file"),
    ]
    others[0].mkdir()
    others[1].symlink_to(tmp_path / "elsewhere")
    others[2].touch()
    with complete_folder(out):
        pass
    assert sorted(out.parent.iterdir()) == sorted([out, *others])
    assert (tmp_path / "elsewhere" / "kept").exists()
    others[0].rmdir()
    others[1].unlink()
    others[2].unlink()


def test_a_file_system_without_locks_will_do(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    left = out.with_name(f"{TEMPORARY_PREFIX}left")
    left.mkdir(parents=True)
    with complete_folder(out) as folder:
        (folder / "clean.csv").touch()
    assert left.exists()  # since nothing shows whether its process is alive
    left.rmdir()
    assert (out / "clean.csv").exists()


def interrupt(file: Path) -> None:
    with complete_file(file) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_a_file_is_replaced_once_the_new_one_is_complete(out: Path) -> None:
    out.parent.mkdir()
    out.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        interrupt(out)
    assert out.read_text() == "old"
    with complete_file(out) as file:
        file.write_text("new")
    assert out.read_text() == "new"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
