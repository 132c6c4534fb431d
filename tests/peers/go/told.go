package main

import (
	"os"

	middleware "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"google.golang.org/grpc"
)

// told are the metrics of a library in a peer: the
// Prometheus provider of go-grpc-middleware, or OpenTelemetry's otelgrpc.
// A peer without one has none.
type told struct {
	// Otherwise it is the other one.
	otel bool

	registry *prometheus.Registry
	server   *middleware.ServerMetrics
	client   *middleware.ClientMetrics
	provider *metric.MeterProvider
}

func newTold(tells, serves bool, library string) (*told, error) {
	if !tells {
		return nil, nil
	}
	t := &told{otel: library == "otel", registry: prometheus.NewRegistry()}
	reader, err := exporter.New(
		exporter.WithRegisterer(t.registry),
		exporter.WithoutScopeInfo(),
		exporter.WithoutTargetInfo(),
	)
	if err != nil {
		return nil, err
	}
	t.provider = metric.NewMeterProvider(metric.WithReader(reader))
	if serves {
		t.server = middleware.NewServerMetrics(middleware.WithServerHandlingTimeHistogram())
		return t, t.registry.Register(t.server)
	}
	t.client = middleware.NewClientMetrics(middleware.WithClientHandlingTimeHistogram())
	return t, t.registry.Register(t.client)
}

func (t *told) serverOptions() []grpc.ServerOption {
	if t == nil {
		return nil
	}
	if t.otel {
		handler := otelgrpc.NewServerHandler(otelgrpc.WithMeterProvider(t.provider))
		return []grpc.ServerOption{grpc.StatsHandler(handler)}
	}
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(t.server.UnaryServerInterceptor()),
		grpc.StreamInterceptor(t.server.StreamServerInterceptor()),
	}
}

func (t *told) dialOptions() []grpc.DialOption {
	if t == nil {
		return nil
	}
	if t.otel {
		handler := otelgrpc.NewClientHandler(otelgrpc.WithMeterProvider(t.provider))
		return []grpc.DialOption{grpc.WithStatsHandler(handler)}
	}
	return []grpc.DialOption{
		grpc.WithUnaryInterceptor(t.client.UnaryClientInterceptor()),
		grpc.WithStreamInterceptor(t.client.StreamClientInterceptor()),
	}
}

// write writes it in the OpenMetrics text format.
func (t *told) write(path string) error {
	if t == nil {
		return nil
	}
	families, err := t.registry.Gather()
	if err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToOpenMetrics(file, family); err != nil {
			return err
		}
	}
	if _, err := expfmt.FinalizeOpenMetrics(file); err != nil {
		return err
	}
	return file.Close()
}
