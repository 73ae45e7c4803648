//go:build tools

// Package operator pins an operator that the end-to-end tests run unmodified: its
// webhooks, its leader election and its custom resources were written years ago
// against client-go of that time.
package operator

import _ "github.com/kubeflow/training-operator/cmd/training-operator.v1"
