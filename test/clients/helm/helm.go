//go:build tools

// Package helm pins the Helm that the end-to-end tests run unmodified.
package helm

import _ "helm.sh/helm/v3/cmd/helm"
