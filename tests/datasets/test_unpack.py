import io
import stat
import tarfile
import zipfile

import pytest

from csra_lab.datasets.unpack import unpack
from csra_lab.errors import CsraError


def make_tar(path, *members):
    """Each member is (name, type, link target or content)."""
    with tarfile.open(path, "w") as pack:
        for name, kind, payload in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.mode = 0o6777
            if kind == tarfile.REGTYPE:
                info.size = len(payload)
                pack.addfile(info, io.BytesIO(payload))
            else:
                info.linkname = payload
                pack.addfile(info)
    return path


def file(name, content=b"x"):
    return (name, tarfile.REGTYPE, content)


def make_zip(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            pack.writestr(info, content)
    return path


def test_files_and_folders_come_out(tmp_path):
    make_tar(tmp_path / "a.tar", ("./d", tarfile.DIRTYPE, ""), file("./d/e/one.txt", b"one"), file("two.txt", b"two"))
    make_zip(tmp_path / "a.zip", ("z/", "", stat.S_IFDIR | 0o755), ("z/three.txt", "three", 0))
    unpack(tmp_path / "a.tar", tmp_path / "out", progress=False)
    unpack(tmp_path / "a.zip", tmp_path / "out", progress=False)
    out = tmp_path / "out"
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == [
        "d/e/one.txt",
        "two.txt",
        "z/three.txt",
    ]
    assert (out / "d/e/one.txt").read_bytes() == b"one"
    assert not (out / "two.txt").stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "C:\\evil.txt", "..\\evil.txt"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_members_that_lead_out(tmp_path, name, kind):
    if kind == "tar":
        archive = make_tar(tmp_path / "a.tar", file(name))
    else:
        archive = make_zip(tmp_path / "a.zip", (name, "x", stat.S_IFREG | 0o644))
    with pytest.raises(CsraError, match="leads out of its folder") as caught:
        unpack(archive, tmp_path / "deep" / "out", progress=False)
    assert str(archive) in str(caught.value)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar(tmp_path, kind):
    archive = make_tar(tmp_path / "a.tar", ("link", kind, str(tmp_path)), file("link/evil.txt"))
    with pytest.raises(CsraError, match="'link', a link or device"):
        unpack(archive, tmp_path / "out", progress=False)
    assert not list(tmp_path.rglob("evil.txt"))
    assert list((tmp_path / "out").iterdir()) == []


def test_symlink_in_a_zip(tmp_path):
    archive = make_zip(tmp_path / "a.zip", ("link", "/etc/passwd", stat.S_IFLNK | 0o777))
    with pytest.raises(CsraError, match="'link', a link or device"):
        unpack(archive, tmp_path / "out", progress=False)


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
@pytest.mark.parametrize("cut", [0, 100, 700])
def test_damaged_archives(tmp_path, name, cut):
    make = make_tar if name == "a.tar" else make_zip
    whole = make(tmp_path / name, file("a.txt", b"x" * 5000) if name == "a.tar" else ("a.txt", "x" * 5000, 0))
    whole.write_bytes(whole.read_bytes()[: min(cut, whole.stat().st_size - 30)])
    with pytest.raises(CsraError, match="is damaged"):
        unpack(whole, tmp_path / "out", progress=False)


def test_damaged_bytes_inside_a_zip(tmp_path):
    path = make_zip(tmp_path / "a.zip", ("a.txt", bytes(range(256)) * 100, 0))
    raw = bytearray(path.read_bytes())
    raw[60:90] = b"\xff" * 30
    path.write_bytes(raw)
    with pytest.raises(CsraError, match="is damaged"):
        unpack(path, tmp_path / "out", progress=False)
