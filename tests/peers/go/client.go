package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	"observer.test/peer/echopb"
)

// Time for the server to start.
const connectLimit = 30 * time.Second

// carryOut carries out a plan: one stage after the other, a stage's steps at the same time.
func carryOut(target, planFile string, files *tlsFiles, truth *truth, told *told) error {
	stages, err := readPlan(planFile)
	if err != nil {
		return err
	}
	security, err := files.client()
	if err != nil {
		return err
	}
	for _, stage := range stages {
		failures := make([]error, len(stage))
		var steps sync.WaitGroup
		for i := range stage {
			steps.Go(func() { failures[i] = carryOutStep(target, security, &stage[i], truth, told) })
		}
		steps.Wait()
		if err := errors.Join(failures...); err != nil {
			return err
		}
	}
	return nil
}

// Each of `concurrency` goroutines makes one call after the other.
func carryOutStep(target string, security credentials.TransportCredentials, step *step, truth *truth, told *told) error {
	channels := make([]*grpc.ClientConn, step.Connections)
	for i := range channels {
		channel, err := connect(target, security, step, told)
		if err != nil {
			return err
		}
		defer channel.Close()
		channels[i] = channel
	}
	var turns atomic.Int64
	var workers sync.WaitGroup
	for range step.Concurrency {
		workers.Go(func() {
			for turn := turns.Add(1) - 1; turn < step.Count; turn = turns.Add(1) - 1 {
				makeCall(channels[turn%int64(len(channels))], step, turn, truth)
			}
		})
	}
	workers.Wait()
	return nil
}

func connect(target string, security credentials.TransportCredentials, step *step, told *told) (*grpc.ClientConn, error) {
	if !strings.HasPrefix(target, "unix:") {
		target = "passthrough:///" + target
	}
	// Calls fail at once, and are not repeated.
	retries := grpc.WithDisableRetry()
	if len(step.ServiceConfig) > 0 {
		retries = grpc.WithDefaultServiceConfig(string(step.ServiceConfig))
	}
	options := []grpc.CallOption{
		grpc.MaxCallRecvMsgSize(math.MaxInt32),
		grpc.MaxCallSendMsgSize(math.MaxInt32),
	}
	if step.Gzip {
		options = append(options, grpc.UseCompressor(gzip.Name))
	}
	dial := append(
		told.dialOptions(),
		grpc.WithTransportCredentials(security.Clone()),
		retries,
		grpc.WithDefaultCallOptions(options...),
	)
	// Another one than the tests' own is not asked.
	if os.Getenv("grpc_proxy") == "" {
		dial = append(dial, grpc.WithNoProxy())
	}
	channel, err := grpc.NewClient(target, dial...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectLimit)
	defer cancel()
	channel.Connect()
	for {
		state := channel.GetState()
		if state == connectivity.Ready {
			return channel, nil
		}
		if !channel.WaitForStateChange(ctx, state) {
			channel.Close()
			return nil, fmt.Errorf("connect to %s: still %v after %v", target, state, connectLimit)
		}
	}
}

func makeCall(channel *grpc.ClientConn, step *step, turn int64, truth *truth) {
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
	var err error
	if step.Rpc == "Unary" {
		err = unary(ctx, channel, step, call)
	} else {
		err = stream(ctx, cancel, channel, step, call)
	}
	call.Code = int(status.Code(err))
}

func unary(ctx context.Context, channel *grpc.ClientConn, step *step, call *call) error {
	request, response := step.request(), &echopb.Response{}
	call.sent(request)
	err := channel.Invoke(ctx, step.method(), request, response)
	if err == nil {
		call.received(response)
	}
	return err
}

func stream(ctx context.Context, cancel func(), channel *grpc.ClientConn, step *step, call *call) error {
	description := grpc.StreamDesc{ClientStreams: step.Rpc != "ServerStream", ServerStreams: step.Rpc != "ClientStream"}
	stream, err := channel.NewStream(ctx, &description, step.method())
	if err != nil {
		return err
	}
	// In lockstep: one for each response that is in; closed when no more are to come.
	answered := make(chan struct{}, uint64(step.Requests)*uint64(step.Responses))
	var writer sync.WaitGroup
	defer writer.Wait()
	// Flow control stops a writer whose responses are not read.
	writer.Go(func() { write(ctx, stream, step, call, answered) })
	defer close(answered)
	for {
		response := &echopb.Response{}
		err := stream.RecvMsg(response)
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		received := call.received(response)
		if !description.ServerStreams {
			// RecvMsg has waited for the status too.
			return nil
		}
		if step.CancelAfterMessages != nil && *step.CancelAfterMessages == received {
			cancel()
		} else if step.Lockstep {
			answered <- struct{}{}
		}
	}
}

// write sends the requests and the half-close; RecvMsg returns what prevents that.
func write(ctx context.Context, stream grpc.ClientStream, step *step, call *call, answered <-chan struct{}) {
	requests := step.Requests
	if step.Holds {
		requests--
	}
	if step.Rpc == "ServerStream" {
		requests = 1
	}
	for turn := range requests {
		for wait := uint32(0); step.Lockstep && turn > 0 && wait < step.Responses; wait++ {
			select {
			case _, open := <-answered:
				if !open {
					return
				}
			case <-ctx.Done():
				return
			}
		}
		request := step.request()
		if err := stream.SendMsg(request); err != nil {
			return
		}
		call.sent(request)
	}
	if ctx.Err() == nil && !step.Holds {
		_ = stream.CloseSend()
	}
}
