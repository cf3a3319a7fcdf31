// Command centrifuge-peer is the rival of `scripts/bench`: a WebSocket server on the Go
// library centrifuge, the engine Centrifugo is built on, with channels open to every client.
//
// It checks an RS256 token in `-rsa` mode, so that its handshake does the work Shield's does.
package main

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/centrifugal/centrifuge"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "centrifuge-peer:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:8300", "address of the WebSocket listener")
	rsaFile := flag.String("rsa", "", "PEM file of the RSA public key that tokens must be signed with; empty: no check")
	cert := flag.String("cert", "", "PEM file of the TLS certificate; empty: plaintext")
	key := flag.String("key", "", "PEM file of the TLS key")
	delay := flag.Duration("write-delay", 0, "how long a connection's writer collects messages before a write")
	flag.Parse()

	var public *rsa.PublicKey
	if *rsaFile != "" {
		var err error
		if public, err = readKey(*rsaFile); err != nil {
			return fmt.Errorf("key %s: %w", *rsaFile, err)
		}
	}
	node, err := centrifuge.New(centrifuge.Config{ClientQueueMaxSize: 4 << 20})
	if err != nil {
		return err
	}
	node.OnConnecting(func(_ context.Context, e centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		user := "bench"
		if public != nil {
			var err error
			if user, err = subject(e.Token, public); err != nil {
				return centrifuge.ConnectReply{}, centrifuge.DisconnectInvalidToken
			}
		}
		return centrifuge.ConnectReply{
			Credentials:        &centrifuge.Credentials{UserID: user},
			WriteDelay:         *delay,
			MaxMessagesInFrame: -1,
		}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, cb centrifuge.SubscribeCallback) {
			cb(centrifuge.SubscribeReply{}, nil)
		})
		client.OnPublish(func(_ centrifuge.PublishEvent, cb centrifuge.PublishCallback) {
			cb(centrifuge.PublishReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		CheckOrigin:        func(*http.Request) bool { return true },
		ReadBufferSize:     1024,
		UseWriteBufferPool: true,
		WriteTimeout:       10 * time.Second,
	}))
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Println("Listening on", listener.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	if *cert != "" {
		return server.ServeTLS(listener, *cert, *key)
	}
	return server.Serve(listener)
}

func readKey(path string) (*rsa.PublicKey, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	public, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("not an RSA public key")
	}
	return public, nil
}

// subject verifies an RS256 token and returns its `sub`.
func subject(token string, public *rsa.PublicKey) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", errors.New("not a token")
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature); err != nil {
		return "", err
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", err
	}
	var claims struct {
		Sub string `json:"sub"`
		Exp int64  `json:"exp"`
	}
	if err := json.Unmarshal(body, &claims); err != nil {
		return "", err
	}
	if claims.Sub == "" || claims.Exp < time.Now().Unix() {
		return "", errors.New("expired or without subject")
	}
	return claims.Sub, nil
}
