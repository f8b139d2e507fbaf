"""Other programs' files: the same bytes but for the edit, in any encoding, through links, and refusals that help."""

import codecs
from pathlib import Path

import pytest

from mcp_gateway.config.textfile import FileCode, check_writable, create, read, write
from mcp_gateway.errors import ConfigInvalid

TEXT = '{\r\n  "größe": "日本"\r\n}\r\n'

ENCODINGS = {
    "utf-8": TEXT.encode(),
    "utf-8 with a mark": codecs.BOM_UTF8 + TEXT.encode(),
    "utf-16 little": codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
    "utf-16 big": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-16 without a mark": TEXT.encode("utf-16-le"),
    "utf-16 big without a mark": TEXT.encode("utf-16-be"),
    "utf-32": codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
}


@pytest.mark.parametrize("data", ENCODINGS.values(), ids=ENCODINGS)
def test_a_file_is_written_back_in_the_encoding_it_was_read_in(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    file = read(path)
    assert file is not None
    assert (file.text, file.newline) == (TEXT, "\r\n")
    assert file.encoded(file.text) == data
    assert len(file.encoded(file.text + "x")) > len(data)


def refused(path: Path) -> tuple[str, str]:
    with pytest.raises(ConfigInvalid) as raised:
        read(path)
    [complaint] = raised.value.complaints
    return complaint.code, complaint.message


def test_what_is_no_text_is_refused_with_its_line_and_without_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{\n "a": "\xff\xfesecret"}')
    with pytest.raises(ConfigInvalid) as raised:
        read(path)
    [complaint] = raised.value.complaints
    assert (complaint.code, complaint.line) == (FileCode.ENCODING, 2)
    assert "secret" not in str(complaint)


def test_a_missing_file_is_none_and_a_folder_or_a_dangling_link_is_refused(tmp_path: Path) -> None:
    assert read(tmp_path / "none") is None
    assert refused(tmp_path)[0] == FileCode.UNREADABLE
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert refused(tmp_path / "link")[0] == FileCode.UNREADABLE


def test_a_link_is_written_through_and_the_mode_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "dotfiles" / "a.json", tmp_path / "a.json"
    target.parent.mkdir()
    target.write_bytes(b"{}")
    target.chmod(0o640)
    link.symlink_to(target)
    write(link, b"{ }")
    assert link.is_symlink()
    assert target.read_bytes() == b"{ }"
    assert target.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in target.parent.iterdir()] == ["a.json"]


def test_a_read_only_file_is_refused_even_where_we_could_write_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"{}")
    path.chmod(0o444)
    for attempt in (lambda: check_writable(path), lambda: write(path, b"x")):
        with pytest.raises(ConfigInvalid) as raised:
            attempt()
        [complaint] = raised.value.complaints
        assert (complaint.code, complaint.fix) == (FileCode.READ_ONLY, f"chmod u+w {path}")
    assert path.read_bytes() == b"{}"


def test_a_new_file_is_its_owner_s_alone_and_never_takes_the_place_of_another(tmp_path: Path) -> None:
    write(tmp_path / "new" / "a.json", b"x")
    assert (tmp_path / "new" / "a.json").stat().st_mode & 0o777 == 0o600
    create(tmp_path / "b", "one")
    with pytest.raises(ConfigInvalid, match="is there already"):
        create(tmp_path / "b", "two")
    assert (tmp_path / "b").read_text() == "one"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigInvalid) as raised:
        write(tmp_path / "file" / "a.json", b"x")
    assert raised.value.complaints[0].code == FileCode.UNWRITABLE
