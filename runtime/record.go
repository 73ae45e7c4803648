package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/runtime/wire"
)

// phase is how far the making of a sandbox or container has come. What is found
// as phaseMaking by New was interrupted and is taken down.
type phase string

const (
	phaseMaking  phase = "making"
	phaseCreated phase = "created" // containers only
	phaseRunning phase = "running" // sandboxes: ready
	phaseEnded   phase = "ended"   // containers: exited; sandboxes: not ready
)

// sandboxRecord is what is kept of a sandbox. Records are values: they are
// replaced, never changed.
type sandboxRecord struct {
	ID      string
	Phase   phase
	Created int64 // Unix time in ns
	Handler string
	Config  encoded[*runtimeapi.PodSandboxConfig]
	IPs     []netip.Addr `json:",omitempty"`
	// Shim and Pause are process IDs, good while the shim answers.
	Shim  int `json:",omitempty"`
	Pause int `json:",omitempty"`
}

// containerRecord is what is kept of a container.
type containerRecord struct {
	ID       string
	Sandbox  string
	Phase    phase
	Created  int64 // Unix times in ns, as are the others
	Started  int64 `json:",omitempty"`
	Finished int64 `json:",omitempty"`
	ExitCode int32 `json:",omitempty"`
	Reason   string
	Message  string
	Config   encoded[*runtimeapi.ContainerConfig]
	ImageID  string
	ImageRef string // the digest the image was pulled as, or its ID
	LogPath  string
	Stop     string // signal name from the image
	PID      int    `json:",omitempty"`
	Rootfs   wire.Rootfs
	Volumes  []wire.Volume `json:",omitempty"`
	// Process is what exec derives its processes from.
	Process *specs.Process
	User    *specs.User
	// Cgroup is the path below each hierarchy's root.
	Cgroup string
	// Resources are those in force, after updates.
	Resources encoded[*runtimeapi.LinuxContainerResources]
}

// encoded is a protobuf message that is kept in its binary form, which holds
// every byte of it, inside a JSON record.
type encoded[M proto.Message] struct{ M M }

func (e encoded[M]) MarshalJSON() ([]byte, error) {
	data, err := proto.Marshal(e.M)
	if err != nil {
		return nil, err
	}
	return json.Marshal(data)
}

func (e *encoded[M]) UnmarshalJSON(text []byte) error {
	var data []byte
	if err := json.Unmarshal(text, &data); err != nil {
		return err
	}
	var zero M
	e.M = zero.ProtoReflect().New().Interface().(M)
	return proto.Unmarshal(data, e.M)
}

func (r *Runtime) sandboxRecords() string   { return filepath.Join(r.cfg.Root, "sandboxes") }
func (r *Runtime) containerRecords() string { return filepath.Join(r.cfg.Root, "containers") }

func (r *Runtime) saveSandbox(rec sandboxRecord) error {
	return saveRecord(r.sandboxRecords(), rec.ID, rec)
}

func (r *Runtime) saveContainer(rec containerRecord) error {
	return saveRecord(r.containerRecords(), rec.ID, rec)
}

// saveRecord replaces a record whole. It is not synced: after a power cut
// nothing runs, and a lost record costs no more than an older one.
func saveRecord(dir, id string, rec any) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, id+".json")
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("keep a record: %w", err)
	}
	return os.Rename(path+".new", path)
}

func removeRecord(dir, id string) error {
	err := os.Remove(filepath.Join(dir, id+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// loadRecords reads a directory's records. Those that a power cut has torn, and
// unfinished writes, are removed: bad is called with their IDs.
func loadRecords[T any](dir string, each func(T), bad func(id string, err error)) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			_ = os.Remove(path)
			continue
		}
		var rec T
		data, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(data, &rec)
		}
		if err != nil {
			bad(id, err)
			_ = os.Remove(path)
			continue
		}
		each(rec)
	}
	return nil
}
