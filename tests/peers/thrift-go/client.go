package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"

	"github.com/apache/thrift/lib/go/thrift"
)

// Steps at the same time, each with a connection of its own.
type step struct {
	Calls [][]any `json:"calls"`
	Size  *int    `json:"size"`
}

func carryOut() error {
	if *tlsCA != "" {
		authority, err := os.ReadFile(*tlsCA)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(authority)
		secured = &tls.Config{RootCAs: roots}
	}
	text, err := os.ReadFile(*plan)
	if err != nil {
		return err
	}
	var stages [][]step
	if err := json.Unmarshal(text, &stages); err != nil {
		return err
	}
	for _, stage := range stages {
		failed := make([]error, len(stage))
		var all sync.WaitGroup
		for at, step := range stage {
			all.Go(func() { failed[at] = step.run() })
		}
		all.Wait()
		if err := errors.Join(failed...); err != nil {
			return err
		}
	}
	return record.write()
}

func (s step) run() error {
	size := 10
	if s.Size != nil {
		size = *s.Size
	}
	var connection connection
	for _, calls := range s.Calls {
		for range int(calls[1].(float64)) {
			if err := connection.call(calls[0].(string), size); err != nil {
				return err
			}
		}
	}
	return connection.close()
}

type connection struct {
	transport thrift.TTransport
	client    thrift.TClient
}

func (c *connection) open() error {
	if c.client != nil {
		return nil
	}
	at, err := address(*target)
	if err != nil {
		return err
	}
	transports, protocols := factories()
	var socket thrift.TTransport = thrift.NewTSocketFromAddrConf(at, nil)
	if secured != nil {
		socket = thrift.NewTSSLSocketConf(*target, &thrift.TConfiguration{TLSConfig: secured})
	}
	c.transport, err = transports.GetTransport(socket)
	if err != nil {
		return err
	}
	if err := c.transport.Open(); err != nil {
		return err
	}
	in := protocols.GetProtocol(c.transport)
	out := in
	if *multiplexed {
		out = thrift.NewTMultiplexedProtocol(in, "Shop")
	}
	c.client = thrift.NewTStandardClient(in, out)
	return nil
}

func (c *connection) close() error {
	if c.client == nil {
		return nil
	}
	c.client = nil
	return c.transport.Close()
}

// Calls the method that a name of the plan stands for, and records the outcome.
func (c *connection) call(name string, size int) error {
	if err := c.open(); err != nil {
		return err
	}
	method := name
	var arguments, result structure
	numbers := list{of: thrift.I32}
	switch name {
	case "add":
		arguments = structure{{thrift.I32, 1, int32(1)}, {thrift.I32, 2, int32(2)}}
	case "echo":
		arguments = structure{{thrift.STRING, 1, strings.Repeat("e", size)}}
	case "note":
		arguments = structure{{thrift.STRING, 1, strings.Repeat("n", size)}}
	case "order":
		arguments = structure{{thrift.STRUCT, 1, order(size)}}
	case "first":
		numbers.elements = []any{int32(3), int32(2), int32(1)}
		fallthrough
	case "none":
		method = "first"
		arguments = structure{{thrift.LIST, 1, numbers}}
	}
	var into thrift.TStruct = &result
	if name == "note" {
		into = nil
	}
	_, err := c.client.Call(context.Background(), method, &arguments, into)
	var exception thrift.TApplicationException
	switch {
	case errors.As(err, &exception):
		record.add(method, applicationException)
		return nil
	case err != nil:
		record.add(method, noReply)
		return c.close()
	case name == "note":
		record.add(method, oneway)
		return nil
	case len(result) > 0 && result[0].id != 0:
		record.add(method, declaredException)
		return nil
	case name == "echo" && !reflect.DeepEqual(result[0].value, arguments[0].value):
		return fmt.Errorf("echo returned %v", result)
	case name == "order" && len(result[0].value.(structure)) != len(arguments[0].value.(structure)):
		// Other languages have an order of their own in sets and maps.
		return fmt.Errorf("order returned %v", result)
	}
	record.add(method, ok)
	return nil
}

func order(size int) structure {
	items, byNumber := list{of: thrift.STRUCT}, dict{key: thrift.I32, value: thrift.STRUCT}
	for n := range size {
		item := structure{
			{thrift.I32, 1, int32(n)},
			{thrift.STRING, 2, strings.Repeat("i", 7)},
			{thrift.LIST, 3, list{thrift.DOUBLE, []any{1.5, 2.5}}},
			{thrift.BOOL, 4, true},
		}
		items.elements = append(items.elements, item)
		byNumber.entries = append(byNumber.entries, int32(n), item)
	}
	numbers := list{thrift.I32, []any{int32(1), int32(2), int32(3)}}
	places := dict{thrift.STRING, thrift.LIST, []any{"a", numbers, "b", list{of: thrift.I32}}}
	return structure{
		{thrift.LIST, 1, items},
		{thrift.MAP, 2, places},
		{thrift.SET, 3, list{thrift.STRING, []any{"x", "y"}}},
		{thrift.MAP, 4, byNumber},
		{thrift.I64, 5, int64(1) << 40},
		{thrift.I16, 6, int16(-5)},
		{thrift.BYTE, 7, int8(7)},
	}
}
