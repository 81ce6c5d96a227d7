package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// explain says what is wrong and what to do about it. Every error of an agent has one ErrorInfo; those without are gRPC's own.
func explain(err error) string {
	failure, ok := status.FromError(err)
	if !ok {
		return err.Error()
	}
	lines := []string{fmt.Sprintf("%s: %s", failure.Code(), failure.Message())}
	for _, detail := range failure.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			lines[0] = fmt.Sprintf("%s %s: %s", failure.Code(), detail.GetReason(), failure.Message())
			for _, key := range slices.Sorted(maps.Keys(detail.GetMetadata())) {
				lines = append(lines, fmt.Sprintf("  %s: %s", key, detail.GetMetadata()[key]))
			}
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				lines = append(lines, fmt.Sprintf("  %s: %s", violation.GetField(), violation.GetDescription()))
			}
		}
	}
	return strings.Join(lines, "\n")
}

// retryAfter tells whether the same call may succeed later, and how long to wait before it is made again.
func retryAfter(err error, attempt int) (time.Duration, bool) {
	failure := status.Convert(err)
	for _, detail := range failure.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return retry.GetRetryDelay().AsDuration(), true
		}
	}
	// Without details it is gRPC's: no connection, or one that was lost. Half of the pause is left to chance, so that a thousand callers of
	// an agent that comes back do not come at once.
	pause := min(200*time.Millisecond<<min(attempt, 5), 5*time.Second)
	return pause/2 + rand.N(pause/2), failure.Code() == codes.Unavailable
}
