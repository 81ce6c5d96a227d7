package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// tlsFiles are PEM files.
type tlsFiles struct{ ca, cert, key string }

// connect makes a connection, which is not opened before the first call. On a Unix socket the kernel tells the agent who calls; everywhere
// else both sides show a certificate, and the agent's must name the host of the address.
func connect(agent string, files tlsFiles) (*grpc.ClientConn, error) {
	// gRPC's own pauses between two tries to connect grow to two minutes: too long for an agent that was restarted.
	pauses := backoff.DefaultConfig
	pauses.MaxDelay = 2 * time.Second
	reconnect := grpc.WithConnectParams(grpc.ConnectParams{Backoff: pauses, MinConnectTimeout: 10 * time.Second})
	if strings.HasPrefix(agent, "unix:") {
		return grpc.NewClient(agent, reconnect, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	pem, err := os.ReadFile(files.ca)
	if err != nil {
		return nil, err
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", files.ca)
	}
	// Read for each connection: a certificate may be renewed while the program runs.
	certificate := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(files.cert, files.key)
		return &pair, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: authorities, GetClientCertificate: certificate}
	return grpc.NewClient(agent, reconnect, grpc.WithTransportCredentials(credentials.NewTLS(config)))
}
