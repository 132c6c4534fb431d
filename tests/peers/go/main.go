// grpc-go server and client of the end-to-end tests: with the same plans and
// records as the other stacks' peers (see the `tests` crate).
//
//	peer server --listen ADDRESS --truth FILE
//	peer client --target ADDRESS --plan FILE --truth FILE
//
// With --tls-ca, --tls-cert and --tls-key they use TLS.
//
// With --told FILE, the library of --library is in the peer, and writes its metrics
// to FILE.
package main

import (
	"flag"
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("server or client?")
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	truthFile := flags.String("truth", "", "where to write what happened")
	listen := flags.String("listen", "", "server: ADDRESS:PORT (port 0: any) or unix:PATH")
	target := flags.String("target", "", "client: ADDRESS:PORT or unix:PATH")
	age := flags.Int64("max-connection-age-ms", 0, "server: after which it closes connections")
	blocks := blocks{}
	flags.Int64Var(&blocks.computesMs, "computes-ms", 0, "server: for which each handler computes first")
	flags.Int64Var(&blocks.sleepsMs, "sleeps-ms", 0, "server: for which each handler's thread sleeps first")
	netHTTP := flags.Bool("net-http", false, "server: let net/http read and write")
	// grpc-go's servers compress as their clients do.
	_ = flags.String("compression", "", "server: gzip")
	files := tlsFiles{}
	files.flags(flags)
	toldFile := flags.String("told", "", "where to write what libraries tell")
	library := flags.String("library", "", "middleware or otel")
	web := flags.String("web", "", "with connect-go; client: connect, connect-json, connect-get or grpc-web; with -http1 for HTTP/1.1")
	planFile := flags.String("plan", "", "client: a JSON list of stages, which are lists of steps")
	// ExitOnError: there is no error to return.
	_ = flags.Parse(os.Args[2:])
	truth := newTruth()
	told, err := newTold(*toldFile != "", os.Args[1] == "server", *library)
	if err != nil {
		log.Fatal(err)
	}
	switch {
	case *web != "" && os.Args[1] == "server":
		err = serveWeb(*listen, *web, truth)
	case *web != "":
		err = carryOutWeb(*target, *planFile, *web, truth)
	case os.Args[1] == "server":
		err = serve(*listen, *netHTTP, *age, blocks, &files, truth, told)
	case os.Args[1] == "client":
		err = carryOut(*target, *planFile, &files, truth, told)
	default:
		log.Fatalf("neither server nor client: %s", os.Args[1])
	}
	if err == nil {
		err = told.write(*toldFile)
	}
	if err == nil {
		err = truth.write(*truthFile)
	}
	if err != nil {
		log.Fatal(err)
	}
}
