"""Writes the manifest of a second Shield: with TLS, and with small limits that a test reaches.

Its certificate is good for ten days, so that the alert of an expiring one has something to find.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib

import trustme

MANIFEST = """\
[node]
id = "shield-2"

[listen]
public = "127.0.0.1:{public}"
admin = "127.0.0.1:{admin}"
max_handshakes = 4
handshake_timeout_secs = 2

[tls]
certificate_file = {certificate}
key_file = {key}

[spine]
servers = [{nats}]
control_creds_file = {creds}
fleet_key_file = {fleet_key}
# Renewed every eight seconds.
user_ttl_secs = 10

[tokens]
allow_development = true

[session]
overflow = "drop_oldest"
queue_max_messages = 64
send_buffer_bytes = 4096

[drain]
timeout_secs = 2
spread_secs = 0

[telemetry]
traces_endpoint = {traces}
metrics_endpoint = {metrics}
metrics_interval_secs = 5
"""


def main() -> None:
    """Writes key, certificate, authority and manifest."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    for name in ("public", "admin", "nats", "creds", "fleet-key", "traces", "metrics"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    folder: pathlib.Path = given.folder
    folder.mkdir(parents=True)
    authority = trustme.CA()
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=10)
    issued = authority.issue_cert("127.0.0.1", not_after=until)
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.touch(mode=0o600)
    issued.private_key_pem.write_to_path(str(key))
    # A text of JSON is one of TOML.
    texts = {
        name: json.dumps(str(value))
        for name, value in {**vars(given), "certificate": certificate, "key": key}.items()
    }
    texts |= {"public": given.public, "admin": given.admin}
    (folder / "shield.toml").write_text(MANIFEST.format(**texts))


if __name__ == "__main__":
    main()
