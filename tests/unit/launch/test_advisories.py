"""pip-audit beside a database that is not there, one that knows nothing, and one that knows a weakness."""

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from launch import advisories
from launch.packages import blocks
from tests.helpers.installed import need

ONE = "wandb==0.31.0 \\\n    --hash=sha256:" + "0" * 64 + "\n    # for: libraries\n"
TWO = ONE + "rich==15.0.0 \\\n    --hash=sha256:" + "0" * 64 + "\n    # for: libraries\n"


@contextmanager
def database(monkeypatch, weak):
    """A service on loopback that speaks OSV's protocol and knows one weakness of each package in `weak`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = asked["package"]["name"]
            affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "versions": [asked["version"]]}]
            told = {"id": "PYSEC-2026-1", "published": "2026-11-01T00:00:00Z", "summary": "s", "affected": affected}
            data = json.dumps({"vulns": [told]} if name in weak else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_request(self, code="-", size="-"):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("PIP_AUDIT_VULNERABILITY_SERVICE", "osv")
        monkeypatch.setenv("PIP_AUDIT_OSV_URL", f"http://127.0.0.1:{server.server_address[1]}/v1/query")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@pytest.fixture
def lock(tmp_path, monkeypatch):
    need("pip_audit")
    (tmp_path / "requirements.lock").write_text(TWO)
    monkeypatch.setattr(advisories, "LOCK", tmp_path / "requirements.lock")
    monkeypatch.setattr(advisories, "VENV", tmp_path)
    assert len(blocks(TWO)) == 2


def test_without_a_database_one_line_says_so(lock, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setenv("PIP_AUDIT_VULNERABILITY_SERVICE", "osv")
    monkeypatch.setenv("PIP_AUDIT_OSV_URL", f"http://127.0.0.1:{port}/v1/query")
    assert advisories.main() == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("advisories   nothing was checked, pip-audit's database is not within reach: ")


@pytest.mark.parametrize(("weak", "code", "said"), [
    ((), 0, "advisories   2 packages, none with a known weakness"),
    (("rich",), 1, "advisories   rich 15.0.0: PYSEC-2026-1, mended in no version yet"),
])  # fmt: skip
def test_a_known_weakness_is_named(lock, monkeypatch, capsys, weak, code, said):
    with database(monkeypatch, weak):
        assert advisories.main() == code
    assert capsys.readouterr().out.splitlines() == [said]
