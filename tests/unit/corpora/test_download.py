"""`data download` against our own server: cut off, corrupted, full disk, mirrors, unpacking."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rayasr.config import CorpusConfig
from rayasr.corpora import download
from rayasr.corpora.download import AISHELL, Archive, download_aishell
from rayasr.corpora.read import read_corpora
from rayasr.errors import DataError
from tests.factories import make_aishell_corpus


class Server:
    """Serves byte strings with ranges; `faults` are taken one per request, from the front."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.requests.append((request.path, wanted))
        fault = self.faults.pop(0) if self.faults else ""
        content = self.files.get(request.path.lstrip("/"))
        if content is None or fault == "404":
            request.send_error(404)
            return
        total, start = len(content), 0
        if wanted and fault != "no ranges":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            request.send_response(200)
        body = content[start:]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if fault == "cut":
            body = body[: len(body) // 2]
        elif fault == "corrupt":
            body = body[:100] + bytes([body[100] ^ 1]) + body[101:]
        request.wfile.write(body)

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> bytes:
    """An archive in the published form: one .tar.gz per speaker inside."""
    folder = make_aishell_corpus(tmp_path_factory.mktemp("published"), train=4, dev=2, test=2)
    wav = folder / "data_aishell" / "wav"
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as tar:
        tar.add(folder / "data_aishell" / "transcript", arcname="data_aishell/transcript")
        for speaker in sorted(wav.glob("*/*")):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w:gz") as inner_tar:
                inner_tar.add(speaker, arcname=f"{speaker.parent.name}/{speaker.name}")
            add(tar, f"data_aishell/wav/{speaker.name}.tar.gz", inner.getvalue())
    return sink.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, len(content)
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        member.linkname, member.size = content.decode(), 0
    tar.addfile(member, io.BytesIO(content))


def archive_of(content: bytes, md5: bool = True) -> Archive:
    return Archive(
        name="data_aishell.tgz",
        size=len(content),
        md5=hashlib.md5(content).hexdigest() if md5 else None,
        unpacked=10 * len(content),
        expected=("data_aishell/transcript/aishell_transcript_v0.8.txt", "data_aishell/wav/train"),
    )


class Run:
    """One call of download_aishell, with what it said."""

    def __init__(self, folder, content, *servers, **options) -> None:
        self.notes: list[str] = []
        self.progress: list[tuple[str, float, float]] = []
        self.pauses: list[float] = []
        self.folder = folder
        self._options = {"archives": [archive_of(content)], **options}
        self._urls = [server.url if isinstance(server, Server) else server for server in servers]

    def __call__(self):
        return download_aishell(
            self.folder,
            base_urls=self._urls,
            notes=self.notes.append,
            progress=lambda *values: self.progress.append(values),
            pause=self.pauses.append,
            **self._options,
        )


def check_corpus(folder):
    corpora = [CorpusConfig(path=str(folder))]
    manifest = read_corpora(corpora, dev_fraction=0.1, seed=1, notes=lambda _: None)
    assert len(manifest.utterances) == 8
    assert not manifest.rejects
    assert (folder / "data_aishell" / ".complete").exists()


def test_fetch_check_unpack_and_rerun(tmp_path, server, published):
    server.files["data_aishell.tgz"] = published
    run = Run(tmp_path / "corpus", published, server)
    assert run() == tmp_path / "corpus"
    check_corpus(run.folder)
    stages = dict.fromkeys(what for what, _, _ in run.progress)
    assert list(stages) == [
        "download data_aishell.tgz",
        "check data_aishell.tgz",
        "unpack data_aishell.tgz",
    ]
    assert all(done <= total == len(published) for _, done, total in run.progress)
    run()
    assert len(server.requests) == 1
    assert "is there and complete" in run.notes[-1]


def test_cut_off_in_the_middle_goes_on_with_a_range(tmp_path, server, published):
    server.files["data_aishell.tgz"] = published
    server.faults = ["cut"]
    run = Run(tmp_path, published, server)
    run()
    check_corpus(tmp_path)
    half = len(published) // 2
    assert server.requests[1:] == [("/data_aishell.tgz", f"bytes={half}-")]
    assert f"ended after {half} of {len(published)} bytes" in run.notes[0]


def test_a_stopped_command_goes_on_where_it_was(tmp_path, server, published):
    server.files["data_aishell.tgz"] = published
    (tmp_path / "data_aishell.tgz.partial").write_bytes(published[:1234])
    Run(tmp_path, published, server)()
    check_corpus(tmp_path)
    assert server.requests == [("/data_aishell.tgz", "bytes=1234-")]


def test_a_server_without_ranges_sends_all_again(tmp_path, server, published):
    server.files["data_aishell.tgz"] = published
    server.faults = ["no ranges"]
    (tmp_path / "data_aishell.tgz.partial").write_bytes(b"x" * 1234)
    Run(tmp_path, published, server)()
    check_corpus(tmp_path)


@pytest.mark.parametrize("md5", [True, False])
def test_a_corrupted_archive_is_refused_and_fetched_again(tmp_path, server, published, md5):
    server.files["data_aishell.tgz"] = published
    server.faults = ["corrupt"]
    run = Run(tmp_path, published, server, archives=[archive_of(published, md5)])
    run()
    check_corpus(tmp_path)
    assert len(server.requests) == 2
    assert "is damaged" in run.notes[0]
    assert "fetched again" in run.notes[0]


def test_corrupted_twice_is_an_error(tmp_path, server, published):
    server.files["data_aishell.tgz"] = published
    server.faults = ["corrupt", "corrupt"]
    with pytest.raises(DataError, match=r"damaged \(its MD5 is .*--base-url"):
        Run(tmp_path, published, server)()
    assert not (tmp_path / "data_aishell").exists()
    assert not (tmp_path / "data_aishell.tgz").exists()


def test_a_full_disk_is_named_before_the_start(tmp_path, server, published, monkeypatch):
    server.files["data_aishell.tgz"] = published
    monkeypatch.setattr(download, "free_bytes", lambda _: len(published))
    with pytest.raises(DataError, match=r"needs 0\.\d GB .* has 0\.0 GB free; choose a folder"):
        Run(tmp_path, published, server)()
    assert server.requests == []


def test_mirrors_are_tried_in_order(tmp_path, server, published):
    other = Server()
    try:
        server.files["data_aishell.tgz"] = published + b"longer"
        other.files["data_aishell.tgz"] = published
        run = Run(tmp_path, published, "http://127.0.0.1:1", server, other)
        run()
        check_corpus(tmp_path)
        assert "cannot be reached" in run.notes[0]
        assert f"not the published {len(published)}" in run.notes[1]
        assert len(server.requests) == len(other.requests) == 1
        assert run.pauses == []
    finally:
        other.close()


def test_no_mirror_answers(tmp_path, server, published):
    run = Run(tmp_path, published, server)
    with pytest.raises(DataError, match=r"cannot download .*answers 404 .*run this again"):
        run()
    assert len(server.requests) == download.ROUNDS
    assert run.pauses == [5.0, 10.0]


def test_an_archive_that_is_there_is_not_fetched(tmp_path, server, published):
    (tmp_path / "data_aishell.tgz").write_bytes(published)
    run = Run(tmp_path, published, server, keep_archives=False)
    run()
    check_corpus(tmp_path)
    assert server.requests == []
    assert not (tmp_path / "data_aishell.tgz").exists()


def test_unpacking_goes_on_after_a_stop(tmp_path, server, published):
    (tmp_path / "data_aishell.tgz").write_bytes(published)
    run = Run(tmp_path, published, server)
    run()
    (tmp_path / "data_aishell" / ".complete").unlink()
    files = sorted((tmp_path / "data_aishell" / "wav").rglob("*.wav"))
    files[0].unlink()
    kept = files[1].stat().st_mtime_ns
    run()
    check_corpus(tmp_path)
    assert files[1].stat().st_mtime_ns == kept


def test_what_is_unpacked_already_needs_no_room_again(tmp_path, server, published, monkeypatch):
    (tmp_path / "data_aishell.tgz").write_bytes(published)
    Run(tmp_path, published, server)()
    files = [path for path in (tmp_path / "data_aishell").rglob("*") if path.is_file()]
    archive = replace(archive_of(published), unpacked=sum(path.stat().st_size for path in files))
    (tmp_path / "data_aishell" / ".complete").unlink()
    wav = next(path for path in files if path.suffix == ".wav")
    size = wav.stat().st_size
    wav.rename(wav.with_name(f".{wav.name}.123"))  # what a killed command leaves
    run = Run(tmp_path, published, server, archives=[archive])
    monkeypatch.setattr(download, "free_bytes", lambda _: size - 1)
    with pytest.raises(DataError, match="free some space"):
        run()
    monkeypatch.setattr(download, "free_bytes", lambda _: size)
    run()
    check_corpus(tmp_path)


def test_speaker_archives_unpacked_by_hand_need_no_network(tmp_path, server, published):
    with tarfile.open(fileobj=io.BytesIO(published)) as tar:
        tar.extractall(tmp_path, filter="data")
    run = Run(tmp_path, published, server)
    run()
    check_corpus(tmp_path)
    assert server.requests == []
    assert "unpacking 6 speaker archives that are there" in run.notes[0]


def test_a_corpus_of_another_origin_is_not_touched(tmp_path, server, published):
    make_aishell_corpus(tmp_path, train=1, dev=0, test=0)
    with pytest.raises(DataError, match="use it as it is"):
        Run(tmp_path, published, server)()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("/tmp/evil.txt", b"x", tarfile.REGTYPE),
        ("data_aishell/../../evil.txt", b"x", tarfile.REGTYPE),
        ("data_aishell/link", b"/etc", tarfile.SYMTYPE),
        ("data_aishell/link", b"../../evil.txt", tarfile.LNKTYPE),
        ("data_aishell/pipe", b"", tarfile.FIFOTYPE),
    ],
)
@pytest.mark.parametrize("inside_a_speaker", [False, True])
def test_unsafe_members_are_refused(tmp_path, name, content, kind, inside_a_speaker):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as tar:
        add(tar, name, content, kind)
    if inside_a_speaker:
        inner, sink = sink, io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w:gz") as tar:
            add(tar, "data_aishell/wav/S0002.tar.gz", inner.getvalue())
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "data_aishell.tgz").write_bytes(sink.getvalue())
    with pytest.raises(DataError, match=r"refused$"):
        Run(folder, sink.getvalue())()
    assert not [path for path in tmp_path.rglob("*") if path.name in ("evil.txt", "link", "pipe")]


def test_archive_without_what_is_expected(tmp_path, server, published):
    archive = replace(archive_of(published), expected=("data_aishell/lexicon.txt",))
    (tmp_path / "data_aishell.tgz").write_bytes(published)
    with pytest.raises(DataError, match=r"lacks data_aishell/lexicon\.txt after unpacking"):
        Run(tmp_path, published, server, archives=[archive])()


def test_published_archives():
    assert [archive.name for archive in AISHELL] == ["data_aishell.tgz", "resource_aishell.tgz"]
    assert all(len(archive.md5 or "") == 32 for archive in AISHELL)
