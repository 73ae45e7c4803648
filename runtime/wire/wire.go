// Package wire is what the daemon and a pod's shim say to each other.
//
// One request a connection, over the shim's unix socket: a Request, then one or
// more Responses. Files travel with the message they belong to. A connection
// that closes early takes back what it asked for where that is possible: an
// exec'd process is killed, an attachment ends. Watch never ends by itself: it
// tells every container's state at once and then each change, and its end means
// that the shim is gone.
//
// Messages are JSON: libcontainer needs it anyway, so it costs the shim nothing.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Op names a request.
type Op string

const (
	OpPod    Op = "pod"    // set the sandbox up; the first request ever
	OpWatch  Op = "watch"  // container states, for as long as the connection lives
	OpStart  Op = "start"  // create and start a container
	OpSignal Op = "signal" // signal a container's first process; SIGKILL reaches all
	OpForget Op = "forget" // drop what is known about an exited container
	OpExec   Op = "exec"   // run a process in a container
	OpAttach Op = "attach" // join a container's streams
	OpResize Op = "resize" // set the size of a container's terminal
	OpReopen Op = "reopen" // open the log file anew
	OpUpdate Op = "update" // change a container's resources
	OpDial   Op = "dial"   // connect to a TCP port in the pod's network namespace
	OpQuit   Op = "quit"   // kill every container and end
)

// Request is the first message of a connection.
type Request struct {
	Op        Op                    `json:"op"`
	Container string                `json:"container,omitempty"`
	Pod       *Pod                  `json:"pod,omitempty"`
	Start     *Start                `json:"start,omitempty"`
	Exec      *Exec                 `json:"exec,omitempty"`
	Attach    *Attach               `json:"attach,omitempty"`
	Signal    int                   `json:"signal,omitempty"`
	Size      *Size                 `json:"size,omitempty"`
	Resources *specs.LinuxResources `json:"resources,omitempty"`
	Port      uint16                `json:"port,omitempty"`
}

// Pod is what the sandbox process needs to know of its pod.
type Pod struct {
	ID       string            `json:"id"`
	Dir      string            `json:"dir"` // state, cleared by a reboot
	Hostname string            `json:"hostname,omitempty"`
	Sysctls  map[string]string `json:"sysctls,omitempty"`
	Loopback bool              `json:"loopback,omitempty"` // the network namespace is the pod's own
	Pause    bool              `json:"pause,omitempty"`    // hold a PID namespace for the containers
}

// Start is a container to be. Spec comes without user, which the shim reads
// from the image's files, and with "" as the path of namespaces it shares with
// the shim.
type Start struct {
	Spec   *specs.Spec `json:"spec"`
	Rootfs Rootfs      `json:"rootfs"`
	// Volumes are images to mount; the mount of the Spec whose source is
	// VolumeSource(i) takes the i-th.
	Volumes []Volume `json:"volumes,omitempty"`
	User    User     `json:"user"`
	// Log is the path of the CRI log file; "" writes none.
	Log       string `json:"log,omitempty"`
	Stdin     bool   `json:"stdin,omitempty"`
	StdinOnce bool   `json:"stdinOnce,omitempty"`
}

// Rootfs is an overlay to mount at Path; without Lower, Path is used as it is.
type Rootfs struct {
	Path  string   `json:"path"`
	Lower []string `json:"lower,omitempty"` // top first
	Upper string   `json:"upper,omitempty"`
	Work  string   `json:"work,omitempty"`
}

// Volume is a directory of an image.
type Volume struct {
	Rootfs
	Sub string `json:"sub,omitempty"` // within the image; links do not lead out of it
}

// VolumeSource stands in a mount for where the shim mounts a volume.
func VolumeSource(i int) string { return "volume:" + strconv.Itoa(i) }

// User says who the process runs as. Name is "user", "user:group" or numbers,
// as images and Dockerfiles write it; UID and GID override it.
type User struct {
	Name   string  `json:"name,omitempty"`
	UID    *int64  `json:"uid,omitempty"`
	GID    *int64  `json:"gid,omitempty"`
	Groups []int64 `json:"groups,omitempty"`
	// Strict leaves out the groups that the image's /etc/group lists
	// (SupplementalGroupsPolicy, KEP-3619).
	Strict bool `json:"strict,omitempty"`
}

// Exec is a process to run in a container with the streams sent along, in the
// order stdin, stdout, stderr, each where its flag is set. With TTY none is
// sent: the terminal's end comes back with the first response. The second
// response is its end.
type Exec struct {
	Args   []string `json:"args"`
	TTY    bool     `json:"tty,omitempty"`
	Stdin  bool     `json:"stdin,omitempty"`
	Stdout bool     `json:"stdout,omitempty"`
	Stderr bool     `json:"stderr,omitempty"`
	// Process is the container's own, for its environment, user and rights.
	Process *specs.Process `json:"process"`
}

// Attach sends the files as Exec does. The response comes when it is over.
type Attach struct {
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
}

// Size is a terminal's.
type Size struct {
	Width  uint16 `json:"width"`
	Height uint16 `json:"height"`
}

// Response answers a request. Error is empty where all went well.
type Response struct {
	Error  string          `json:"error,omitempty"`
	Kind   ErrorKind       `json:"kind,omitempty"`
	Shim   int             `json:"shim,omitempty"`  // process ID
	Pause  int             `json:"pause,omitempty"` // process ID of the PID namespace's first process
	State  *ContainerState `json:"state,omitempty"`
	User   *specs.User     `json:"user,omitempty"`
	Exited bool            `json:"exited,omitempty"`
	Code   int             `json:"code,omitempty"`
}

// ErrorKind tells errors apart that the daemon answers differently.
type ErrorKind string

const (
	ErrNotFound   ErrorKind = "notFound"   // the shim does not know the container
	ErrNotRunning ErrorKind = "notRunning" // it is not running
)

// Error is a Response's error.
type Error struct {
	Kind ErrorKind
	Text string
}

func (e *Error) Error() string { return e.Text }

// Err returns the response's error or nil.
func (r *Response) Err() error {
	if r.Error == "" {
		return nil
	}
	return &Error{Kind: r.Kind, Text: r.Error}
}

// ContainerState is all that a shim remembers of a container for the daemon. It
// is also what lies in the run directory once the container has exited.
type ContainerState struct {
	ID        string    `json:"id"`
	PID       int       `json:"pid"`
	Started   time.Time `json:"started"`
	Exited    bool      `json:"exited,omitempty"`
	Finished  time.Time `json:"finished,omitzero"`
	Code      int       `json:"code,omitempty"` // 128+n for signal n
	OOMKilled bool      `json:"oomKilled,omitempty"`
	// User is whom the process started as.
	User *specs.User `json:"user,omitempty"`
}

// maxMessage bounds a message; a pod's arguments and environment are at most
// what the kernel takes for an execve.
const maxMessage = 16 << 20

// Conn sends and receives messages.
type Conn struct{ *net.UnixConn }

// Send writes a message and the files that belong to it.
func (c Conn) Send(v any, files ...*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	frame = append(frame, body...)
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(frame, rights, nil)
	if err == nil && n < len(frame) {
		_, err = c.Write(frame[n:])
	}
	return err
}

// Recv reads a message and the files that came with it, which the caller owns.
func (c Conn) Recv(v any) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			CloseAll(files)
			files = nil
		}
	}()
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := c.ReadMsgUnix(head[:], oob)
	if err != nil {
		return nil, err
	}
	if files, err = received(oob[:oobn]); err != nil {
		return files, err
	}
	if n == 0 {
		return files, io.EOF
	}
	if _, err := io.ReadFull(c, head[n:]); err != nil {
		return files, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxMessage {
		return files, fmt.Errorf("message of %d bytes: the limit is %d", size, maxMessage)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return files, err
	}
	return files, json.Unmarshal(body, v)
}

func received(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// CloseAll closes the files that are there.
func CloseAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// Streams hands out received files to the flags that announced them, in order.
func Streams(files []*os.File, flags ...bool) ([]*os.File, error) {
	out := make([]*os.File, len(flags))
	for i, set := range flags {
		if !set {
			continue
		}
		if len(files) == 0 {
			return nil, errors.New("fewer files than announced")
		}
		out[i], files = files[0], files[1:]
	}
	if len(files) > 0 {
		return nil, errors.New("more files than announced")
	}
	return out, nil
}
