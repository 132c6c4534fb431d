package main

import (
	"context"
	"math/rand/v2"
	"net"

	"google.golang.org/grpc/credentials"
)

// The most frames of 512 bytes below a read or a write: 32 KiB, more than a goroutine's
// stack has at first.
const deepest = 64

// deepCredentials are credentials whose connections read and write at another depth of
// the stack each time. So stacks grow, and are copied, while crypto/tls reads or writes.
type deepCredentials struct {
	credentials.TransportCredentials
}

func (c deepCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.TransportCredentials.ClientHandshake(ctx, authority, deepConn{conn})
}

func (c deepCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.TransportCredentials.ServerHandshake(deepConn{conn})
}

func (c deepCredentials) Clone() credentials.TransportCredentials {
	return deepCredentials{c.TransportCredentials.Clone()}
}

type deepConn struct{ net.Conn }

func (c deepConn) Read(p []byte) (int, error) {
	return deep(rand.IntN(deepest), c.Conn.Read, p)
}

func (c deepConn) Write(p []byte) (int, error) {
	return deep(rand.IntN(deepest), c.Conn.Write, p)
}

//go:noinline
func deep(frames int, act func([]byte) (int, error), p []byte) (int, error) {
	if frames == 0 {
		return act(p)
	}
	// It is used after the call, so that it takes room on the stack.
	var room [512]byte
	room[frames] = 1
	n, err := deep(frames-1, act, p)
	return n + int(room[frames-1]), err
}
