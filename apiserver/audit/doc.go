// Package audit records who asked the API for what, and what came of it, by
// Kubernetes' audit policy (audit.k8s.io/v1): as lines of JSON in a file that is
// rotated, or in batches to a webhook.
//
// It promises that a request that no rule covers costs one pass over the rules
// and nothing else; that a sink in batch mode never keeps a request waiting, but
// drops events beyond its buffer and counts them; and that in blocking mode the
// event is written before the answer is over.
package audit
