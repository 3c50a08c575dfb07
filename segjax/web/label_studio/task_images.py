"""Images of Label Studio's tasks: from allowed hosts, one folder, or the task itself."""

import base64
import binascii
import pathlib
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

from segjax.engine.images import MAX_BYTES

_LOCAL_FILES = "/data/local-files/"
_PORTS = {"http": 80, "https": 443}
_PATIENCE = 20.0  # seconds for a connection, and for each read


class TaskImages:
    """Reader of the images that tasks name.

    A task is not trusted: it could name a service of the server's own network or any of its files.
    Only the hosts and the one folder that the user names are read, and redirects are refused.

    Args:
      url: address of Label Studio, such as "http://localhost:8080". Paths such as
        "/data/upload/1/a.png" are read from it. "": there is none.
      token: access token of Label Studio, sent to its address alone.
      hosts: further hosts, "example.com" or "example.com:8000". Without a port, the scheme's.
      folder: root of Label Studio's local files (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT), or None
        to ask Label Studio for them.

    Raises:
      ValueError: an address without http(s) or host, or a host with more than a name and a port.
      NotADirectoryError: the folder is none.
    """

    def __init__(
        self,
        url: str = "",
        token: str = "",
        hosts: Sequence[str] = (),
        folder: str | pathlib.Path | None = None,
    ) -> None:
        if url and (urlsplit(url).scheme not in _PORTS or not urlsplit(url).hostname):
            raise ValueError(f"{url!r} is no address; expected one such as http://localhost:8080")
        for host in hosts:
            if not host or any(character in host for character in "/@?# *"):
                raise ValueError(f"{host!r} is no host; expected one such as example.com:8000")
        if folder is not None and not pathlib.Path(folder).is_dir():
            raise NotADirectoryError(f"{folder} is no folder; expected the root of local files")
        self.url, self.token = url.rstrip("/"), token
        self.hosts = {host.lower() for host in hosts}
        self.folder = None if folder is None else pathlib.Path(folder).resolve()
        self._opener = urllib.request.build_opener(_NoRedirects)

    def read(self, address: Any) -> bytes:
        """Reads the bytes of an image.

        Args:
          address: http(s) address, path on Label Studio, /data/local-files/?d=PATH, or data: URL.

        Raises:
          ValueError: an address that is not allowed or not understood, or too many bytes.
          OSError: the image cannot be read.
        """
        if not isinstance(address, str) or not address:
            raise ValueError(f"the image is {str(address)[:80]!r}; expected an address")
        if address.startswith("data:"):
            return _decode_data_url(address)
        # Label Studio's own images
        path = self._strip_label_studio(address)
        if path.startswith(_LOCAL_FILES) and self.folder is not None:
            return self._read_file(path)
        if path.startswith("/") and not path.startswith("//"):
            if not self.url:
                raise ValueError(
                    f"{address[:200]} is a path on Label Studio, whose address is unknown; start "
                    "the server with --url http://HOST:PORT"
                )
            return self._fetch(urljoin(self.url + "/", path), self.token)
        # Images of other hosts
        self._check_host(address)
        return self._fetch(address, "")

    def _strip_label_studio(self, address: str) -> str:
        """Returns the path of an address on Label Studio, other addresses unchanged."""
        parts, own = urlsplit(address), urlsplit(self.url)
        if self.url and "@" not in parts.netloc and _get_origin(parts) == _get_origin(own):
            return parts._replace(scheme="", netloc="").geturl()
        return address

    def _check_host(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(
                f"{address[:200]!r} is no image; expected an http(s) or data: address, or a path "
                "such as /data/upload/1/a.png"
            )
        _, host, port = _get_origin(parts)
        named = {f"{host}:{port}", *([host] if port == _PORTS[parts.scheme] else [])}
        if "@" in parts.netloc or not named & self.hosts:
            raise ValueError(
                f"images of {parts.netloc[:100]!r} are refused; if you trust that host, start the "
                f"server with --image-host {host}{'' if len(named) > 1 else f':{port}'}"
            )

    def _read_file(self, path: str) -> bytes:
        names = parse_qs(urlsplit(path).query).get("d", [])
        if len(names) != 1 or "\0" in names[0]:
            raise ValueError(f"{path[:200]} names no file; expected {_LOCAL_FILES}?d=PATH")
        # Links are followed first, so that none leads out of the folder
        file = (self.folder / names[0]).resolve()
        if not file.is_relative_to(self.folder):
            raise ValueError(f"{names[0][:200]!r} is outside of the folder of images")
        if not file.is_file():
            raise FileNotFoundError(f"no image {names[0][:200]!r} in the folder of images")
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"{names[0][:200]!r} has more than {MAX_BYTES:,} bytes")
        return file.read_bytes()

    def _fetch(self, address: str, token: str) -> bytes:
        headers = {"Authorization": f"Token {token}"} if token else {}
        request = urllib.request.Request(address, headers=headers)
        try:
            with self._opener.open(request, timeout=_PATIENCE) as response:
                data = response.read(MAX_BYTES + 1)
        except urllib.error.HTTPError as error:
            hint = "; is the token right?" if error.code in (401, 403) else ""
            raise OSError(f"{address[:200]} answered {error.code} {error.reason}{hint}") from None
        except (urllib.error.URLError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            raise OSError(f"{address[:200]} cannot be read: {reason}") from None
        if len(data) > MAX_BYTES:
            raise ValueError(f"{address[:200]} has more than {MAX_BYTES:,} bytes")
        return data


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which could lead to a host that is not allowed."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        return None


def _get_origin(parts: Any) -> tuple[str, str, int | None]:
    """Returns the scheme, host and port of a split address."""
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{parts.netloc[:100]!r} has no valid port") from None
    return parts.scheme, (parts.hostname or "").lower(), port or _PORTS.get(parts.scheme)


def _decode_data_url(address: str) -> bytes:
    head, comma, body = address.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError("the image's data: URL is not base64; expected data:image/png;base64,...")
    if len(body) > MAX_BYTES * 4 // 3 + 4:
        raise ValueError(f"the image's data: URL has more than {MAX_BYTES:,} bytes")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the image's data: URL is damaged: {error}") from None
