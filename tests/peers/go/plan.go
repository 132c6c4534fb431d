package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"time"

	"observer.test/peer/echopb"
)

const service = "observer.test.v1.Echo"

// step is one step of a plan; the fields and their defaults are those of
// tests/peers/python/client.py.
type step struct {
	Rpc                 string          `json:"rpc"`
	Count               int64           `json:"count"`
	Concurrency         int             `json:"concurrency"`
	Connections         int             `json:"connections"`
	Payload             int             `json:"payload"`
	Requests            uint32          `json:"requests"`
	ResponseSize        uint32          `json:"response_size"`
	Responses           uint32          `json:"responses"`
	Code                uint32          `json:"code"`
	Detail              string          `json:"detail"`
	Raises              bool            `json:"raises"`
	SleepMs             uint32          `json:"sleep_ms"`
	SleepBetweenMs      uint32          `json:"sleep_between_ms"`
	Lockstep            bool            `json:"lockstep"`
	DeadlineMs          *int64          `json:"deadline_ms"`
	CancelAfterMs       *int64          `json:"cancel_after_ms"`
	CancelWithinMs      *int64          `json:"cancel_within_ms"`
	CancelAfterMessages *uint64         `json:"cancel_after_messages"`
	Holds               bool            `json:"holds"`
	ServiceConfig       json.RawMessage `json:"service_config"`
	Gzip                bool            `json:"gzip"`
	UnknownMethod       bool            `json:"unknown_method"`
}

func (s *step) UnmarshalJSON(text []byte) error {
	type plain step
	defaults := plain{Rpc: "Unary", Count: 1, Concurrency: 1, Connections: 1, Requests: 1, Responses: 1}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&defaults); err != nil {
		return err
	}
	switch defaults.Rpc {
	case "Unary", "ServerStream", "ClientStream", "Bidi":
	default:
		return fmt.Errorf("there is no rpc %q", defaults.Rpc)
	}
	*s = step(defaults)
	return nil
}

// readPlan reads a JSON list of stages, which are lists of steps.
func readPlan(path string) ([][]step, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var stages [][]step
	if err := json.Unmarshal(text, &stages); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return stages, nil
}

// The time at which to cancel the call with this number; of those within a time, the golden ratio spreads them evenly.
func (s *step) cancelAfter(turn int64) *time.Duration {
	if s.CancelWithinMs != nil {
		_, part := math.Modf(float64(turn) * (math.Phi - 1))
		wait := time.Duration(part * float64(millis(*s.CancelWithinMs)))
		return &wait
	}
	if s.CancelAfterMs != nil {
		wait := millis(*s.CancelAfterMs)
		return &wait
	}
	return nil
}

func (s *step) method() string {
	if s.UnknownMethod {
		return "/" + service + "/Missing"
	}
	return "/" + service + "/" + s.Rpc
}

func (s *step) request() *echopb.Request {
	return &echopb.Request{
		Payload:        bytes.Repeat([]byte{0xab}, s.Payload),
		Requests:       s.Requests,
		ResponseSize:   s.ResponseSize,
		Responses:      s.Responses,
		Code:           s.Code,
		Detail:         s.Detail,
		Raises:         s.Raises,
		SleepMs:        s.SleepMs,
		SleepBetweenMs: s.SleepBetweenMs,
	}
}

func millis[N int64 | uint32](n N) time.Duration {
	return time.Duration(n) * time.Millisecond
}
