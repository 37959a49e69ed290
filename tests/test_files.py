"""Files that users name: modes, links, names that cannot be written, and nothing left behind."""

import os
import stat
from pathlib import Path

import pytest

import fimviz as fv
from fimviz._files import destination, write_whole


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_new_file_gets_what_the_umask_leaves_and_an_old_one_keeps_its_mode(tmp_path, umask):
    write_whole(tmp_path / "new", "a")
    assert mode(tmp_path / "new") == 0o666 & ~umask
    for kept in (0o600, 0o664, 0o755):
        (tmp_path / "own").touch()
        (tmp_path / "own").chmod(kept)
        write_whole(tmp_path / "own", "ü")
        assert mode(tmp_path / "own") == kept
    assert (tmp_path / "own").read_text(encoding="utf-8") == "ü"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "own"]


def test_links_stay_links(tmp_path):
    (tmp_path / "web").mkdir()
    for place, link in (("web/page.html", "link"), ("web/later.html", "to nothing yet")):
        (tmp_path / link).symlink_to(place)
    (tmp_path / "web" / "page.html").write_text("old")
    (tmp_path / "twice").symlink_to("link")
    for link in ("twice", "to nothing yet"):
        write_whole(tmp_path / link, link)
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / link).read_text() == link
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="leads to itself"):
        destination(tmp_path / "loop")
    (tmp_path / "away").symlink_to(tmp_path / "no" / "page.html")
    with pytest.raises(FileNotFoundError, match=r"no' does not exist: create it first"):
        destination(tmp_path / "away")


def test_what_cannot_be_written_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert destination("~/view.html") == tmp_path / "view.html"
    assert destination("~/" + "n" * 250 + ".html").parent == tmp_path
    write_whole("~/" + "n" * 250 + ".html", "as long as a name can be")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for path, error, said in (
        (tmp_path, IsADirectoryError, "is a folder, expected the name of a file in it"),
        ("", IsADirectoryError, "is a folder"),
        (tmp_path / "pipe", OSError, "is a device or pipe"),
        ("/dev/null", OSError, "is a device or pipe"),
        (tmp_path / "no" / "a.html", FileNotFoundError, "create it first"),
        (tmp_path / "file" / "a.html", NotADirectoryError, "is a file, expected a folder"),
        (tmp_path / ("n" * 251 + ".html"), OSError, "has 256 characters, too long for a file"),
        ("~nobody-of-this-name/a.html", FileNotFoundError, "home folder"),
        (7, TypeError, "the path is a int, expected the name of a file"),
    ):
        with pytest.raises(error, match=said):
            write_whole(path, "never")
    if os.getuid():  # for root nothing is write-protected
        (tmp_path / "file").chmod(0o444)
        with pytest.raises(PermissionError, match="write-protected"):
            destination(tmp_path / "file")


def test_a_view_knows_before_it_is_made_that_it_cannot_be_saved(tmp_path, monkeypatch):
    images, _ = fv.zoo.digits()
    s = fv.spectrum(fv.zoo.load("digits-mlp"), images[:1])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert s.save("~/a.html") == tmp_path / "a.html"
    assert (tmp_path / "a.html").read_text().endswith("</html>\n")
    monkeypatch.setattr(fv.Spectrum, "view", lambda self: pytest.fail("work was done in vain"))
    with pytest.raises(IsADirectoryError):
        s.save(tmp_path)
    assert [p.name for p in Path(tmp_path).iterdir()] == ["a.html"]
