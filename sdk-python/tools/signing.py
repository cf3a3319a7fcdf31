"""Tokens with any claims, signed with the development key of a real ArqonBus."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from live_stack import Stack

ISSUER = "arqon-development"
AUDIENCE = "arqon"


class Signer:
    """Signs for the issuer that the tenants of a stack trust, or as somebody else."""

    def __init__(self, stack: Stack) -> None:
        pem = (stack.folder / "state/dev/token-key.pem").read_bytes()
        key = serialization.load_pem_private_key(pem, None)
        assert isinstance(key, rsa.RSAPrivateKey)
        self._keys = {True: key, False: rsa.generate_private_key(65537, 2048)}
        head = stack.token().split(".")[0]
        self._kid = json.loads(base64.urlsafe_b64decode(head + "=="))["kid"]

    def token(
        self, claims: Mapping[str, object], *, algorithm: str = "RS256", trusted: bool = True
    ) -> str:
        """A token with these claims, with issuer and audience where none are among them."""
        header = {"typ": "JWT", "alg": algorithm, "kid": self._kid}
        signed = f"{encode(header)}.{encode(with_issuer(claims))}"
        signature = self._keys[trusted].sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def with_issuer(claims: Mapping[str, object]) -> dict[str, object]:
    """The claims, with issuer and audience; one that is ``None`` is left out."""
    told = {"iss": ISSUER, "aud": AUDIENCE, **claims}
    return {name: value for name, value in told.items() if value is not None}


def encode(value: object) -> str:
    """A part of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
