//go:build tools

// Package conformance builds Kubernetes' own end-to-end tests, in a module of
// its own: nothing of k8s.io/kubernetes reaches the binary.
package conformance

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/images/agnhost"
)
