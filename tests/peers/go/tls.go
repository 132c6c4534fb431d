package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"os"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// tlsFiles are PEM files: the authority that signs the other end's certificate, this
// end's certificate, and its key.
type tlsFiles struct {
	ca, cert, key string
	deep          bool
}

func (t *tlsFiles) flags(flags *flag.FlagSet) {
	flags.StringVar(&t.ca, "tls-ca", "", "the authority of the other end; a server asks its clients for a certificate")
	flags.StringVar(&t.cert, "tls-cert", "", "this end's certificate")
	flags.StringVar(&t.key, "tls-key", "", "the certificate's key")
	flags.BoolVar(&t.deep, "deep-stacks", false, "let stacks grow while TLS reads and writes")
}

// server returns nil without a certificate.
func (t *tlsFiles) server() (*tls.Config, error) {
	if t.cert == "" {
		return nil, nil
	}
	config, authority, err := t.read()
	if err != nil {
		return nil, err
	}
	if authority != nil {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, authority
	}
	return config, nil
}

// client returns credentials without TLS if there is no authority.
func (t *tlsFiles) client() (credentials.TransportCredentials, error) {
	if t.ca == "" {
		return insecure.NewCredentials(), nil
	}
	config, authority, err := t.read()
	if err != nil {
		return nil, err
	}
	config.RootCAs = authority
	return t.credentials(config), nil
}

// credentials returns those of a connection, for either end.
func (t *tlsFiles) credentials(config *tls.Config) credentials.TransportCredentials {
	if t.deep {
		return deepCredentials{credentials.NewTLS(config)}
	}
	return credentials.NewTLS(config)
}

func (t *tlsFiles) read() (*tls.Config, *x509.CertPool, error) {
	config := &tls.Config{}
	if t.cert != "" {
		certificate, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, nil, err
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	if t.ca == "" {
		return config, nil, nil
	}
	pem, err := os.ReadFile(t.ca)
	if err != nil {
		return nil, nil, err
	}
	authority := x509.NewCertPool()
	if !authority.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("%s: no certificate", t.ca)
	}
	return config, authority, nil
}
