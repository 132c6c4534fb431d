"""TLS, if the arguments name PEM files for it."""

import grpc


def add_arguments(parser):
    parser.add_argument("--tls-ca", help="the authority of the other end; a server asks its clients for a certificate")
    parser.add_argument("--tls-cert", help="this end's certificate")
    parser.add_argument("--tls-key", help="the certificate's key")


def read(path):
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def add_port(server, listen, args):
    """Has a server listen, and returns its port."""
    if args.tls_cert is None:
        return server.add_insecure_port(listen)
    pair = (read(args.tls_key), read(args.tls_cert))
    authority = read(args.tls_ca)
    credentials = grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)
    return server.add_secure_port(listen, credentials)


def channels(api, args):
    """A function of target and options that opens a channel; `api` is grpc or grpc.aio."""
    if args.tls_ca is None:
        return api.insecure_channel
    credentials = grpc.ssl_channel_credentials(read(args.tls_ca), read(args.tls_key), read(args.tls_cert))
    return lambda target, options: api.secure_channel(target, credentials, options)
