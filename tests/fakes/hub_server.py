"""A local stand-in for the Hugging Face Hub: the few endpoints that pushing and loading a model use."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeHub:
    """Repositories as lists of commits, each a dict of files; branches other than main are names of commits.

    Attributes:
        repositories: Commits of each repository, by its name; each commit has `id` and `files`.
        private: Names of the private ones.
        url: Address of the server.
    """

    def __init__(self):
        self.repositories, self.private, self.url = {}, set(), ""

    def commit(self, name, files):
        """Add a commit to a repository and return its id."""
        commits = self.repositories.setdefault(name, [])
        number = hashlib.sha1(json.dumps([name, len(commits)]).encode(), usedforsecurity=False).hexdigest()
        commits.append({"id": number, "files": dict(files)})
        return number

    def files(self, name):
        """Files of the last commit of a repository."""
        commits = self.repositories[name]
        return commits[-1]["files"] if commits else {}

    @contextmanager
    def running(self):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code, status=404):
        self.answer({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if found is None or found[1] not in self.hub.repositories:
            return self.refuse("RepoNotFound")
        commits = self.hub.repositories[found[1]]
        chosen = commits[-1:] if found[2] == "main" else [commit for commit in commits if commit["id"] == found[2]]
        if not chosen:
            return self.refuse("RevisionNotFound")
        content = chosen[0]["files"].get(found[3])
        if content is None:
            return self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=chosen[0]["id"])
        etag = hashlib.sha256(content).hexdigest()
        return self.answer(content, X_Repo_Commit=chosen[0]["id"], ETag=f'"{etag}"')

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer writer":
            return self.refuse("Forbidden", 403)
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
            address = {"url": f"{self.hub.url}/{name}", "name": name}
            if name in self.hub.repositories:
                return self.answer(address, 409)
            self.hub.repositories[name] = []
            if wanted.get("private") or wanted.get("visibility") == "private":
                self.hub.private.add(name)
            return self.answer(address)
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        name = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            each = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": file["path"], **each} for file in json.loads(body)["files"]]})
        assert "/commit/main" in self.path
        files = dict(self.hub.files(name))
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            if line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        return self.answer({"commitUrl": f"{self.hub.url}/{name}", "commitOid": self.hub.commit(name, files)})
