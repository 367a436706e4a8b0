"""The server's side of TLS: its certificate, swapped while it serves."""

from __future__ import annotations

import logging
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import grpc

from rerankd.errors import InputError
from rerankd.pem import read_authorities, read_server_pair, server_context
from rerankd.watch import Watched

log = logging.getLogger(__name__)

_NAMES: Final = ("tls_cert", "tls_key")


class Certificates:
    """A certificate, its key, and the authorities for clients' certificates; from files, which `refresh`
    reads again when they have changed.

    New connections get what was read last; those that are open go on as they are. client_ca: "" where a
    client needs no certificate. Raises InputError, of tls_cert, tls_key or tls_client_ca, where a file is not
    fit at the start.
    """

    def __init__(self, cert: str, key: str, client_ca: str = "") -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._watched = Watched(*filter(None, (cert, key, client_ca)))
        # At most one, for gRPC to fetch. A deque's ends can be used from any thread without a lock.
        self._next: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """For one port, which alone will see the swaps."""
        # Its stubs don't know that None is an answer.
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._fetch)
        return grpc.dynamic_ssl_server_credentials(
            self._first, fetch, require_client_authentication=bool(self._client_ca)
        )

    def context(self) -> ssl.SSLContext:
        """The same for Python's own servers: every handshake with it is made by what was read last."""
        outer = self._current

        def swap(handshake: ssl.SSLObject, name: object, begun: object) -> None:
            handshake.context = self._current

        # A context's certificate could be loaded anew, but not its authorities, of which none would ever go.
        outer.sni_callback = swap
        return outer

    def refresh(self) -> None:
        """Reads the files if they have changed. Unfit ones only leave a line in the log."""
        if not self._watched.changed():
            return
        try:
            self._next.append(self._read())
        except InputError as error:
            log.error("the certificate stays as it was: %s", error)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        pair, until = read_server_pair(self._cert, self._key, _NAMES)
        authorities = read_authorities(self._client_ca, "tls_client_ca") if self._client_ca else None
        self._current = server_context(pair, self._cert, self._key, _NAMES, authorities)
        log.info("the certificate in %s is in use; it is valid until %s", self._cert, until)
        return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)], authorities)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        # Called for every new connection, on a thread of gRPC's that must not wait. None: as before.
        try:
            return self._next.pop()
        except IndexError:
            return None
