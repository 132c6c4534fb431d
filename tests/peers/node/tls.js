'use strict';
// TLS, if the arguments name PEM files for it.

const fs = require('node:fs');
const grpc = require('@grpc/grpc-js');

const TLS = {
  // The authority that signs the other end's certificate. A server asks its clients for one.
  'tls-ca': { type: 'string' },
  // This end's certificate, and its key.
  'tls-cert': { type: 'string' },
  'tls-key': { type: 'string' },
};

function read(args) {
  return ['tls-ca', 'tls-cert', 'tls-key'].map((name) => (args[name] ? fs.readFileSync(args[name]) : null));
}

function serverCredentials(args) {
  const [ca, cert, key] = read(args);
  if (!cert) return grpc.ServerCredentials.createInsecure();
  return grpc.ServerCredentials.createSsl(ca, [{ private_key: key, cert_chain: cert }], ca !== null);
}

function clientCredentials(args) {
  const [ca, cert, key] = read(args);
  return ca ? grpc.credentials.createSsl(ca, key, cert) : grpc.credentials.createInsecure();
}

module.exports = { TLS, clientCredentials, serverCredentials };
