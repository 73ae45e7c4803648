// Package structured builds authenticators and authorisers from Kubernetes'
// configuration files: AuthenticationConfiguration and AuthorizationConfiguration
// of apiserver.config.k8s.io
// (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#using-authentication-configuration,
// https://kubernetes.io/docs/reference/access-authn-authz/authorization/#using-configuration-file-for-authorization).
//
// A file is read again when it changes. A file that has become wrong is reported
// and the one before it stays in force; at the start it is an error. CEL, which
// is dear to set up, is only touched when there is a file.
package structured

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver/install"

	"proa/internal/filewatch"
)

// codecs decodes the files of all versions, strictly.
var codecs = sync.OnceValue(func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict)
})

// decode reads a file's only document into the internal version of T.
func decode[T runtime.Object](file string, data []byte) (none T, err error) {
	obj, gvk, err := codecs().UniversalDecoder().Decode(data, nil, nil)
	if err != nil {
		return none, fmt.Errorf("%s: %w", file, err)
	}
	got, ok := obj.(T)
	if !ok {
		return none, fmt.Errorf("%s holds a %s, not a %T", file, gvk, none)
	}
	return got, nil
}

// current is what was made of a file last.
type current[T any] struct {
	file  string
	build func(data []byte) (*T, error)
	log   *slog.Logger
	now   atomic.Pointer[T]
	read  []byte
}

func open[T any](file string, log *slog.Logger, build func(data []byte) (*T, error)) (*current[T], error) {
	c := &current[T]{file: file, build: build, log: log}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	made, err := build(data)
	if err != nil {
		return nil, err
	}
	c.read = data
	c.now.Store(made)
	return c, nil
}

// Run reads the file again whenever it changes, until ctx ends.
func (c *current[T]) Run(ctx context.Context) error {
	return filewatch.Watch(ctx, c.file, c.reload)
}

func (c *current[T]) reload() {
	data, err := os.ReadFile(c.file)
	if err == nil && string(data) == string(c.read) {
		return
	}
	var made *T
	if err == nil {
		made, err = c.build(data)
	}
	if err != nil {
		c.log.Error("a configuration file is wrong; what it said before stays in force", "file", c.file, "err", err)
		return
	}
	c.read = data
	c.now.Store(made)
	c.log.Info("a configuration file was read anew", "file", c.file)
}
