package main

import (
	"encoding/json"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// cut is the code of a call that the other end cut: its server never chose one.
const cut = -1

// truth is a peer's record: the sums of all its calls.
type truth struct {
	mutex sync.Mutex
	rows  map[key]sums
}

type key struct {
	Method string `json:"method"`
	Code   int    `json:"code"`
}

type sums struct {
	Calls         uint64 `json:"calls"`
	Sent          uint64 `json:"sent"`
	Received      uint64 `json:"received"`
	SentBytes     uint64 `json:"sent_bytes"`
	ReceivedBytes uint64 `json:"received_bytes"`
	// The most in one call.
	MostSent     uint64 `json:"most_sent"`
	MostReceived uint64 `json:"most_received"`
	// Calls with at least one message.
	AnySent     uint64 `json:"any_sent"`
	AnyReceived uint64 `json:"any_received"`
	// The duration of each call.
	HandlingUs []int64 `json:"handling_us"`
}

type row struct {
	key
	sums
	// Whether the requests were written is not known: grpc-go's writer may
	// flush a call's headers before its messages are queued, and a server that
	// has not the method refuses it by the headers.
	RequestsUnsure bool `json:"requests_unsure"`
}

func newTruth() *truth {
	return &truth{rows: map[key]sums{}}
}

// write writes the sums; the file appears whole or not at all.
func (t *truth) write(path string) error {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	calls := []row{}
	for key, sums := range t.rows {
		calls = append(calls, row{key, sums, key.Code == int(codes.Unimplemented)})
	}
	report, err := json.Marshal(map[string]any{"pid": os.Getpid(), "calls": calls})
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".part", report, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".part", path)
}

func (t *truth) add(c *call) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	t.mutex.Lock()
	defer t.mutex.Unlock()
	row := t.rows[c.key]
	row.Calls++
	row.Sent += c.Sent
	row.Received += c.Received
	row.SentBytes += c.SentBytes
	row.ReceivedBytes += c.ReceivedBytes
	row.MostSent = max(row.MostSent, c.Sent)
	row.MostReceived = max(row.MostReceived, c.Received)
	row.AnySent += min(c.Sent, 1)
	row.AnyReceived += min(c.Received, 1)
	row.HandlingUs = append(row.HandlingUs, time.Since(c.begun).Microseconds())
	t.rows[c.key] = row
}

// call is one call's messages, as they pass. A client sends and receives at
// the same time.
type call struct {
	mutex sync.Mutex
	begun time.Time
	key
	sums
}

func newCall(method string) *call {
	return &call{begun: time.Now(), key: key{Method: method, Code: cut}}
}

// sent counts a message that has gone out.
func (c *call) sent(message proto.Message) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.Sent++
	c.SentBytes += uint64(proto.Size(message))
}

// received counts a message that came in and returns how many have.
func (c *call) received(message proto.Message) uint64 {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.Received++
	c.ReceivedBytes += uint64(proto.Size(message))
	return c.Received
}
