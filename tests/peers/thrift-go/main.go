// The Thrift server and client of the end-to-end tests, in Go. They take the arguments of ../thrift/server.py and
// ../thrift/client.py.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"log"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/apache/thrift/lib/go/thrift"
)

// As in observer-core/src/call/code.rs.
const (
	ok                   = 0
	declaredException    = 18
	applicationException = 19
	oneway               = 20
	noReply              = 21
)

var (
	listen      = flag.String("listen", "", "")
	target      = flag.String("target", "", "")
	plan        = flag.String("plan", "", "")
	truthFile   = flag.String("truth", "", "")
	protocol    = flag.String("protocol", "binary", "")
	transport   = flag.String("transport", "buffered", "")
	multiplexed = flag.Bool("multiplexed", false, "")
	tlsCert     = flag.String("tls-cert", "", "")
	tlsKey      = flag.String("tls-key", "", "")
	tlsCA       = flag.String("tls-ca", "", "")
)

// What a client needs for TLS; nil without it.
var secured *tls.Config

func main() {
	if err := flag.CommandLine.Parse(os.Args[2:]); err != nil {
		log.Fatal(err)
	}
	run := serve
	if os.Args[1] == "client" {
		run = carryOut
	}
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

// The factories of transports and protocols.
func factories() (thrift.TTransportFactory, thrift.TProtocolFactory) {
	inner := thrift.THeaderProtocolBinary
	if *protocol == "compact" {
		inner = thrift.THeaderProtocolCompact
	}
	// The outer transports set it for the socket, too.
	conf := &thrift.TConfiguration{THeaderProtocolID: &inner, TLSConfig: secured}
	var transports thrift.TTransportFactory
	switch *transport {
	case "header":
		return thrift.NewTHeaderTransportFactoryConf(nil, conf), thrift.NewTHeaderProtocolFactoryConf(conf)
	case "framed":
		transports = thrift.NewTFramedTransportFactoryConf(thrift.NewTTransportFactory(), conf)
	default:
		transports = thrift.NewTBufferedTransportFactory(4096)
	}
	if *protocol == "compact" {
		return transports, thrift.NewTCompactProtocolFactoryConf(conf)
	}
	return transports, thrift.NewTBinaryProtocolFactoryConf(conf)
}

func address(text string) (net.Addr, error) {
	if path, is := strings.CutPrefix(text, "unix:"); is {
		return net.ResolveUnixAddr("unix", path)
	}
	return net.ResolveTCPAddr("tcp", text)
}

// A peer's record of its calls. `tests/support/truth.rs` reads it.
type truth struct {
	mutex sync.Mutex
	calls map[ended]int
}

type ended struct {
	method string
	code   int
}

var record = truth{calls: map[ended]int{}}

func (t *truth) add(method string, code int) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if *multiplexed {
		method = "Shop:" + method
	}
	t.calls[ended{method, code}]++
}

func (t *truth) write() error {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	rows := []map[string]any{}
	for call, calls := range t.calls {
		row := map[string]any{"method": call.method, "code": call.code, "calls": calls}
		for _, sum := range []string{
			"sent", "received", "sent_bytes", "received_bytes", "most_sent", "most_received", "any_sent", "any_received",
		} {
			row[sum] = 0
		}
		rows = append(rows, row)
	}
	text, err := json.Marshal(map[string]any{"pid": os.Getpid(), "calls": rows})
	if err != nil {
		return err
	}
	return os.WriteFile(*truthFile, text, 0o644)
}
