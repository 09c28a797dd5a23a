"""Dialects of tables in text files: separators, signs, encodings, compression."""

import bz2
import gzip
import io
import lzma
import sys
import zipfile
from pathlib import Path

import pytest
from containers import NAN, assert_same, ragged

from sympgp.trajectories import Trajectories

TABLE = Trajectories([0, 0.5, 1], [[1, -2], [NAN, 0.25], [1e-3, 4]], units={"q": "rad"})
PLAIN = "time,q [rad],p\n0,1,-2\n0.5,,0.25\n1,1e-3,4\n"
DIALECTS = {
    "commas": PLAIN,
    "commas and blanks": PLAIN.replace(",", " , "),
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "bars": PLAIN.replace(",", "|"),
    "decimal commas": PLAIN.replace(",", ";").replace(".", ","),
    "decimal commas after tabs": PLAIN.replace(",", "\t").replace(".", ","),
    "blanks": " time  q [rad] \t p\n 0 1   -2 \n0.5\tNaN .25  \n1.0 1.e-3\t4\n",
    "a unit with blanks": "time q (rad) p\n0 1 -2\n0.5 NaN .25\n1.0 1.e-3 4\n",
    "quotes": '"time","q [rad]","p"\n"0","1","-2"\n"0.5","","0.25"\n"1","1e-3","4"\n',
    "lines of Windows": PLAIN.replace("\n", "\r\n"),
    "lines of old Macs": "# x\n" + PLAIN.replace("\n", "\r") + "# y\r",
    "no last end of line": PLAIN.strip(),
    "a last separator": PLAIN.replace("\n", ",\n"),
    "a last separator, not of the names": "time,q [rad],p\n0,1,-2,\n0.5,,0.25,\n1,1e-3,4,\n",
    "numpy.savetxt": "# made by hand\n# time q[rad] p\n0 1 -2\n0.5 nan 0.25\n1 1e-3 4\n",
    "other columns": "no;p;note;q(rad);time\n1;-2;a,b;1;0\n2;0.25;#;;0.5\n3;4;;1e-3;1\n",
}


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("text", DIALECTS.values(), ids=DIALECTS)
def test_every_dialect_is_found_out(tmp_path, text):
    assert_same(Trajectories.from_csv(write(tmp_path, text)), TABLE)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (PLAIN.replace(",", ":"), {"sep": ":"}),
        (PLAIN.replace(",", " "), {"sep": ","}),
        (PLAIN.replace(",", "\t"), {"sep": "\t"}),
        ("time q p\n0 1 -2\n0.5 NA 0.25\n1 1e-3 4\n", {"sep": r"\s+"}),
        ("time q p\n0 1 -2\n0.5 NA 0.25\n1 1e-3 4\n", {"sep": " "}),
        ('time,q,p\n0,1,-2\n"0,5",,"0,25"\n1,"0,001",4\n', {"decimal": ","}),
        ("time;q;p\n0;1;-2\n0,500;;0,250\n1;0,001;4\n", {"decimal": ","}),
        ("% x\ntime,q,p\n%y\n0,1,-2\n0.5,,0.25\n1,1e-3,4\n", {"comment": "%"}),
        ("#time,q,p\n0,1,-2\n0.5,,0.25\n1,1e-3,4\n", {"time": "#time", "comment": None}),
        ("Logger 7\nof, 2020\ntime,q,p\n0,1,-2\n0.5,,0.25\n1,1e-3,4\n", {"skiprows": 2}),
    ],
)
def test_a_dialect_can_be_named(tmp_path, text, options):
    path = write(tmp_path, text)
    if options.get("sep") == ",":
        with pytest.raises(ValueError, match=r"time: .*no column 'time', only .*single cell: sep"):
            Trajectories.from_csv(path, **options)
    else:
        data = Trajectories.from_csv(path, units={"q": "rad"}, **options)
        assert_same(data, TABLE)


def test_the_decimal_sign_is_not_guessed_where_it_may_be_one_of_thousands(tmp_path):
    path = write(tmp_path, "time;q;p\n0;1,500;2\n1;2,500;3\n")
    with pytest.raises(ValueError, match="line 2, column 'q': is the comma in '1,500' a decimal"):
        Trajectories.from_csv(path)
    assert Trajectories.from_csv(path, decimal=",").states[0][:, 0].tolist() == [1.5, 2.5]
    with pytest.raises(ValueError, match="expected a number, got '1,500' .decimal=','"):
        Trajectories.from_csv(path, decimal=".")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_an_encoding_is_found_out(tmp_path, encoding):
    path = write(tmp_path, "time,φ [°],p\n0,1,2\n1,2,3\n".encode(encoding))
    data = Trajectories.from_csv(path, q="φ")
    assert data.names == ("φ", "p") and data.units == {"φ": "°"}


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16-be", "utf-8"])
def test_an_encoding_can_be_named(tmp_path, encoding):
    path = write(tmp_path, "time,q [°],p\n0,1,2\n1,2,3\n".encode(encoding))
    assert Trajectories.from_csv(path, encoding=encoding).units == {"q": "°"}


def compressed(folder: Path, kind: str, text: str) -> Path:
    """A compressed file, whose name says nothing of that."""
    if kind == "zip":
        path = folder / "data.csv"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("folder/", "")
            archive.writestr("folder/data.csv", text)
        return path
    module = {"gzip": gzip, "bz2": bz2, "xz": lzma}[kind]
    return write(folder, module.compress(text.encode("utf-16")))


@pytest.mark.parametrize("kind", ["gzip", "bz2", "xz", "zip"])
@pytest.mark.parametrize("said", [False, True])
def test_compressed_files_are_read(tmp_path, kind, said):
    path = compressed(tmp_path, kind, PLAIN)
    options = {"compression": kind} if said else {}
    assert_same(Trajectories.from_csv(path, **options), TABLE)
    with path.open("rb") as file:
        assert_same(Trajectories.from_csv(file, **options), TABLE)
    with pytest.raises(ValueError, match="binary data|text in UTF"):
        Trajectories.from_csv(path, compression=None)


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zip"])
def test_compressed_files_are_written(tmp_path, suffix):
    path = tmp_path / f"data.csv{suffix}"
    ragged().to_csv(path)
    roles = {"q": ["x", "y"], "p": ["px", "py"], "u": "force"}
    assert_same(Trajectories.from_file(path, **roles), ragged())
    assert path.read_bytes().startswith(b"trajectory,") == (suffix == "")


ZSTD_MODULES = ("compression.zstd", "backports.zstd", "zstandard")
ZSTD = b"\x28\xb5\x2f\xfd"


class Zstd:
    """What a module for this format offers, with a file that stands for the table."""

    ZstdError = ArithmeticError

    @staticmethod
    def decompress(content: bytes) -> bytes:
        if content != ZSTD + b"whole":
            raise ArithmeticError("no end")
        return PLAIN.encode()


def test_zstandard_is_read_where_python_can(tmp_path, monkeypatch):
    path = write(tmp_path, ZSTD + b"whole")
    for name in ZSTD_MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"data\.csv: .*zstd, got .*pip install zstandard"):
        Trajectories.from_csv(path)
    monkeypatch.setitem(sys.modules, ZSTD_MODULES[1], Zstd)
    assert_same(Trajectories.from_csv(path), TABLE)
    with pytest.raises(ValueError, match="a whole file compressed with zstd, got no end"):
        Trajectories.from_csv(write(tmp_path, ZSTD + b"half"))


def test_zstandard_is_read_and_written_by_its_package(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    ragged().to_csv(tmp_path / "data.csv.zst")
    roles = {"q": ["x", "y"], "p": ["px", "py"], "u": "force"}
    assert_same(Trajectories.from_csv(tmp_path / "data.csv.zst", **roles), ragged())
    compress = zstandard.ZstdCompressor().compress
    frames = compress(PLAIN[:20].encode()) + compress(PLAIN[20:].encode())
    assert_same(Trajectories.from_csv(write(tmp_path, frames)), TABLE)
    with pytest.raises(ValueError, match="a whole file compressed with zstd, got"):
        Trajectories.from_csv(write(tmp_path, frames[:-5]))


def test_open_files_are_read(tmp_path):
    assert_same(Trajectories.from_csv(io.StringIO(PLAIN)), TABLE)
    assert_same(Trajectories.from_csv(io.BytesIO(PLAIN.encode())), TABLE)
    path = write(tmp_path, PLAIN)
    with path.open() as file:
        assert_same(Trajectories.from_csv(file), TABLE)
    assert_same(Trajectories.from_csv(str(path)), TABLE)
    with pytest.raises(ValueError, match="the open file, line 2, column 'p': .*got 'x'"):
        Trajectories.from_csv(io.StringIO("time,q,p\n0,1,x\n"))


HEAD_AGAIN = "time,q,p\n0,1,2\n1,1,2\n\ntime,q,p\n0,1,2\ntime,q,p\n"
BAD_DIALECTS = {
    "names again": (HEAD_AGAIN, {}, "line 5: the columns are named again .in 2 lines of .*concat"),
    "a line of units": ("time,q,p\ns,m,N\n0,1,2\n", {}, "line 2, column 'time': .*got 's' .units"),
    "a date": ("time,q,p\n2024-05-01 10:00,1,2\n", {}, "line 2, .*got '2024-05.*pandas.read_csv"),
    "a later header": (
        "Logger: 7\n\ntime;q;p\n0;1;2\n",
        {},
        "time: .*no column 'time', only 'Logger:', '7' .line 3 names the columns: skiprows=2",
    ),
    "capitals": ("Time,q,p\n0,1,2\n", {}, r"no column 'time', only .*\(did you mean 'Time'\?\)"),
    "close": ("time,angel [m],p\n", {"q": "angle"}, r"did you mean 'angel \[m\]'\?"),
    "two units": ("time,q [m],q [cm],p\n", {}, r"q: .* 2 columns named 'q': 'q \[m\]', 'q \[cm\]'"),
    "mixed decimals": ("time;q;p\n0;1.5;2\n1;1,5;3\n", {}, "line 2, column 'q': .*got '1.5'"),
    "both signs": ("time;q;p\n0;1.000,5;2\n1;1,5;3\n", {}, "line 2, column 'q': .*'1.000,5'"),
    "a wrong separator": ("time,q,p\n0;1;2\n", {}, "line 2: expected 3 cells .*got 1"),
    "utf-16 without a mark": (PLAIN.encode("utf-16-le"), {}, "unless encoding='utf-16-le' reads"),
    "latin-1": ("time,q,p\n\n0,1,°".encode("latin-1"), {}, "line 3: .*0xb0; try encoding='cp1252'"),
    "not ascii": (
        "time,q,p\n0,1,2 °",
        {"encoding": "ascii"},
        "line 2: expected text in ASCII",
    ),
    "half a file": (gzip.compress(PLAIN.encode())[:-9], {}, "expected a whole file .* gzip, got"),
    "half an archive": (b"PK\x03\x04---", {}, "expected a whole file compressed with zip, got"),
    "not compressed": (PLAIN, {"compression": "bz2"}, "a whole file compressed with bz2, got"),
}


@pytest.mark.parametrize(("text", "options", "message"), BAD_DIALECTS.values(), ids=BAD_DIALECTS)
def test_a_bad_dialect_is_refused_with_the_place(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        Trajectories.from_csv(write(tmp_path, text), **options)
    assert str(tmp_path / "data.csv") in str(caught.value)


def test_an_archive_of_several_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("a.csv", PLAIN)
        archive.writestr("b.csv", PLAIN)
    with pytest.raises(ValueError, match=r"data\.zip: .*zip, got an archive of 2 files where one"):
        Trajectories.from_csv(tmp_path / "data.zip")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sep": ",,"}, "sep: expected a single character.*got ',,'"),
        ({"sep": ""}, "sep: expected a single character"),
        ({"sep": "\n"}, "sep: expected a single character"),
        ({"decimal": ";"}, "decimal: expected '.', ',' or None, got ';'"),
        ({"comment": ""}, "comment: expected a sign such as '#', or None, got ''"),
        ({"skiprows": -1}, "skiprows: expected a number of lines, got -1"),
        ({"encoding": "utf-99"}, "encoding: expected the name of a text encoding, got .*utf-99"),
        ({"encoding": "hex"}, "encoding: expected the name of a text encoding, got .*hex"),
        ({"compression": "rar"}, "compression: expected 'infer', None or one of gzip.*got 'rar'"),
    ],
)
def test_bad_options_are_refused_before_the_file_is_opened(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Trajectories.from_csv(tmp_path / "missing.csv", **options)
