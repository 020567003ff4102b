"""An echo by grpcio: in the clear, or over mutual TLS by the files that `sidegate agent` keeps. Messages are bytes of any method.

    server.py ADDRESS
    server.py ADDRESS FOLDER ID     # calls of nobody but this SPIFFE id are served
"""

import os
import sys
from concurrent import futures

import grpc


class Echo(grpc.GenericRpcHandler):
    def __init__(self, allowed):
        self.allowed = allowed

    def service(self, details):
        return grpc.stream_stream_rpc_method_handler(self.echo)

    def echo(self, messages, context):
        names = context.auth_context().get("x509_subject_alternative_name", [])
        if self.allowed and names != [self.allowed.encode()]:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"not you, {names}")
        yield from messages


def credentials(folder):
    # One generation: certificate and key that belong together.
    folder = os.path.realpath(os.path.join(folder, "..data"))

    def read(name):
        with open(os.path.join(folder, name), "rb") as file:
            return file.read()

    pair = (read("key.pem"), read("cert-chain.pem"))
    return grpc.ssl_server_credentials([pair], read("root-cert.pem"), require_client_auth=True)


address, folder, allowed = (sys.argv[1:] + [None, None])[:3]
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers([Echo(allowed)])
if folder:
    server.add_secure_port(address, credentials(folder))
else:
    server.add_insecure_port(address)
server.start()
server.wait_for_termination()
