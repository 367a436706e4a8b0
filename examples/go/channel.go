package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // without it, healthCheckConfig does nothing

	rerankdv1 "github.com/rerankd/rerankd/examples/go/gen/rerankd/v1"
)

const maxMessageBytes = 16 << 20

// All addresses of the target in turn, but those whose health says NOT_SERVING; a refused call is tried again.
//
//go:embed service_config.json
var serviceConfig string

type client = rerankdv1.RerankServiceClient

var newClient = rerankdv1.NewRerankServiceClient

// address is a server, and how it wants to be asked. Empty: without.
type address struct{ target, ca, cert, key, tokenFile string }

// dial makes the one channel that all calls share; nothing is connected before the first.
func dial(server address) (*grpc.ClientConn, error) {
	transport, err := server.credentials()
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxMessageBytes),
			grpc.MaxCallSendMsgSize(maxMessageBytes),
			// A call larger than this buffer is not tried again, and gRPC's own default is 256 KiB.
			grpc.MaxRetryRPCBufferSize(maxMessageBytes+64<<10),
		),
	}
	if server.tokenFile != "" {
		text, err := os.ReadFile(server.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		options = append(options, grpc.WithPerRPCCredentials(bearer(strings.TrimSpace(string(text)))))
	}
	return grpc.NewClient(server.target, options...)
}

func (a address) credentials() (credentials.TransportCredentials, error) {
	if (a.cert == "") != (a.key == "") || a.cert != "" && a.ca == "" {
		return nil, fmt.Errorf("--cert and --key go together, and with --ca")
	}
	if a.ca == "" {
		return insecure.NewCredentials(), nil
	}
	pem, err := os.ReadFile(a.ca)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca: there is no certificate in %s", a.ca)
	}
	if a.cert != "" {
		own, err := tls.LoadX509KeyPair(a.cert, a.key)
		if err != nil {
			return nil, fmt.Errorf("--cert, --key: %w", err)
		}
		config.Certificates = []tls.Certificate{own}
	}
	return credentials.NewTLS(config), nil
}

// bearer is a token that every call carries.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity says no: a mesh or a proxy may do that part. Over a network, give --ca.
func (bearer) RequireTransportSecurity() bool { return false }
