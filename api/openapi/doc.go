// Package openapi describes the served API in OpenAPI v3, one document a group
// version, and in OpenAPI v2 (swagger), one document for all.
//
// The schemas of built-in kinds are data that Kubernetes' own generator reads
// out of the types' sources (see generate); what the registry serves decides
// which of them are in a document, and its rows make the paths. Custom
// resources bring their schemas in their rows.
//
// It promises that a document is always that of the registry as it is: nothing
// is told to it when rows come and go. Documents are made when first asked for
// and kept compressed; their hashes cost next to nothing.
package openapi

//go:generate go run ./generate
