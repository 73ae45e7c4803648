// Package apiserver is the Kubernetes API over HTTP: it finds out what a request
// asks for, who sent it and whether they may, decodes and encodes, and hands the
// work to package endpoint, which knows nothing of HTTP.
//
// It promises Kubernetes' wire behaviour (API v1.37): URLs, verbs, encodings,
// Status errors, warnings, watches, discovery. A request that is too large, too
// slow, malformed or one too many gets an error of the right kind; a panic in one
// request does not reach another. TLS and listening are the caller's.
package apiserver
