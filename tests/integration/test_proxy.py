"""deploy/nginx.conf as it stands, before a real service, with a certificate of its own."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from backend.local.processes import free_port
from tests.backend.web.lone_service import lone_service

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
NAME = "usam.example.org"
USER, PASSWORD = "label-studio", "a-password"
MIB = 2**20


@dataclass(frozen=True)
class Proxy:
    """Where it listens, and the file with the certificate that it shows."""

    plain: int
    secure: int
    certificate: Path

    def ask(self, method: str, path: str, *, name: str = NAME, user: str = USER, **more: object) -> httpx.Response:
        """A request over TLS, under a name."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.check_hostname = False
        auth = (user, PASSWORD) if user else None
        with httpx.Client(verify=context, trust_env=False, auth=auth, timeout=60) as client:
            headers = {"Host": NAME, "Content-Type": "application/json"} | dict(more.pop("headers", {}))  # type: ignore[call-overload]
            extensions = {"sni_hostname": name}
            url = f"https://127.0.0.1:{self.secure}{path}"
            return client.request(method, url, headers=headers, extensions=extensions, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    openssl = shutil.which("openssl")
    if nginx is None or openssl is None:
        pytest.skip("needs nginx and openssl (Debian: apt-get install nginx-light openssl)")
    folder = tmp_path_factory.mktemp("proxy")
    key, certificate = folder / "usam.key", folder / "usam.pem"
    subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", certificate]
    subprocess.run([openssl, *made, *subject], check=True, capture_output=True)
    plain, secure = free_port(0), free_port(0)
    data = folder / "data"
    data.mkdir()
    with lone_service(data, hosts=NAME, auth_user=USER, auth_password=PASSWORD) as service:
        text = (ROOT / "deploy" / "nginx.conf").read_text()
        for old, new in {
            "listen 80;": f"listen 127.0.0.1:{plain};",
            "listen 443 ssl": f"listen 127.0.0.1:{secure} ssl",
            "/etc/ssl/certs/usam.pem": str(certificate),
            "/etc/ssl/private/usam.key": str(key),
            "http://127.0.0.1:9090": service.url,
        }.items():
            assert old in text
            text = text.replace(old, new)
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        whole = f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}"
        (folder / "nginx.conf").write_text(f"{whole} http {{ access_log off; {temporary} {text} }}")
        with subprocess.Popen([nginx, "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.PIPE) as process:
            try:
                transport = httpx.HTTPTransport(retries=8)
                with httpx.Client(transport=transport, trust_env=False) as client:
                    assert client.get(f"http://127.0.0.1:{plain}/").status_code == 301, process.poll()
                yield Proxy(plain, secure, certificate)
            finally:
                process.terminate()
                process.wait(20)


def test_who_asks_without_tls_is_sent_there_under_the_name_that_is_written_down(proxy: Proxy) -> None:
    headers = {"Host": "evil.example"}
    answer = httpx.get(f"http://127.0.0.1:{proxy.plain}/docs", headers=headers, trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (301, f"https://{NAME}/docs")


def test_what_label_studio_sends_comes_through(proxy: Proxy) -> None:
    assert proxy.ask("GET", "/health", user="").json()["status"] == "UP"
    assert "model_version" in proxy.ask("POST", "/setup", json={"project": "1.1"}).json()
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 1}, "annotation": {"id": 5}}
    assert proxy.ask("POST", "/webhook", json=event).json()["status"] == "accepted"
    assert proxy.ask("POST", "/predict", json={"tasks": [], "label_config": "x"}).json() == {"results": []}
    page = proxy.ask("GET", "/", headers={"Accept": "text/html"})
    assert page.text.lstrip().lower().startswith("<!doctype html")
    assert page.headers["strict-transport-security"] == "max-age=31536000"
    assert page.headers["x-frame-options"] == "DENY", "our own headers stay"
    assert page.headers["server"] == "nginx"


def test_a_password_is_asked_for_and_the_body_bounded(proxy: Proxy) -> None:
    for route in ("/", "/docs", "/versions"):
        assert proxy.ask("GET", route, user="").status_code == 401
        assert proxy.ask("GET", route, user="somebody").status_code == 401
    assert proxy.ask("POST", "/predict", content=b" " * (65 * MIB)).status_code == 413


def test_other_names_get_nothing(proxy: Proxy) -> None:
    with pytest.raises(httpx.ConnectError, match="unrecognized name"):
        proxy.ask("GET", "/health", name="evil.example")
    with pytest.raises(httpx.RemoteProtocolError, match="disconnected"):
        proxy.ask("GET", "/", headers={"Host": "evil.example"})
    assert proxy.ask("POST", "/webhook", content=b"{}", headers={"Origin": "https://evil.example"}).status_code == 403
