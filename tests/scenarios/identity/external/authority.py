"""A certificate authority that shares nothing with ours: grpcio and the program openssl, as strict as cert-manager's istio-csr.

    authority.py FOLDER HOST:PORT

FOLDER has ca.pem and ca.key (what signs, read at each call), root.pem (what ends an answer), server.pem and server.key, tokens (lines of
token and id) and life (seconds). Proof is a bearer token, and nothing else. Each call is a line in calls.
"""

import datetime
import subprocess
import sys
import tempfile
from concurrent import futures
from pathlib import Path

import grpc

FOLDER = Path(sys.argv[1])


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def first_string(data):
    """Field 1 of a message, which is all that is read of the request: csr."""
    at, found = 0, ""
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            _, at = varint(data, at)
        elif key & 7 == 2:
            length, at = varint(data, at)
            if key >> 3 == 1:
                found = data[at : at + length].decode()
            at += length
        else:
            raise ValueError(f"wire type {key & 7}")
    return found


def strings(texts):
    """A message whose field 1 is these."""
    out = b""
    for text in texts:
        data, size = text.encode(), b""
        length = len(data)
        while length > 0x7F:
            size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
        out += b"\x0a" + size + bytes([length]) + data
    return out


def openssl(*arguments, data=None):
    done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, text=True, cwd=FOLDER)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def names(csr):
    """The names that a request has, after its signature was verified."""
    text = openssl("req", "-verify", "-noout", "-text", data=csr)
    lines = [line.strip() for line in text.splitlines()]
    at = next((i for i, line in enumerate(lines) if "Subject Alternative Name" in line), None)
    return [] if at is None else lines[at + 1].split(", ")


def sign(csr, identity):
    life = int((FOLDER / "life").read_text())
    now = datetime.datetime.now(datetime.timezone.utc)
    form = "%Y%m%d%H%M%SZ"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "index").touch()
        (folder / "request").write_text(csr)
        (folder / "config").write_text(
            f"[ca]\ndefault_ca=it\n[it]\ndatabase={folder}/index\nnew_certs_dir={folder}\nrand_serial=yes\n"
            f"default_md=sha256\npolicy=any\nx509_extensions=leaf\n[any]\norganizationName=optional\n"
            f"[leaf]\nsubjectAltName=URI:{identity}\nbasicConstraints=critical,CA:FALSE\n"
            "keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=clientAuth,serverAuth\n"
        )
        openssl(
            "ca", "-batch", "-notext", "-config", f"{folder}/config", "-in", f"{folder}/request",
            "-out", f"{folder}/leaf", "-cert", "ca.pem", "-keyfile", "ca.key", "-subj", "/O=mesh",
            "-startdate", (now - datetime.timedelta(minutes=1)).strftime(form),
            "-enddate", (now + datetime.timedelta(seconds=life)).strftime(form),
        )
        return (folder / "leaf").read_text()


def create(request, context):
    proof = dict(context.invocation_metadata()).get("authorization", "")
    known = dict(line.split() for line in (FOLDER / "tokens").read_text().splitlines())
    identity = known.get(proof.removeprefix("Bearer ")) if proof.startswith("Bearer ") else None
    csr = first_string(request)
    asked = names(csr)
    good = identity is not None and asked == [f"URI:{identity}"]
    with (FOLDER / "calls").open("a") as calls:
        calls.write(f"{'signed' if good else 'refused'} {identity} {' '.join(asked)}\n")
    if not good:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure")
    chain = [sign(csr, identity), (FOLDER / "root.pem").read_text()]
    return strings(chain)


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)])
    method = grpc.unary_unary_rpc_method_handler(create)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("istio.v1.auth.IstioCertificateService", {"CreateCertificate": method})]
    )
    pair = [(FOLDER / name).read_bytes() for name in ("server.key", "server.pem")]
    server.add_secure_port(sys.argv[2], grpc.ssl_server_credentials([tuple(pair)]))
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


main()
