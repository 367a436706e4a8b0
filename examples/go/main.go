// Asks a rerankd server: JSON lines in, JSON lines out. The command line; the calls are in calls.go.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"
)

// options are what every call is made with.
type options struct {
	model       string
	deadline    time.Duration
	cancelAfter time.Duration // 0 for never
}

// call is the context of one call, begun now: its deadline, and its cancelling where that was asked for.
func (o options) call() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), o.deadline)
	if o.cancelAfter > 0 {
		time.AfterFunc(o.cancelAfter, cancel)
	}
	return ctx, cancel
}

func main() {
	var server address
	flag.StringVar(&server.target, "target", "localhost:50051", "host:port, or any name that gRPC resolves")
	flag.StringVar(&server.ca, "ca", "", "authorities to trust, in PEM; speaks TLS")
	flag.StringVar(&server.cert, "cert", "", "our certificate, in PEM, for mutual TLS")
	flag.StringVar(&server.key, "key", "", "our certificate's key, in PEM")
	flag.StringVar(&server.tokenFile, "token-file", "", "a file with the bearer token")
	model := flag.String("model", "", "a served name; the server's default without")
	deadline := flag.Int("deadline-ms", 10000, "milliseconds that a call may take")
	cancelAfter := flag.Int("cancel-after-ms", 0, "milliseconds after which a call is cancelled")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: run [flags] unary|stream|batch < lines.jsonl")
		flag.PrintDefaults()
	}
	flag.Parse()

	calls := map[string]func(client, options, []line, *printer){"unary": unary, "stream": stream, "batch": batch}
	run, known := calls[flag.Arg(0)]
	if !known || flag.NArg() != 1 {
		exit("give one of unary, stream and batch, after the flags")
	}
	if *deadline < 1 || *cancelAfter < 0 {
		exit("--deadline-ms must be at least 1, and --cancel-after-ms not negative")
	}
	lines, err := readLines(os.Stdin)
	if err != nil {
		exit(err.Error())
	}
	channel, err := dial(server)
	if err != nil {
		exit(err.Error())
	}
	defer channel.Close()
	out := newPrinter(os.Stdout)
	run(newClient(channel), options{
		model:       *model,
		deadline:    time.Duration(*deadline) * time.Millisecond,
		cancelAfter: time.Duration(*cancelAfter) * time.Millisecond,
	}, lines, out)
	if out.failed {
		os.Exit(1)
	}
}

// exit ends a program that was not told what to do.
func exit(sentence string) {
	fmt.Fprintln(os.Stderr, sentence)
	os.Exit(2)
}
