"""One repository in a registry, spoken to over HTTP: requests with a login, and every refusal as one sentence.

The session, reference and answers to a registry's challenges are ``oras``'s. Its ``Registry`` is not used: it sends
every failed request five more times with pauses of up to 83 seconds, a refused password included, cannot continue a
transfer, and asks a registry that wants a plain password for a token.

Source: OCI distribution-spec 1.1; distribution's docs/spec/auth/token.md.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import urljoin, urlsplit

import requests
from oras.auth import get_auth_backend

from lamina.errors import MachineError, StackError
from lamina.refs import Digest
from lamina.share.credentials import config_path, find_login
from lamina.share.reference import Reference

__all__ = ["LARGEST_MANIFEST", "Body", "Dropped", "Patience", "Registry", "read_pieces", "reason_of"]

LARGEST_MANIFEST = 4 << 20  # the most that the distribution spec asks a registry to take
_MANIFEST_TYPES = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*;q=0.1"
_WAIT_S = (10.0, 60.0)  # to connect, and for the next byte
_PASSING = (408, 429, 500, 502, 503, 504)
Body = Callable[[], bytes | Iterable[bytes]]


class Dropped(Exception):  # noqa: N818  (an event, not a mistake: transfers catch it and go on)
    """The connection ended, or the registry was busy, in the middle of a transfer."""


class Patience:
    """How often a transfer may fail without getting any further before it is given up."""

    def __init__(self, pauses_s: tuple[float, ...]) -> None:
        """Allow as many tries in a row as there are pauses."""
        self._pauses_s = pauses_s
        self._failed = 0
        self._furthest = 0

    def wait(self, drop: Dropped, at: int) -> None:
        """Pause before the next try; ``at`` is how many bytes have arrived for good.

        Raises:
            Dropped: the one given, if there have been enough.
        """
        if at > self._furthest:
            self._furthest, self._failed = at, 0
        if self._failed == len(self._pauses_s):
            raise drop
        time.sleep(self._pauses_s[self._failed])
        self._failed += 1


class Registry:
    """The repository that a reference names.

    Args:
        reference: which one.
        plain_http: without TLS; always so on loopback.
        pauses_s: how long a transfer waits before each new try that follows one without progress.
    """

    def __init__(
        self, reference: Reference, *, plain_http: bool = False, pauses_s: tuple[float, ...] = (0.0, 1.0, 4.0)
    ) -> None:
        """Prepare a session; nothing is sent yet."""
        self.reference = reference
        self.pauses_s = pauses_s
        self._root = f"{'http' if plain_http or reference.is_loopback else 'https'}://{reference.host}"
        self._session = requests.Session()
        # A registry on this machine is never behind a proxy, and a .netrc entry would overrule the login.
        self._session.trust_env = not reference.is_loopback
        # oras asks for tokens over this session and sets no limit itself.
        self._session.request = functools.partial(self._session.request, timeout=_WAIT_S)  # type: ignore[method-assign]
        self._header: dict[str, str] = {}
        self._dates = False
        self._login = find_login(reference.registry)
        logging.getLogger("oras").addHandler(logging.NullHandler())  # what it reports, our errors say

    def url(self, path: str) -> str:
        """Return the address of ``path`` in the repository."""
        return f"{self._root}/v2/{self.reference.repository}/{path}"

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        body: Body | None = None,
        accept: tuple[int, ...] = (200,),
        what: str,
    ) -> requests.Response:
        """Return the answer to a request, logged in if the registry asks for it; the content is not read yet.

        Args:
            method: of HTTP.
            url: absolute, as ``url`` or a registry's ``Location`` gives it.
            headers: besides those of the login.
            body: makes what is sent, anew for each try.
            accept: status codes that the caller deals with.
            what: what is asked for, for messages: "blob 9c1e04".

        Raises:
            Dropped: if there is no answer, or one that says "later".
            StackError: if the registry refuses.
        """
        answer = self._send(method, url, headers, body)
        if answer.status_code in (401, 403) and self._log_in(answer):
            answer.close()
            answer = self._send(method, url, headers, body)
        if answer.status_code in accept:
            return answer
        with answer:
            if answer.status_code in _PASSING:
                raise Dropped(_busy(answer))
            raise self._refusal(answer, what)

    def location(self, answer: requests.Response, what: str) -> str:
        """Return the absolute address that the registry sends us on to.

        Raises:
            Dropped: if it gives none: a connection cut inside the headers looks like that.
        """
        if not (found := answer.headers.get("Location")):
            raise Dropped(f"it did not say where to send {what}")
        return urljoin(answer.url, found)

    def read_manifest(self) -> tuple[bytes, str]:
        """Return the manifest that the reference names, and its digest.

        Raises:
            StackError: if there is none, it is over 4 MB, or other content than its digest says.
            MachineError: if the registry cannot be reached.
        """
        where = self.reference
        with (
            self.reaching(),
            self.request(
                "GET", self.url(f"manifests/{where.tag}"), headers={"Accept": _MANIFEST_TYPES}, what=str(where)
            ) as answer,
        ):
            content = b""
            for piece in read_pieces(answer):
                content += piece
                if len(content) > LARGEST_MANIFEST:
                    raise StackError(
                        f"the manifest of {where} is over {LARGEST_MANIFEST >> 20} MB", hint="it is no lamina stack"
                    )
        digest = str(Digest.of_bytes(content))
        if digest != (where.tag if where.is_pinned else answer.headers.get("Docker-Content-Digest", digest)):
            raise StackError(
                f"{where.registry} sent another manifest for {where} than its digest says",
                hint="pull again; if it stays so, the registry's copy is damaged: push it again",
            )
        return content, digest

    def write_manifest(self, content: bytes, media_type: str) -> None:
        """Put a manifest under the reference's tag. All that it names must be there.

        Raises:
            StackError: if the registry refuses it.
            MachineError: if it cannot be reached.
        """
        with self.reaching():
            self.request(
                "PUT",
                self.url(f"manifests/{self.reference.tag}"),
                headers={"Content-Type": media_type},
                body=lambda: content,
                accept=(200, 201, 202),
                what=f"the manifest of {self.reference}",
            ).close()

    def has_blob(self, digest: str) -> bool:
        """Return whether the repository holds a blob.

        Raises:
            Dropped: if there is no answer.
            StackError: if the registry refuses.
        """
        url, what = self.url(f"blobs/{digest}"), f"blob {digest[:19]}"
        with self.request("HEAD", url, accept=(200, 404), what=what) as answer:
            return answer.status_code == requests.codes.ok

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Turn a dropped connection into the error that says so."""
        try:
            yield
        except Dropped as drop:
            raise MachineError(
                f"registry {self.reference.registry}: {drop}",
                hint="check its name and the network, then run the command again: what has arrived is kept",
            ) from drop

    def _send(self, method: str, url: str, headers: dict[str, str] | None, body: Body | None) -> requests.Response:
        # A registry may send us on to a store elsewhere, which must not see the login.
        sent = {"Accept-Encoding": "identity"} | (headers or {}) | (self._header if self._is_own(url) else {})
        with dropping():
            answer = self._session.request(
                method, url, headers=sent, data=body() if body else None, stream=True, allow_redirects=method == "GET"
            )
        if self._is_own(answer.url):
            # Servers date their answers, mostly at the end, and Python takes half the headers for all of them.
            if self._dates and "Date" not in answer.headers:
                answer.close()
                raise Dropped("the connection was cut")
            self._dates = "Date" in answer.headers
        return answer

    def _is_own(self, url: str) -> bool:
        return urlsplit(url).netloc == urlsplit(self._root).netloc

    def _log_in(self, answer: requests.Response) -> bool:
        """Get ready for what the registry asks for, and return whether there is anything new to try."""
        challenge = answer.headers.get("Www-Authenticate", "")
        kind = challenge.partition(" ")[0].lower()
        if kind == "basic" and (self._login is None or self._header):
            return False
        if kind not in ("basic", "bearer"):
            return False
        backend = get_auth_backend(
            {"basic": "basic", "bearer": "token"}[kind], self._session, self._root.startswith("http:")
        )
        if self._login is not None:
            backend.set_basic_auth(self._login.user, self._login.password)
        # A new token each time: the old one has run out, or was for reading only.
        with dropping():
            try:
                headers, changed = backend.authenticate_request(answer, {}, refresh=True)
            except (AttributeError, ValueError) as error:  # a challenge without realm, an answer that is no JSON
                raise StackError(
                    f"{self.reference.registry} asks for a login in a way that cannot be read: {challenge!r}",
                    hint="ask whoever runs it",
                ) from error
        if changed:
            self._header = {"Authorization": headers["Authorization"]}
        return bool(changed)

    def _refusal(self, answer: requests.Response, what: str) -> StackError:
        where, code = self.reference.registry, answer.status_code
        login = f"log in with `docker login {where}` or `oras login {where}`"
        if code == requests.codes.unauthorized:
            if self._login is None:
                return StackError(f"{where} asks for a login (401)", hint=login)
            return StackError(f"{where} refuses the login in {config_path()} (401)", hint=login)
        if code == requests.codes.forbidden:
            return StackError(
                f"{where} does not let {self._login.user if self._login else 'you'} do this with "
                f"{self.reference.repository} (403)",
                hint=f"ask its owner for the right, or {login}",
            )
        if code == requests.codes.not_found:
            return StackError(f"{where} has no {what} (404)", hint="check name and tag")
        return StackError(f"{where} refuses {what}: {reason_of(answer)}", hint="ask whoever runs it")


@contextmanager
def dropping() -> Iterator[None]:
    """Turn what requests raises when a connection fails into ``Dropped``, in few words."""
    try:
        yield
    except requests.exceptions.SSLError as error:
        raise StackError(
            "the registry's TLS cannot be trusted, or it speaks plain HTTP",
            hint="name its certificate in REQUESTS_CA_BUNDLE, or add --plain-http on a network that you trust",
        ) from error
    except requests.exceptions.RequestException as error:
        raise Dropped(_in_words(error)) from error


def read_pieces(answer: requests.Response) -> Iterator[bytes]:
    """Return an answer's content piece by piece.

    Raises:
        Dropped: if the connection ends before it does.
    """
    with dropping():
        yield from answer.iter_content(1 << 18)


def _in_words(error: Exception) -> str:
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    text = str(error)
    if "Connection refused" in text:
        return "nothing answers there (connection refused)"
    if "Name or service not known" in text or "name resolution" in text or "No address associated" in text:
        return "there is no host of this name"
    return "the connection was cut"


def _busy(answer: requests.Response) -> str:
    if answer.status_code == requests.codes.too_many_requests:
        return "it takes no more requests for now (429)"
    return f"it is in trouble ({reason_of(answer)})"


def reason_of(answer: requests.Response) -> str:
    """Return what the registry says is wrong, in its own words where it has some.

    Source: OCI distribution-spec 1.1, "Error codes".
    """
    try:
        first = answer.json()["errors"][0]
        return f"{first.get('message') or first['code']} ({answer.status_code})"
    except (requests.exceptions.RequestException, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return f"{answer.reason or 'no reason given'} ({answer.status_code})"
