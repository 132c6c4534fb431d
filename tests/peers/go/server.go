package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"observer.test/peer/echopb"
)

// Time for clients to close their connections once the server stops.
const grace = 2 * time.Second

// serve serves until SIGTERM; it prints one JSON line {"pid", "address"} when
// it listens.
func serve(listen string, netHTTP bool, maxConnectionAgeMs int64, blocks blocks, files *tlsFiles, truth *truth, told *told) error {
	security, err := files.server()
	if err != nil {
		return err
	}
	network, address := "tcp", listen
	path, unix := strings.CutPrefix(listen, "unix:")
	if unix {
		network, address = "unix", path
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	options := append(
		told.serverOptions(),
		grpc.MaxRecvMsgSize(math.MaxInt32),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.WaitForHandlers(true),
		// 0: never.
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: millis(maxConnectionAgeMs)}),
	)
	if security != nil && !netHTTP {
		options = append(options, grpc.Creds(files.credentials(security)))
	}
	server := grpc.NewServer(options...)
	server.RegisterService(&description, &echo{truth, blocks})
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	served := make(chan error, 1)
	stop, stopNow := server.GracefulStop, server.Stop
	if netHTTP {
		// HTTP/2 that is read by net/http.
		protocols := new(http.Protocols)
		protocols.SetUnencryptedHTTP2(security == nil)
		protocols.SetHTTP2(security != nil)
		by := &http.Server{Handler: server, Protocols: protocols, TLSConfig: security}
		accept := func() error { return by.Serve(listener) }
		if security != nil {
			accept = func() error { return by.ServeTLS(listener, "", "") }
		}
		stop = func() { by.Shutdown(context.Background()) }
		stopNow = func() { by.Close() }
		go func() {
			if err := accept(); err != http.ErrServerClosed {
				served <- err
			}
			served <- nil
		}()
	} else {
		go func() { served <- server.Serve(listener) }()
	}
	if !unix {
		listen = listener.Addr().String()
	}
	line, err := json.Marshal(map[string]any{"pid": os.Getpid(), "address": listen})
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	<-terminated
	timer := time.AfterFunc(grace, stopNow)
	defer timer.Stop()
	stop()
	return <-served
}

// What protoc-gen-go-grpc makes of the service.
var description = grpc.ServiceDesc{
	ServiceName: service,
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Unary",
		Handler: func(e any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			var request echopb.Request
			if err := decode(&request); err != nil {
				return nil, err
			}
			unary := func(ctx context.Context, request any) (any, error) {
				return e.(*echo).unary(ctx, request.(*echopb.Request))
			}
			if interceptor == nil {
				return unary(ctx, &request)
			}
			info := &grpc.UnaryServerInfo{Server: e, FullMethod: "/" + service + "/Unary"}
			return interceptor(ctx, &request, info, unary)
		},
	}},
	Streams: []grpc.StreamDesc{
		{
			StreamName:    "ServerStream",
			ServerStreams: true,
			Handler:       func(e any, stream grpc.ServerStream) error { return e.(*echo).serverStream(stream) },
		},
		{
			StreamName:    "ClientStream",
			ClientStreams: true,
			Handler:       func(e any, stream grpc.ServerStream) error { return e.(*echo).clientStream(stream) },
		},
		{
			StreamName:    "Bidi",
			ServerStreams: true,
			ClientStreams: true,
			Handler:       func(e any, stream grpc.ServerStream) error { return e.(*echo).bidi(stream) },
		},
	},
}

// echo does what each request asks for. A handler whose call ends under it leaves
// by the error that says so, its call's code unset; at a deadline grpc-go makes
// trailers of that, or resets the stream with CANCEL, whichever is first.
type echo struct {
	truth  *truth
	blocks blocks
}

// blocks is the time that each handler computes, or its thread sleeps, first.
type blocks struct {
	computesMs, sleepsMs int64
}

func (e *echo) begin(method string) *call {
	for until := time.Now().Add(millis(e.blocks.computesMs)); time.Now().Before(until); {
	}
	slept := syscall.NsecToTimespec(millis(e.blocks.sleepsMs).Nanoseconds())
	// A signal may end it early, which does no harm.
	_ = syscall.Nanosleep(&slept, nil)
	return newCall("/" + service + "/" + method)
}

func (e *echo) unary(ctx context.Context, request *echopb.Request) (*echopb.Response, error) {
	call := e.begin("Unary")
	defer e.truth.add(call)
	call.received(request)
	return answer(ctx, call, request)
}

func (e *echo) serverStream(stream grpc.ServerStream) error {
	call := e.begin("ServerStream")
	defer e.truth.add(call)
	var request echopb.Request
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	call.received(&request)
	if err := respond(stream, call, &request, 0); err != nil {
		return err
	}
	return end(call, &request)
}

func (e *echo) clientStream(stream grpc.ServerStream) error {
	call := e.begin("ClientStream")
	defer e.truth.add(call)
	last := &echopb.Request{}
	err := receive(stream, call, func(request *echopb.Request) error {
		last = request
		return nil
	})
	if err != nil {
		return err
	}
	response, err := answer(stream.Context(), call, last)
	if err != nil {
		return err
	}
	return stream.SendMsg(response)
}

func (e *echo) bidi(stream grpc.ServerStream) error {
	call := e.begin("Bidi")
	defer e.truth.add(call)
	last := &echopb.Request{}
	turn := uint32(0)
	err := receive(stream, call, func(request *echopb.Request) error {
		last = request
		err := respond(stream, call, request, turn)
		turn += request.Responses
		return err
	})
	if err != nil {
		return err
	}
	return end(call, last)
}

// receive hands on the requests up to the half-close.
func receive(stream grpc.ServerStream, call *call, each func(*echopb.Request) error) error {
	meant := uint64(1)
	for {
		request := &echopb.Request{}
		if err := stream.RecvMsg(request); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		meant = uint64(request.Requests)
		call.received(request)
		if err := each(request); err != nil {
			return err
		}
	}
	if call.Received < meant {
		// Some clients half-close a call before they reset it: the reset is on its way.
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	return nil
}

// respond sends the responses to a request, which is answered after `turn` others.
func respond(stream grpc.ServerStream, call *call, request *echopb.Request, turn uint32) error {
	for end := turn + request.Responses; turn < end; turn++ {
		wait := request.SleepMs
		if turn > 0 {
			wait = request.SleepBetweenMs
		}
		if err := sleep(stream.Context(), wait); err != nil {
			return err
		}
		response := response(request)
		if err := stream.SendMsg(response); err != nil {
			return err
		}
		call.sent(response)
	}
	return nil
}

// answer is the one response there is, unless the request says otherwise.
func answer(ctx context.Context, call *call, request *echopb.Request) (*echopb.Response, error) {
	if err := sleep(ctx, request.SleepMs); err != nil {
		return nil, err
	}
	if err := end(call, request); err != nil {
		return nil, err
	}
	response := response(request)
	call.sent(response)
	return response, nil
}

func response(request *echopb.Request) *echopb.Response {
	payload := make([]byte, request.ResponseSize)
	for i := range payload {
		payload[i] = 0xcd
	}
	return &echopb.Response{Payload: payload}
}

// end is the status that the request asks for. grpc-go lets a panic take the
// process with it; its own way to fail unnamed is an error that is no status.
func end(call *call, request *echopb.Request) error {
	if request.Raises {
		call.Code = int(codes.Unknown)
		return errors.New("the request said so")
	}
	call.Code = int(request.Code)
	return status.Error(codes.Code(request.Code), request.Detail)
}

// sleep fails when the call ends first.
func sleep(ctx context.Context, wait uint32) error {
	if wait == 0 {
		return nil
	}
	select {
	case <-time.After(millis(wait)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
