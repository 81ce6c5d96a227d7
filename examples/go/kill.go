package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	mreleasev1 "mrelease.dev/examples/go/gen/mrelease/v1"
)

// kill has one process killed and its memory released, once, however often it has to ask.
//
// The first call signals nobody: it makes every check, and its answer says who exactly has that pid, on which node, in which boot. The second
// names all of that, so that it can be repeated: a pid that was given to another process, or another node at the address, is refused.
func kill(ctx context.Context, service mreleasev1.ReleaseServiceClient, process, requestID, reason string) (*mreleasev1.ReleaseResult, error) {
	target, err := parse(process)
	if err != nil {
		return nil, err
	}
	request := &mreleasev1.KillAndReleaseRequest{
		Target:       &mreleasev1.Target{Kind: &mreleasev1.Target_Process{Process: target}},
		Reason:       reason,
		ValidateOnly: true,
	}
	checked, err := retried(ctx, service, request)
	if err != nil {
		return nil, err
	}
	if requestID == "" {
		requestID = rand.Text()
	}
	fmt.Fprintf(os.Stderr, "request_id %s\n", requestID)
	request.Target.Kind = &mreleasev1.Target_Process{Process: checked.GetProcesses()[0].GetProcess()}
	request.Node = &mreleasev1.NodePrecondition{BootId: checked.GetNode().GetBootId()}
	request.RequestId = requestID
	request.ValidateOnly = false
	if deadline, ok := ctx.Deadline(); ok {
		// The agent answers HELD when this has passed. It is set once: the same request_id with another payload is refused.
		request.Timeout = durationpb.New(time.Until(deadline) * 8 / 10)
	}
	return retried(ctx, service, request)
}

// retried makes the same request again while the agent is not there or has no capacity, until ctx ends. With a request_id that is safe also
// where the request had arrived and only its answer was lost: the agent joins the operation, or repeats its result.
func retried(ctx context.Context, service mreleasev1.ReleaseServiceClient, request *mreleasev1.KillAndReleaseRequest) (*mreleasev1.ReleaseResult, error) {
	for attempt := 0; ; attempt++ {
		response, err := service.KillAndRelease(ctx, request)
		if err == nil {
			return response.GetResult(), nil
		}
		pause, again := retryAfter(err, attempt)
		if !again {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "%s\nagain in %v\n", explain(err), pause.Round(time.Millisecond))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

// watch follows an operation to its end. Leaving it does not stop the operation: once SIGKILL is out, nothing does.
func watch(ctx context.Context, service mreleasev1.ReleaseServiceClient, requestID string) (*mreleasev1.ReleaseResult, error) {
	stream, err := service.WatchRelease(ctx, &mreleasev1.WatchReleaseRequest{RequestId: requestID})
	if err != nil {
		return nil, err
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the stream ended without a result")
		}
		if err != nil {
			return nil, err
		}
		switch event := response.GetEvent().(type) {
		case *mreleasev1.WatchReleaseResponse_Progress:
			held, before := event.Progress.GetHeldBytes(), event.Progress.GetBeforeBytes()
			fmt.Fprintf(os.Stderr, "%d of %d bytes held\n", held, before)
		case *mreleasev1.WatchReleaseResponse_Result:
			return event.Result, nil
		}
	}
}

// parse reads PID or PID:INODE.
func parse(process string) (*mreleasev1.ProcessTarget, error) {
	number, inode, identified := strings.Cut(process, ":")
	target := &mreleasev1.ProcessTarget{}
	var err error
	if target.Pid, err = strconv.ParseInt(number, 10, 64); err == nil && identified {
		target.PidfdInode, err = strconv.ParseInt(inode, 10, 64)
	}
	if err != nil {
		return nil, fmt.Errorf("%q is not PID or PID:INODE", process)
	}
	return target, nil
}
