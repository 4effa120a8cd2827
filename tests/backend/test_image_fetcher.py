"""Fetching against a real HTTP server that behaves as Label Studio's, and worse."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from backend.errors import FetchError
from backend.image_fetcher import ImageFetcher, is_public
from backend.settings import Settings
from usam.errors import ImageError

LEGACY = "0123456789abcdef0123456789abcdef01234567"


def jwt(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJIUzI1NiJ9.{body}.c2ln"


PERSONAL = jwt(token_type="refresh", exp=9e9, iat=1)


def png(width: int = 8, height: int = 6, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height), 200 if mode == "L" else (200, 10, 10)).save(out, "PNG")
    return out.getvalue()


@dataclass
class Site:
    """A server with pages, and what it was asked."""

    port: int = 0
    pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": "image/png", "Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def page(body: bytes, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, body, status, **headers)


def redirect(url: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return page(b"", 302, Location=url)


@pytest.fixture
def sites() -> Iterator[Callable[[], Site]]:
    servers: list[ThreadingHTTPServer] = []

    def start() -> Site:
        site = Site()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.seen.append((self.path, self.headers.get("Authorization", "")))
                site.pages.get(urlsplit(self.path).path, page(b"", 404))(self)

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                self.body = self.rfile.read(length)
                site.seen.append((self.path, self.headers.get("Authorization", "")))
                site.pages.get(urlsplit(self.path).path, page(b"", 404))(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        site.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return site

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def label_studio(sites: Callable[[], Site]) -> Site:
    return sites()


def fetcher(site: Site | None = None, key: str = LEGACY, **settings: object) -> ImageFetcher:
    given = {"label_studio_url": site.url if site else "", "label_studio_api_key": key, "fetch_seconds": 5}
    return ImageFetcher(Settings(**given | settings))


@pytest.mark.parametrize("path", ["/data/upload/2/23f4-im.png", "/data/local-files/?d=local/n%C3%A4me%20%26x.png"])
@pytest.mark.parametrize("absolute", [True, False])
def test_label_studio_paths_are_asked_with_the_token(label_studio: Site, path: str, absolute: bool) -> None:
    label_studio.pages[urlsplit(path).path] = page(png())
    image = fetcher(label_studio).fetch(label_studio.url + path if absolute else path)
    assert image.shape == (6, 8, 3)
    assert label_studio.seen == [(path, f"Token {LEGACY}")]


def test_alias_is_asked_at_the_one_address(label_studio: Site) -> None:
    label_studio.pages["/data/upload/1/a.png"] = page(png())
    given = fetcher(label_studio, label_studio_aliases=("http://studio.example:8080",))
    assert given.fetch("http://studio.example:8080/data/upload/1/a.png").shape == (6, 8, 3)


@pytest.mark.parametrize("value", ["/label-studio/data/upload/1/a.jpg", "/data/upload/1/a.jpg", "absolute", "alias"])
def test_a_path_prefix_is_neither_lost_nor_doubled(label_studio: Site, value: str) -> None:
    path = "/label-studio/data/upload/1/a.jpg"
    label_studio.pages[path] = page(png())
    names = {"absolute": label_studio.url + path, "alias": f"http://studio.example{path}"}
    aliases = ("http://studio.example",)
    given = fetcher(label_studio, label_studio_url=f"{label_studio.url}/label-studio", label_studio_aliases=aliases)
    assert given.fetch(names.get(value, value)).shape == (6, 8, 3)
    assert label_studio.seen == [(path, f"Token {LEGACY}")]


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        ("/data/local-files/?d=holiday 2024/plain (8).jpg", "/data/local-files/?d=holiday%202024/plain%20(8).jpg"),
        ("/data/upload/2/Dog (8).jpg", "/data/upload/2/Dog%20(8).jpg"),
        ("absolute", "/data/local-files/?d=a%20b.jpg"),
    ],
)
def test_spaces_in_label_studios_own_addresses_are_sent_as_browsers_do(
    label_studio: Site, value: str, asked: str
) -> None:
    label_studio.pages[urlsplit(asked).path] = page(png())
    absolute = f"{label_studio.url}/data/local-files/?d=a b.jpg"
    assert fetcher(label_studio).fetch(absolute if value == "absolute" else value).shape == (6, 8, 3)
    assert [path for path, _ in label_studio.seen] == [asked]


@pytest.mark.parametrize(
    "value", ["s3://pictures/Dog (8).jpg", "gs://pictures/a#b?c%20d.jpg", "azure-blob://pictures/Ünï code.jpg"]
)
def test_keys_of_buckets_go_to_label_studio_as_they_are(label_studio: Site, value: str) -> None:
    label_studio.pages["/tasks/3/presign/"] = page(png())
    given = fetcher(label_studio, allowed_buckets=("s3://pictures", "gs://pictures", "azure-blob://pictures"))
    assert given.fetch(value, task_id=3).shape == (6, 8, 3)
    uri = parse_qs(urlsplit(label_studio.seen[0][0]).query)["fileuri"][0]
    assert base64.urlsafe_b64decode(uri).decode() == value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *(
            (value, ".")
            for value in ("s3://pictures /a.png", "s3:///a.png", "azure-blob://a/b", "s3://pictures/\ud800")
        ),
        *(
            (f"{bucket}/a.png", "USAM_ALLOWED_BUCKETS")
            for bucket in ("s3://others", "gs://pictures", "s3://pictures.evil")
        ),
    ],
)
def test_keys_of_no_listed_bucket_are_refused(label_studio: Site, value: str, said: str) -> None:
    with pytest.raises(FetchError, match=said):
        fetcher(label_studio, allowed_buckets=("s3://pictures",)).fetch(value, task_id=3)
    assert label_studio.seen == []


@pytest.mark.parametrize("location", ["http://[", "http://[::1", "http:// a/b.png", "//\\x", "http://a:99999/x"])
def test_a_redirect_to_no_address_is_one_refusal(label_studio: Site, location: str) -> None:
    label_studio.pages["/data/upload/1/a.png"] = redirect(location)
    with pytest.raises(FetchError):
        fetcher(label_studio).fetch("/data/upload/1/a.png")


@pytest.mark.parametrize(
    "path", ["/api/projects/", "/data/../api/users", "/data/%2e%2e/api/users", "/user/logout", "/databank"]
)
def test_label_studio_is_asked_for_data_only(label_studio: Site, path: str) -> None:
    with pytest.raises(FetchError, match="data path"):
        fetcher(label_studio).fetch(path)
    assert label_studio.seen == []


def test_listed_host_gets_no_token(label_studio: Site, sites: Callable[[], Site]) -> None:
    other = sites()
    other.pages["/a.png"] = page(png())
    given = fetcher(label_studio, allowed_hosts=(f"127.0.0.1:{other.port}",))
    assert given.fetch(f"{other.url}/a.png").shape == (6, 8, 3)
    assert other.seen == [("/a.png", "")]


def test_token_does_not_follow_a_redirect_to_a_listed_host(label_studio: Site, sites: Callable[[], Site]) -> None:
    other = sites()
    other.pages["/a.png"] = page(png())
    label_studio.pages["/data/upload/1/a.png"] = redirect(f"{other.url}/a.png")
    given = fetcher(label_studio, allowed_hosts=(f"127.0.0.1:{other.port}",))
    given.fetch("/data/upload/1/a.png")
    assert other.seen == [("/a.png", "")]


def test_redirect_to_an_unlisted_host_is_refused(label_studio: Site, sites: Callable[[], Site]) -> None:
    other = sites()
    other.pages["/a.png"] = page(png())
    label_studio.pages["/data/upload/1/a.png"] = redirect(f"{other.url}/a.png")
    with pytest.raises(FetchError, match="USAM_ALLOWED_HOSTS"):
        fetcher(label_studio).fetch("/data/upload/1/a.png")
    assert other.seen == []


def test_redirects_end(label_studio: Site) -> None:
    label_studio.pages["/data/loop"] = redirect("/data/loop")
    with pytest.raises(FetchError, match="redirects"):
        fetcher(label_studio).fetch("/data/loop")


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:1/a.png",
        "http://2130706433/a.png",
        "http://0x7f.1/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://localhost/a.png",
        "http://studio@evil.example/a.png",
        "http://evil.example\\@studio/a.png",
        "http://exa mple/a.png",
        "file:///etc/passwd",
        "ftp://host/a.png",
        "//evil.example/a.png",
        "gopher://x",
        "a.png",
        "http://host:99999/",
    ],
)
@pytest.mark.parametrize("hosts", [(), ("*",)])
def test_other_addresses_are_refused(label_studio: Site, url: str, hosts: tuple[str, ...]) -> None:
    with pytest.raises(FetchError):
        fetcher(label_studio, allowed_hosts=hosts).fetch(url)
    assert label_studio.seen == []


def test_name_with_a_private_address_is_refused_unless_listed(
    label_studio: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def resolve(host: str, *args: object, **kwargs: object) -> object:
        return real("127.0.0.1" if host == "rebind.example" else host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    label_studio.pages["/a.png"] = page(png())
    url = f"http://rebind.example:{label_studio.port}/a.png"
    with pytest.raises(FetchError, match="private or reserved"):
        fetcher(allowed_hosts=("*",)).fetch(url)
    assert label_studio.seen == []
    assert fetcher(allowed_hosts=("rebind.example",)).fetch(url).shape == (6, 8, 3)


def test_judged_address_is_the_one_that_is_connected_to(label_studio: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name resolves once; the connection goes to the judged address with the name as its Host."""
    import backend.image_fetcher

    monkeypatch.setattr(backend.image_fetcher, "_public_address", lambda host, port: "127.0.0.1")
    hosts = []
    label_studio.pages["/a.png"] = lambda handler: (hosts.append(handler.headers["Host"]), send(handler, png()))[0]
    fetcher(allowed_hosts=("*",)).fetch(f"http://nowhere.invalid:{label_studio.port}/a.png")
    assert hosts == [f"nowhere.invalid:{label_studio.port}"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address: str, expected: bool) -> None:
    assert is_public(address) is expected


def test_bucket_goes_through_presign(label_studio: Site, sites: Callable[[], Site]) -> None:
    cloud = sites()
    cloud.pages["/signed"] = page(png())
    label_studio.pages["/tasks/12/presign/"] = redirect(f"{cloud.url}/signed?signature=1")
    given = fetcher(label_studio, allowed_buckets=("s3://pictures",), allowed_hosts=(f"127.0.0.1:{cloud.port}",))
    assert given.fetch("s3://pictures/a b.png".replace(" ", "%20"), task_id=12).shape == (6, 8, 3)
    path, token = label_studio.seen[0]
    uri = parse_qs(urlsplit(path).query)["fileuri"][0]
    assert base64.urlsafe_b64decode(uri) == b"s3://pictures/a%20b.png"
    assert token == f"Token {LEGACY}"
    assert cloud.seen == [("/signed?signature=1", "")]


def test_presigned_redirect_to_a_private_address_is_refused(label_studio: Site, sites: Callable[[], Site]) -> None:
    inner = sites()
    label_studio.pages["/tasks/12/presign/"] = redirect(f"{inner.url}/secret")
    with pytest.raises(FetchError, match="private or reserved"):
        fetcher(label_studio, allowed_buckets=("s3://pictures",)).fetch("s3://pictures/a.png", task_id=12)
    assert inner.seen == []


def test_data_uris() -> None:
    data = png(4, 3)
    coded = base64.b64encode(data).decode()
    assert fetcher().fetch(f"data:image/png;base64,{coded}").shape == (3, 4, 3)
    with pytest.raises(FetchError, match="comma"):
        fetcher().fetch("data:image/png;base64")
    with pytest.raises(FetchError, match="bytes"):
        fetcher(fetch_bytes=1024).fetch("data:image/png;base64," + "A" * 4096)
    with pytest.raises(ImageError):
        fetcher().fetch("data:text/plain,hello")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (page(b"<html>log in</html>", Content_Type="text/html; charset=utf-8"), "web page"),
        (page(b"\n<!DOCTYPE html><p>log in"), "web page"),
        (page(b"gone", 404), "HTTP 404"),
        (page(b"x" * 2000), "at most 1500 bytes"),
        (page(b"x" * 100, Content_Encoding="gzip"), "compressed"),
    ],
)
def test_answers_that_are_no_image(label_studio: Site, answer: Callable[..., None], said: str) -> None:
    label_studio.pages["/data/a"] = answer
    with pytest.raises(FetchError, match=said):
        fetcher(label_studio, fetch_bytes=1500).fetch("/data/a")


def test_body_without_a_length_is_cut_off(label_studio: Site) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with suppress(OSError):
            while True:
                handler.wfile.write(b"x" * 1000)

    label_studio.pages["/data/endless"] = endless
    with pytest.raises(FetchError, match="at most 5000 bytes"):
        fetcher(label_studio, fetch_bytes=5000).fetch("/data/endless")


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_server_that_drips_is_cut_off(label_studio: Site, part: str) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        if part == "body":
            handler.send_response(200)
            handler.end_headers()
        else:
            handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
        for number in range(200):
            time.sleep(0.05)
            try:
                handler.wfile.write(b"x" if part == "body" else f"X-{number}: 1\r\n".encode())
                handler.wfile.flush()
            except OSError:
                return

    label_studio.pages["/data/drip"] = drip
    started = time.monotonic()
    with pytest.raises(FetchError, match=r"within 0\.5 s"):
        fetcher(label_studio, fetch_seconds=0.5).fetch("/data/drip")
    assert time.monotonic() - started < 3


def test_pixels_are_capped(label_studio: Site) -> None:
    label_studio.pages["/data/big.png"] = page(png(100, 100))
    with pytest.raises(ImageError, match="pixels"):
        fetcher(label_studio, image_pixels=9_999).fetch("/data/big.png")


def test_path_needs_label_studio() -> None:
    with pytest.raises(FetchError, match="LABEL_STUDIO_URL"):
        fetcher().fetch("/data/upload/1/a.png")


def test_message_hides_signatures(label_studio: Site) -> None:
    with pytest.raises(FetchError) as caught:
        fetcher(label_studio).fetch(f"{label_studio.url}/data/none.png?X-Amz-Signature=hush")
    assert "hush" not in str(caught.value)


# tokens


def refresh(site: Site, life: float) -> list[str]:
    """Let a site hand out access tokens of `life` seconds; they are collected in the list that comes back."""
    given: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        assert json.loads(handler.body) == {"refresh": PERSONAL}  # type: ignore[attr-defined]
        given.append(jwt(token_type="access", iat=100, exp=100 + life, n=len(given)))
        send(handler, json.dumps({"access": given[-1]}).encode(), Content_Type="application/json")

    site.pages["/api/token/refresh"] = answer
    return given


def test_dead_access_token_is_renewed_after_a_401(label_studio: Site) -> None:
    given = refresh(label_studio, life=300)

    def image(handler: BaseHTTPRequestHandler) -> None:
        good = handler.headers["Authorization"] == f"Bearer {given[-1]}" and len(given) == 2
        send(handler, png() if good else b"{}", 200 if good else 401)

    label_studio.pages["/data/a.png"] = image
    assert fetcher(label_studio, key=PERSONAL).fetch("/data/a.png").shape == (6, 8, 3)
    assert len(given) == 2


def test_exif_orientation_is_applied(label_studio: Site) -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 9, 3), np.uint8)).save(out, "JPEG", exif=exif)
    label_studio.pages["/data/turned.jpg"] = page(out.getvalue())
    assert fetcher(label_studio).fetch("/data/turned.jpg").shape == (9, 4, 3)
