package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	connectrpc "connectrpc.com/connect"

	"observer.test/peer/echopb"
)

// protocolsOf is HTTP/1.1 or HTTP/2 without TLS, and nothing else.
func protocolsOf(kind string) *http.Protocols {
	protocols := new(http.Protocols)
	isHTTP1 := strings.Contains(kind, "http1")
	protocols.SetHTTP1(isHTTP1)
	protocols.SetUnencryptedHTTP2(!isHTTP1)
	return protocols
}

// serveWeb serves with connect-go, which answers Connect, gRPC-Web and gRPC. It prints as serve does.
func serveWeb(listen, kind string, truth *truth) error {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	e := &echo{truth: truth}
	path := func(method string) string { return "/" + service + "/" + method }
	idempotent := connectrpc.WithIdempotency(connectrpc.IdempotencyNoSideEffects)
	mux.Handle(path("Unary"), connectrpc.NewUnaryHandler(path("Unary"), e.webUnary, idempotent))
	mux.Handle(path("ServerStream"), connectrpc.NewServerStreamHandler(path("ServerStream"), e.webServerStream))
	mux.Handle(path("ClientStream"), connectrpc.NewClientStreamHandler(path("ClientStream"), e.webClientStream))
	mux.Handle(path("Bidi"), connectrpc.NewBidiStreamHandler(path("Bidi"), e.webBidi))
	server := &http.Server{Handler: mux, Protocols: protocolsOf(kind)}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	line, err := json.Marshal(map[string]any{"pid": os.Getpid(), "address": listener.Addr().String()})
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	go func() { _ = server.Serve(listener) }()
	<-terminated
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	_ = server.Shutdown(ctx)
	return nil
}

// webEnd is end, as an error of connect-go.
func webEnd(call *call, request *echopb.Request) error {
	if err := end(call, request); err != nil {
		if request.Raises {
			return err
		}
		return connectrpc.NewError(connectrpc.Code(request.Code), errors.New(request.Detail))
	}
	return nil
}

func (e *echo) webUnary(ctx context.Context, request *connectrpc.Request[echopb.Request]) (*connectrpc.Response[echopb.Response], error) {
	call := e.begin("Unary")
	defer e.truth.add(call)
	call.received(request.Msg)
	return webAnswer(ctx, call, request.Msg)
}

func webAnswer(ctx context.Context, call *call, request *echopb.Request) (*connectrpc.Response[echopb.Response], error) {
	if err := sleep(ctx, request.SleepMs); err != nil {
		return nil, err
	}
	if err := webEnd(call, request); err != nil {
		return nil, err
	}
	response := response(request)
	call.sent(response)
	return connectrpc.NewResponse(response), nil
}

func webRespond(ctx context.Context, call *call, request *echopb.Request, turn uint32, send func(*echopb.Response) error) error {
	for end := turn + request.Responses; turn < end; turn++ {
		wait := request.SleepMs
		if turn > 0 {
			wait = request.SleepBetweenMs
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		response := response(request)
		if err := send(response); err != nil {
			return err
		}
		call.sent(response)
	}
	return nil
}

func (e *echo) webServerStream(ctx context.Context, request *connectrpc.Request[echopb.Request], stream *connectrpc.ServerStream[echopb.Response]) error {
	call := e.begin("ServerStream")
	defer e.truth.add(call)
	call.received(request.Msg)
	if err := webRespond(ctx, call, request.Msg, 0, stream.Send); err != nil {
		return err
	}
	return webEnd(call, request.Msg)
}

func (e *echo) webClientStream(ctx context.Context, stream *connectrpc.ClientStream[echopb.Request]) (*connectrpc.Response[echopb.Response], error) {
	call := e.begin("ClientStream")
	defer e.truth.add(call)
	last := &echopb.Request{}
	for stream.Receive() {
		last = stream.Msg()
		call.received(last)
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	return webAnswer(ctx, call, last)
}

func (e *echo) webBidi(ctx context.Context, stream *connectrpc.BidiStream[echopb.Request, echopb.Response]) error {
	call := e.begin("Bidi")
	defer e.truth.add(call)
	last := &echopb.Request{}
	turn := uint32(0)
	for {
		request, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return webEnd(call, last)
		} else if err != nil {
			return err
		}
		last = request
		call.received(request)
		if err := webRespond(ctx, call, request, turn, stream.Send); err != nil {
			return err
		}
		turn += request.Responses
	}
}

// webOptions are the client's options for a kind of calls: "connect", "connect-json", "connect-get", "grpc-web". With
// "-plain", responses are not compressed.
func webOptions(kind string, step *step) []connectrpc.ClientOption {
	options := []connectrpc.ClientOption{}
	if step.Gzip {
		options = append(options, connectrpc.WithSendGzip())
	}
	for word := range strings.SplitSeq(kind, "-") {
		switch word {
		case "json":
			options = append(options, connectrpc.WithProtoJSON())
		case "get":
			options = append(options, connectrpc.WithHTTPGet(), connectrpc.WithIdempotency(connectrpc.IdempotencyNoSideEffects))
		case "plain":
			options = append(options, connectrpc.WithAcceptCompression("gzip", nil, nil))
		case "web":
			options = append(options, connectrpc.WithGRPCWeb())
		}
	}
	return options
}

// carryOutWeb carries out a plan with connect-go.
func carryOutWeb(target, planFile, kind string, truth *truth) error {
	stages, err := readPlan(planFile)
	if err != nil {
		return err
	}
	for _, stage := range stages {
		var steps sync.WaitGroup
		for i := range stage {
			steps.Go(func() { carryOutWebStep(target, kind, &stage[i], truth) })
		}
		steps.Wait()
	}
	return nil
}

func carryOutWebStep(target, kind string, step *step, truth *truth) {
	clients := make([]*connectrpc.Client[echopb.Request, echopb.Response], step.Connections)
	for i := range clients {
		transport := &http.Transport{Protocols: protocolsOf(kind)}
		defer transport.CloseIdleConnections()
		clients[i] = connectrpc.NewClient[echopb.Request, echopb.Response](
			&http.Client{Transport: transport}, "http://"+target+step.method(), webOptions(kind, step)...)
	}
	var turns atomic.Int64
	var workers sync.WaitGroup
	for range step.Concurrency {
		workers.Go(func() {
			for turn := turns.Add(1) - 1; turn < step.Count; turn = turns.Add(1) - 1 {
				makeWebCall(clients[turn%int64(len(clients))], step, turn, truth)
			}
		})
	}
	workers.Wait()
}

func makeWebCall(client *connectrpc.Client[echopb.Request, echopb.Response], step *step, turn int64, truth *truth) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if step.DeadlineMs != nil {
		ctx, cancel = context.WithTimeout(ctx, millis(*step.DeadlineMs))
		defer cancel()
	}
	if wait := step.cancelAfter(turn); wait != nil {
		defer time.AfterFunc(*wait, cancel).Stop()
	}
	call := newCall(step.method())
	defer truth.add(call)
	if err := webExchange(ctx, client, step, call); err != nil {
		call.Code = int(connectrpc.CodeOf(err))
	} else {
		call.Code = 0
	}
}

func webExchange(ctx context.Context, client *connectrpc.Client[echopb.Request, echopb.Response], step *step, call *call) error {
	request := step.request()
	switch step.Rpc {
	case "Unary":
		call.sent(request)
		response, err := client.CallUnary(ctx, connectrpc.NewRequest(request))
		if err == nil {
			call.received(response.Msg)
		}
		return err
	case "ServerStream":
		call.sent(request)
		stream, err := client.CallServerStream(ctx, connectrpc.NewRequest(request))
		if err != nil {
			return err
		}
		defer stream.Close()
		for stream.Receive() {
			call.received(stream.Msg())
		}
		return stream.Err()
	case "ClientStream":
		stream := client.CallClientStream(ctx)
		for range step.Requests {
			if err := stream.Send(request); err != nil {
				break
			}
			call.sent(request)
		}
		response, err := stream.CloseAndReceive()
		if err == nil {
			call.received(response.Msg)
		}
		return err
	}
	stream := client.CallBidiStream(ctx)
	for range step.Requests {
		if err := stream.Send(request); err != nil {
			break
		}
		call.sent(request)
	}
	_ = stream.CloseRequest()
	defer stream.CloseResponse()
	for {
		response, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		call.received(response)
	}
}
