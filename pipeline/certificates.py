"""What a server of ours shows of itself over TLS: HEP over TLS, the app over HTTPS."""

from __future__ import annotations

import ssl
from pathlib import Path

from pipeline.errors import ConfigError


def server_context(section: str, certificate: Path, key: Path | None, key_name: str) -> ssl.SSLContext:
    """TLS 1.2 or newer with the certificate (PEM) and its private key, which may be in the same file.

    `section` and `key_name` are what the settings are called, for the ConfigError when they cannot be read or do not
    fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password="")  # do not ask the terminal
    except (OSError, ValueError) as error:
        with_key = f" with {section}.{key_name} {key}" if key else ""
        raise ConfigError(f"{section}.tls_certificate {certificate}{with_key}: {why_not(error)}") from error
    return context


def why_not(error: Exception) -> str:
    """Why a file of certificates or keys is of no use, in a few words."""
    if isinstance(error, ssl.SSLError):
        return error.reason or "no certificate or key in PEM form"
    return getattr(error, "strerror", None) or str(error)
