// Command mrelease-go kills a process on a node and prints the proof that its memory is back. Its only knowledge of mrelease is proto/.
//
//	go run . [flags] kill PID[:INODE]   kill it; INODE as `mrelease ps` shows it
//	go run . [flags] watch REQUEST_ID   follow a kill that somebody else has begun
//
// It exits with 0 where all memory is back, 3 where it is not, 1 where the agent refused or did not answer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	mreleasev1 "mrelease.dev/examples/go/gen/mrelease/v1"
)

var errUsage = errors.New("usage: go run . [flags] kill PID[:INODE] | watch REQUEST_ID")

func main() {
	var tls tlsFiles
	agent := flag.String("agent", "unix:///run/mrelease/agent.sock", "the agent: unix:///path, or host:port with mutual TLS")
	flag.StringVar(&tls.ca, "ca", "ca.crt", "authority that has issued the agent's certificate")
	flag.StringVar(&tls.cert, "cert", "client.crt", "certificate to show to the agent")
	flag.StringVar(&tls.key, "key", "client.key", "its key")
	patience := flag.Duration("deadline", 30*time.Second, "give up after this, retries included")
	requestID := flag.String("request-id", "", "name of the operation (default: a new one)")
	reason := flag.String("reason", "", "why, for the agent's audit log")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *patience)
	defer cancel()

	result, err := func() (*mreleasev1.ReleaseResult, error) {
		if flag.NArg() != 2 {
			return nil, errUsage
		}
		connection, err := connect(*agent, tls)
		if err != nil {
			return nil, err
		}
		defer connection.Close()
		service := mreleasev1.NewReleaseServiceClient(connection)
		switch command, argument := flag.Arg(0), flag.Arg(1); command {
		case "kill":
			return kill(ctx, service, argument, *requestID, *reason)
		case "watch":
			return watch(ctx, service, argument)
		}
		return nil, errUsage
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, explain(err))
		os.Exit(1)
	}
	show(result)
	if verdict := result.GetVerdict(); verdict != mreleasev1.Verdict_VERDICT_RELEASED && verdict != mreleasev1.Verdict_VERDICT_EXITED {
		os.Exit(3)
	}
}

// show says what became of each process, and of the whole: a process that keeps its memory is a result and no error.
func show(result *mreleasev1.ReleaseResult) {
	for _, process := range result.GetProcesses() {
		outcome := strings.TrimPrefix(process.GetOutcome().String(), "OUTCOME_")
		fmt.Printf("%d %q: %s, %d bytes back", process.GetProcess().GetPid(), process.GetCommand(), outcome, process.GetReleasedBytes())
		if took := process.GetReleaseDuration(); took != nil { // absent while the memory is not proven back
			fmt.Printf(" after %v", took.AsDuration().Round(time.Microsecond))
		}
		fmt.Println()
		if remedy := process.GetRemedy(); remedy != "" {
			fmt.Printf("  %s; %s\n", process.GetCause(), remedy)
		}
	}
	fmt.Printf("%s %d bytes on %s", strings.TrimPrefix(result.GetVerdict().String(), "VERDICT_"), result.GetReleasedBytes(), result.GetNode().GetName())
	if result.GetReplayed() {
		fmt.Print(" (by an earlier attempt)")
	}
	fmt.Println()
}
