package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"proa/runtime/wire"
)

// wants is what a client asked to be connected with.
type wants struct{ in, out, err, tty bool }

// channels are a client's ends of a command, whatever protocol they come by; nil
// where the client has none.
type channels struct {
	in       io.Reader
	out, err io.Writer
	resize   io.Reader // sizes of its terminal, in JSON
	// status is where the client is told how the command ended: by a Status if
	// structured, else by a text if it failed.
	status     io.Writer
	structured bool
	end        func() error
}

func (c *channels) close() { _ = c.end() }

// stdio are the streams as the runtime takes them; sizes are read until ctx ends
// or the client goes.
func (c *channels) stdio(ctx context.Context, tty bool) stdio {
	std := stdio{in: c.in, out: c.out, tty: tty}
	if !tty {
		std.err = c.err
	}
	if c.resize == nil {
		return std
	}
	sizes := make(chan wire.Size)
	if tty {
		std.resize = sizes
	}
	go func() {
		defer close(sizes)
		if tty {
			readSizes(ctx, c.resize, sizes)
		}
		_, _ = io.Copy(io.Discard, c.resize) // what nobody takes would hold up all channels
	}()
	return std
}

// maxSize bounds what a client sends as its terminal's size, in bytes: a value that
// does not end would be kept whole.
const maxSize = 64 << 10

func readSizes(ctx context.Context, from io.Reader, to chan<- wire.Size) {
	limited := &io.LimitedReader{R: from}
	for decoder := json.NewDecoder(limited); ; {
		limited.N = maxSize
		var size remotecommand.TerminalSize
		if decoder.Decode(&size) != nil {
			return
		}
		select {
		case to <- wire.Size{Width: size.Width, Height: size.Height}:
		case <-ctx.Done():
			return
		}
	}
}

// tell sends how the command ended.
func (c *channels) tell(err error) {
	switch {
	case c.status == nil:
	case c.structured:
		if data, merr := json.Marshal(endStatus(err)); merr == nil {
			_, _ = c.status.Write(data) // nobody is left to tell otherwise
		}
	case err != nil:
		_, _ = io.WriteString(c.status, endStatus(err).Message) // likewise
	}
}

// endStatus is how clients are told an exit code or what went wrong.
func endStatus(err error) *metav1.Status {
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return &metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &exit):
		return &metav1.Status{Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: fmt.Sprint(exit.ExitStatus())}}}}
	}
	return &metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
		Message: fmt.Sprintf("Internal error occurred: %v", err)}
}
