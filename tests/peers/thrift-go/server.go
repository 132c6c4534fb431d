package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/apache/thrift/lib/go/thrift"
)

func serve() error {
	at, err := address(*listen)
	if err != nil {
		return err
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	var socket listener = thrift.NewTServerSocketFromAddrTimeout(at, 0)
	if *tlsCert != "" {
		certificate, err := tls.LoadX509KeyPair(*tlsCert, *tlsKey)
		if err != nil {
			return err
		}
		conf := &tls.Config{Certificates: []tls.Certificate{certificate}}
		if socket, err = thrift.NewTSSLServerSocket(*listen, conf); err != nil {
			return err
		}
	}
	if err := socket.Listen(); err != nil {
		return err
	}
	name := *listen
	if at.Network() != "unix" {
		name = socket.Addr().String()
	}
	var processor thrift.TProcessor = handler{}
	if *multiplexed {
		several := thrift.NewTMultiplexedProcessor()
		several.RegisterProcessor("Shop", processor)
		processor = several
	}
	transports, protocols := factories()
	server := thrift.NewTSimpleServer4(processor, socket, transports, protocols)
	go server.Serve()
	if err := json.NewEncoder(os.Stdout).Encode(map[string]any{"pid": os.Getpid(), "address": name}); err != nil {
		return err
	}
	<-terminated
	return record.write()
}

// A server's socket, with or without TLS.
type listener interface {
	thrift.TServerTransport
	Addr() net.Addr
}

// What the generator writes, for all methods but `missing`.
type handler struct{}

func (handler) ProcessorMap() map[string]thrift.TProcessorFunction { return nil }

func (handler) AddToProcessorMap(string, thrift.TProcessorFunction) {}

func (handler) Process(ctx context.Context, in, out thrift.TProtocol) (bool, thrift.TException) {
	name, _, sequence, err := in.ReadMessageBegin(ctx)
	if err != nil {
		return false, thrift.WrapTException(err)
	}
	var arguments structure
	if err := arguments.Read(ctx, in); err != nil {
		return false, thrift.WrapTException(err)
	}
	if err := in.ReadMessageEnd(ctx); err != nil {
		return false, thrift.WrapTException(err)
	}
	kind := thrift.REPLY
	var result thrift.TStruct = &structure{}
	code := ok
	switch name {
	case "add":
		a, b := arguments[0].value.(int32), arguments[1].value.(int32)
		result = &structure{{thrift.I32, 0, a + b}}
	case "ping":
	case "echo", "order":
		result = &structure{{arguments[0].of, 0, arguments[0].value}}
	case "first":
		numbers := arguments[0].value.(list).elements
		if len(numbers) != 0 {
			result = &structure{{thrift.I32, 0, numbers[0]}}
			break
		}
		code = declaredException
		empty := structure{{thrift.STRING, 1, "no numbers"}}
		result = &structure{{thrift.STRUCT, 1, empty}}
	case "note":
		record.add(name, oneway)
		return true, nil
	case "crash":
		code, kind = applicationException, thrift.EXCEPTION
		result = thrift.NewTApplicationException(thrift.INTERNAL_ERROR, "Internal error")
	default:
		kind = thrift.EXCEPTION
		result = thrift.NewTApplicationException(thrift.UNKNOWN_METHOD, "Unknown function "+name)
	}
	if name != "missing" {
		record.add(name, code)
	}
	for _, step := range []func() error{
		func() error { return out.WriteMessageBegin(ctx, name, kind, sequence) },
		func() error { return result.Write(ctx, out) },
		func() error { return out.WriteMessageEnd(ctx) },
		func() error { return out.Flush(ctx) },
	} {
		if err := step(); err != nil {
			return false, thrift.WrapTException(err)
		}
	}
	return true, nil
}
